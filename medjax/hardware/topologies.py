"""Machines that a program can be compiled for without having one: names, sizes, and what their chips can do.

A topology is a family of chips and how many stand along each axis of their network. Peak FLOP/s are in
`hardware.devices`; what else a chip can do is here, as its maker publishes it, and nothing is fitted to measurements.
"""

import dataclasses
import difflib
import math
import os
import re
from typing import Any

from medjax.errors import UserError
from medjax.hardware.devices import peak_flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What is published of a device: of what JAX counts as one, which is a chip, of v7 half a chip.

  Attributes:
    device_kind: JAX's name, key of `devices.PEAK_FLOPS`.
    hbm_bytes: what the compiler lets a program use (of TPUs read from its own refusals), else the device's memory.
    hbm_bandwidth: bytes a second.
    links: network ports of a device.
    link_bandwidth: bytes a second that one of them sends; as many arrive at the same time.
    multiplier: multiply-adds a cycle of its matrix units; with the peak it gives the clock that cycles are counted in.
  """

  device_kind: str
  hbm_bytes: float
  hbm_bandwidth: float
  links: int
  link_bandwidth: float
  multiplier: int | None = None

  @property
  def flops(self) -> float:
    """Dense bfloat16 FLOP/s."""
    return peak_flops(self.device_kind)

  @property
  def clock(self) -> float | None:
    """Cycles a second, from the peak and the size of the matrix units; None where the compiler counts no cycles."""
    return self.flops / (2 * self.multiplier) if self.multiplier else None


# Bandwidths: cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x, which give the network of a chip in both
# directions together; NVIDIA's data sheet of H100 SXM (3.35 TB/s; NVLink 900 GB/s in both directions, 18 links).
# Matrix units: the same pages (v4 to v5p four of 128 x 128, v4 and v5p in each of two cores; v6e two of 256 x 256).
# Of v7 they are not published: twice v6e's number a chip, as its clock then is near those of the others.
CHIPS = {
  "v4": Chip("TPU v4", 30.75 * GIB, 1228e9, 6, 50e9, 8 * 128**2),
  "v5e": Chip("TPU v5 lite", 15.75 * GIB, 819e9, 4, 50e9, 4 * 128**2),
  "v5p": Chip("TPU v5", 95.74 * GIB, 2765e9, 6, 100e9, 8 * 128**2),
  "v6e": Chip("TPU v6 lite", 31.25 * GIB, 1640e9, 4, 100e9, 4 * 256**2),
  "tpu7x": Chip("TPU7x", 94.75 * GIB, 3690e9, 6, 50e9, 4 * 256**2),
  "h100": Chip("NVIDIA H100 80GB HBM3", 84929347584, 3352e9, 18, 25e9),
}
_GPU_NETWORK = 50e9  # a GPU of a DGX H100: 400 Gb/s, by its data sheet
EXAMPLES = ("v5e:4x4", "v5p:2x2x2", "v6e:16x16", "v4:2x2x4", "tpu7x:2x2x1", "h100:1x1x8", "v5litepod-16", "v5p-8")

# Chips -> how they stand, as the cloud sells them.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
# The cloud's prefix -> (family, shapes, cores a chip that its names count).
_CLOUD = {
  "v5litepod": ("v5e", _FLAT, 1),
  "v5e": ("v5e", _FLAT, 1),
  "v6e": ("v6e", _FLAT, 1),
  "v4": ("v4", _CUBES, 2),
  "v5p": ("v5p", _CUBES, 2),
}
# What the GPU's compiler is told of a device that is not there.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 28 patch: 1 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
  """A machine: its chips, and how many along each axis of the network (of GPUs: slices, hosts, GPUs of a host)."""

  family: str
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """As the compiler has it."""
    return f"{self.family}:{'x'.join(map(str, self.shape))}"

  @property
  def chip(self) -> Chip:
    """What its devices can do."""
    return CHIPS[self.family]

  @property
  def chips(self) -> int:
    """How many it has."""
    return math.prod(self.shape)

  @property
  def interconnect(self) -> tuple[float, float]:
    """Bytes a second that a device can send, at worst and at best.

    Of a TPU one ring in both directions, or all links that lead to another chip of the slice: two along an axis, one
    where it has two chips. Of GPUs NVLink within a host; over hosts the slowest link decides.
    """
    if self.family == "h100":
      rate = self.chip.links * self.chip.link_bandwidth if self.shape[0] * self.shape[1] == 1 else _GPU_NETWORK
      return rate, rate
    links = min(self.chip.links, sum(min(size, 3) - 1 for size in self.shape))
    return min(max(links, 1), 2) * self.chip.link_bandwidth, max(links, 1) * self.chip.link_bandwidth


def parse(name: str) -> Topology:
  """The topology that the compiler (`v5e:4x4`) or the cloud (`v5litepod-16`, `v5p-8`) calls so.

  Raises:
    UserError: no such family, or no such number of chips.
  """
  cloud = re.fullmatch(r"([a-z0-9]+)-(\d+)", name)
  if cloud and cloud[1] in _CLOUD:
    family, shapes, cores = _CLOUD[cloud[1]]
    chips, rest = divmod(int(cloud[2]), cores)
    if rest or chips not in shapes:
      known = ", ".join(f"{cloud[1]}-{cores * size}" for size in shapes)
      raise UserError(f"--topology {name} is none of {known}; of others give the shape, such as {family}:2x4")
    return Topology(family, tuple(map(int, shapes[chips].split("x"))))
  family, _, shape = name.partition(":")
  if family not in CHIPS:
    near = difflib.get_close_matches(name, EXAMPLES, 1)
    hint = f"did you mean {near[0]}?" if near else f"names are like {', '.join(EXAMPLES)}"
    raise UserError(f"--topology {name!r} is of no known family ({', '.join(CHIPS)}); {hint}")
  axes = 2 if family in ("v5e", "v6e") else 3
  if not re.fullmatch(r"x".join([r"[1-9]\d*"] * axes), shape):
    of_family = next(example for example in EXAMPLES if example.startswith(family))
    raise UserError(f"--topology {name!r} needs {axes} sizes after {family}:, such as {of_family}")
  return Topology(family, tuple(map(int, shape.split("x"))))


def compile_devices(topology: Topology) -> list[Any]:
  """Devices that programs can be compiled for but not run on; this process itself stays on its CPU.

  Raises:
    UserError: the compiler is not installed, or knows no such machine.
  """
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # another plan may run beside this one
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  import jax
  from jax.experimental import topologies

  jax.config.update("jax_platforms", "cpu")
  if topology.family == "h100":
    settings = {"platform": "cuda", "topology_name": "h100", "topology": topology.name.partition(":")[2]}
    settings["target_config"], extra = _H100, "cuda13"
  else:
    settings, extra = {"platform": "tpu", "topology_name": topology.name}, "plan"
    if topology.chips == 1:
      settings["chips_per_host_bounds"] = (1, 1, 1)
    if topology.family == "v4":
      settings["chip_config_name"] = "megacore"  # both cores of a chip as one device
  try:
    return list(topologies.get_topology_desc(**settings).devices)
  except (RuntimeError, NotImplementedError, ValueError, FileNotFoundError) as error:
    if _missing(topology.family):
      raise UserError(f"the compiler for {topology.family} is not installed: pip install 'medjax[{extra}]'") from None
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"the compiler knows no machine {topology.name} ({reason}); names are like v5e:4x4") from None


def _missing(family: str) -> bool:
  """Whether the package with a family's compiler is missing."""
  import importlib.util

  if family == "h100":
    return not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
  return importlib.util.find_spec("libtpu") is None
