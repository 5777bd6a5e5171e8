"""The one mesh of a run, and where the state and the batch live on it."""

import math
import os
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax import config as schema
from medjax.data.packing import TILE
from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.sharding import AXES, BATCH, parameter_specs
from medjax.models.sharding import place as place  # what has a sharding of this module is placed with it


def make_mesh(sizes: dict[str, int], devices: list | None = None) -> Mesh:
  """A mesh over all devices with the axes `data, fsdp, tensor, sequence`.

  Args:
    sizes: size of each axis; one may be -1, which stands for the devices that are left.
    devices: the devices to use, all by default.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  known = int(np.prod([size for size in sizes.values() if size != -1]))
  shape = [sizes[axis] if sizes[axis] != -1 else max(1, len(devices) // known) for axis in AXES]
  if int(np.prod(shape)) != len(devices):
    wanted = ", ".join(f"mesh.{axis}={sizes[axis]}" for axis in AXES)
    raise UserError(f"{wanted} does not divide {len(devices)} devices; set one axis to -1 or change the sizes")
  return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def compute_dtype(name: str) -> str:
  """Returns the compute dtype that `model.dtype` stands for: `auto` is float32 on a CPU, bfloat16 on a TPU or GPU."""
  if name != "auto":
    return name
  return "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"


def with_compute_dtype(config: Any) -> Any:
  """Returns the run's config with `model.dtype` resolved."""
  return schema.with_overrides(config, {"model.dtype": compute_dtype(config.model.dtype)})


def check_divides(config: ModelConfig, mesh: Mesh, microbatch_rows: int = 0) -> None:
  """Raises UserError where a dimension of the model or the batch does not divide over its mesh axes.

  Args:
    config: shape of the model.
    mesh: the devices.
    microbatch_rows: rows of a microbatch, 0 for one on each device.
  """
  sizes = {
    "fsdp": {"the model's width": config.width},
    "tensor": {
      "the model's query heads": config.num_heads,
      "the model's key-value heads": config.num_kv_heads,
      "the model's ffn width": config.ffn_width,
      "the model's vocabulary": config.vocab_size,
    },
  }
  for axis, dimensions in sizes.items():
    for what, size in dimensions.items():
      if size % mesh.shape[axis]:
        common = math.gcd(mesh.size, *dimensions.values())
        fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise UserError(
          f"{what} ({size}) does not divide by mesh.{axis} = {mesh.shape[axis]}; "
          f"on {mesh.size} devices mesh.{axis} may be one of {fits}"
        )
  if microbatch_rows % batch_multiple(mesh):
    raise UserError(
      f"train.microbatch_rows = {microbatch_rows} does not divide over the {batch_multiple(mesh)} devices of the "
      f"mesh's data and fsdp axes; make it a multiple of {batch_multiple(mesh)}, or 0 for one row on each device"
    )


WEIGHTS_SHARE = 0.5  # of a device's memory: the rest is for caches and activations


def for_inference(devices: Mesh, config: ModelConfig, weight_bytes: int, memory: float, decodes: bool) -> Mesh:
  """The devices of a run's mesh, laid out for weights that stay as they are: none is gathered where they have room.

  Each token that is decoded reads all weights: as many devices as its heads allow share them (`tensor`). Label scoring
  reads them once for thousands of tokens: they are cut no further than they must be, and rows go to all devices.

  Args:
    devices: the mesh of the config; `sequence` is kept where labels are scored.
    config: shape of the model.
    weight_bytes: of all weights, as they are kept.
    memory: bytes of a device.
    decodes: whether tokens come one at a time; devices that would share a row then take rows of their own.

  Returns:
    The mesh. Where weights have no room even so they stay cut over `fsdp`, and a line of the log says so.
  """
  sequence = 1 if decodes else devices.shape["sequence"]
  count = devices.size // sequence
  shared = math.gcd(count, config.num_heads, config.num_kv_heads, config.ffn_width, config.vocab_size)
  sizes = [size for size in range(1, shared + 1) if shared % size == 0]
  most = WEIGHTS_SHARE * memory
  tensor = shared if decodes else next((size for size in sizes if weight_bytes / size <= most), shared)
  rest = count // tensor
  fsdp = rest if rest > 1 and weight_bytes / tensor > most else 1
  if fsdp > 1:
    logging.warning(
      "%.1f GiB of weights have no room on devices of %.1f GiB, cut over tensor = %d: they are gathered over fsdp = %d "
      "for every %s, which is slow; use devices with more memory",
      *(weight_bytes / 2**30, memory / 2**30, tensor, fsdp, "token" if decodes else "batch"),
    )
  laid_out = {"data": rest // fsdp, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
  return make_mesh(laid_out, devices.devices.flatten().tolist())


def memory_of(mesh: Mesh) -> float:
  """Bytes that a program may use of each device of this process; CPU devices share the machine's memory."""
  device = mesh.local_devices[0]
  limit = (device.memory_stats() or {}).get("bytes_limit")
  return limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(mesh.local_devices)


def batch_multiple(mesh: Mesh) -> int:
  """Rows of a microbatch must be a multiple of this."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def rows_here(mesh: Mesh, rows: int) -> frozenset[int]:
  """Which of a microbatch's rows are on devices of this process."""
  cut = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
  return frozenset(row for (part,) in cut for row in range(rows)[part])


def row_tile(mesh: Mesh) -> int:
  """The length of a row is a multiple of so many tokens, which divide over the devices that share a row."""
  return math.lcm(TILE, mesh.shape["sequence"])


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
  """Rows over `data` and `fsdp`, after `leading` axes that are not sharded."""
  return NamedSharding(mesh, P(*(None,) * leading, BATCH))


def parameter_shardings(params: Any, mesh: Mesh) -> Any:
  """Where each parameter lives, in a tree of the same structure."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), parameter_specs(params, mesh), is_leaf=lambda x: isinstance(x, P)
  )
