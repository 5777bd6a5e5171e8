"""How much memory loading takes beyond the parameters themselves: python tests/models/measure_load.py --gib=2.

Writes a Llama of random bfloat16 weights in shards, loads it in a process of its own, and prints a JSON line:
`checkpoint_bytes`, `largest_tensor_bytes` and `parameter_bytes` (both in the dtype that is loaded), `peak_bytes` (of
the process, over what it held before), `over_parameters_bytes`, `over_largest_tensor` (the last over the largest
tensor), `seconds`. On a CPU the devices' shards are memory of the process, too.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np

SHARD_BYTES = 256 * 2**20
VOCABULARY, WIDTH, FFN, HEADS, KV_HEADS, HEAD = 65536, 2048, 8192, 16, 4, 128


def write(path: pathlib.Path, bytes_: int, vocabulary: int = VOCABULARY) -> None:
  """A checkpoint of about so many bytes, tensor by tensor; its largest tensor is the embedding."""
  from safetensors.numpy import save_file

  from medjax.models.config import ModelConfig
  from medjax.models.families import config_to_hf, tensor_slots

  of_block = 2 * (2 * WIDTH * HEAD * (HEADS + KV_HEADS) + 3 * WIDTH * FFN)
  layers = max(1, round((bytes_ - 2 * vocabulary * WIDTH) / of_block))
  config = ModelConfig(vocabulary, WIDTH, layers, HEADS, KV_HEADS, HEAD, FFN, tied_head=True)
  path.mkdir(parents=True)
  draw = np.random.default_rng(0)
  weight_map, shard, size = {}, {}, 0

  def save():
    name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
    save_file(shard, path / name, metadata={"format": "pt"})
    weight_map.update(dict.fromkeys(shard, name))
    shard.clear()

  for slot in tensor_slots(config):
    bits = draw.integers(0x3C00, 0x3D00, math.prod(slot.shape), np.uint16)  # small positive numbers
    shard[slot.tensor] = bits.view(ml_dtypes.bfloat16).reshape(slot.shape)
    size += bits.nbytes
    if size > SHARD_BYTES:
      save()
      size = 0
  save()
  (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
  (path / "config.json").write_text(json.dumps(config_to_hf(config)))


def memory(key: str) -> int:
  """`VmHWM` (peak) or `VmRSS` (now) of this process, in bytes."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{key}:"):
      return 1024 * int(line.split()[1])
  raise OSError(f"/proc/self/status has no {key}; this needs Linux")


def load(path: pathlib.Path, dtype: str) -> dict:
  """Loads over all devices, width cut over them, and tells what that took."""
  import jax

  from medjax.models.pretrained import load_config_and_tokenizer, load_pretrained
  from medjax.training import mesh

  devices = mesh.make_mesh({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})
  jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
  load_config_and_tokenizer(str(path))  # code is in memory: the compiler, transformers
  before = memory("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
  started = time.perf_counter()
  loaded = load_pretrained(str(path), dtype, lambda p: mesh.parameter_shardings(p, devices))
  jax.block_until_ready(loaded.params)
  seconds = time.perf_counter() - started
  parameters = sum(x.nbytes for x in jax.tree.leaves(loaded.params))
  largest = loaded.params["embed"]["embedding"].nbytes
  peak = memory("VmHWM") - before
  return {
    "checkpoint_bytes": sum(file.stat().st_size for file in path.glob("*.safetensors")),
    "dtype": dtype,
    "devices": devices.size,
    "largest_tensor_bytes": largest,
    "parameter_bytes": parameters,
    "peak_bytes": peak,
    "over_parameters_bytes": peak - parameters,
    "over_largest_tensor": round((peak - parameters) / largest, 3),
    "seconds": round(seconds, 2),
  }


def measure(path: pathlib.Path, dtype: str, devices: int) -> dict:
  """`load` in a process of its own with so many simulated devices."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, __file__, f"--load={path}", f"--dtype={dtype}"]
  return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint")
  parser.add_argument("--devices", type=int, default=1, help="simulated devices")
  parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
  parser.add_argument("--load", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.load:
    print(json.dumps(load(pathlib.Path(arguments.load), arguments.dtype)))
    return
  folder = pathlib.Path(tempfile.mkdtemp())
  try:
    write(folder / "model", int(arguments.gib * 2**30))
    print(json.dumps(measure(folder / "model", arguments.dtype, arguments.devices)))
  finally:
    shutil.rmtree(folder)


if __name__ == "__main__":
  main()
