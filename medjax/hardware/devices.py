"""Peak rates of accelerators, as their makers publish them."""

# Dense bfloat16 FLOP/s of what JAX calls one device, by `device_kind`. Sources: cloud.google.com/tpu/docs/v4, /v5e,
# /v5p, /v6e and /tpu7x ("peak compute per chip"; of v7 a device is half a chip), and NVIDIA's data sheets of A100, L4,
# H100, H200 and B200 (tensor cores without sparsity, SXM).
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU7x": 1153.5e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA L4": 121e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of a device; None where it is not in the table, as for CPUs."""
  return PEAK_FLOPS.get(device_kind)
