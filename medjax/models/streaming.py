"""Tensors from files to where they live, a piece at a time: the host holds a few pieces and never a model."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.models.lora import Params
from medjax.models.slots import Index, Slot, whole

PIECE_BYTES = 8 * 2**20  # of the target, read and sent at once
_READERS = 2  # threads; each has a piece in hand

Path = tuple[str, ...]
# (path, layer or None, parameter) -> what is kept in its place, by path. Of a stacked parameter one layer, [1, ...].
Finish = Callable[[Path, int | None, jax.Array], dict[Path, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Weights:
  """Tensors of a model's files: `slots` says what there is and where it belongs, `read` gives parts of it."""

  where: str
  slots: list[Slot]
  read: Callable[[str, Index], np.ndarray]


def assemble(
  weights: Weights,
  dtype: np.dtype,
  shardings: Any = None,
  finish: Finish | None = None,
  advance: Callable[[int, int], None] = lambda done, total: None,
) -> Params:
  """Reads every parameter into the tree; each process reads the parts that its own devices hold.

  Args:
    weights: the files.
    dtype: of the parameters.
    shardings: None for the default device; a tree of Sharding like the parameters'; or a function that takes the tree
      of ShapeDtypeStruct and gives that tree.
    finish: what becomes of each parameter, layer by layer: no more than one layer is held as it was read.
    advance: told how many tensors (or parts of fused ones) of how many are read.
  """
  grouped: dict[Path, list[Slot]] = {}
  for slot in weights.slots:
    grouped.setdefault(slot.path, []).append(slot)
  shapes = {path: _shape(slots) for path, slots in grouped.items()}
  if callable(shardings):
    shardings = shardings(nested({path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()}))
  found: dict[Path, jax.Array] = {}
  done = 0
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    for path, slots in grouped.items():
      if shardings is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      else:
        sharding = functools.reduce(lambda tree, key: tree[key], path, shardings)
      if finish is None:
        found[path] = _parameter(weights.read, slots, shapes[path], dtype, sharding, pool)
      else:
        for slot in slots:
          alone = slot if slot.layer is None else dataclasses.replace(slot, layer=0)
          x = _parameter(weights.read, [alone], _shape([alone]), dtype, sharding, pool)
          for kept_path, kept in finish(path, slot.layer, x).items():
            found[kept_path] = (
              kept if slot.layer is None else _stacked(found.get(kept_path), kept, slot.layer, len(slots))
            )
      done += len(slots)
      advance(done, len(weights.slots))
  return nested(found)


def _stacked(stack: jax.Array | None, x: jax.Array, layer: int, layers: int) -> jax.Array:
  """The stack of all layers with one layer written into it."""
  if stack is None:
    stack = jax.jit(lambda: jnp.zeros((layers, *x.shape[1:]), x.dtype), out_shardings=x.sharding)()
  return _written(stack, x, np.array([layer] + [0] * (x.ndim - 1), np.int32))


def nested(flat: dict[Path, Any]) -> dict[str, Any]:
  """A tree of dicts from values by path."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    inner = tree
    for key in path[:-1]:
      inner = inner.setdefault(key, {})
    inner[path[-1]] = value
  return tree


def _shape(slots: list[Slot]) -> tuple[int, ...]:
  return slots[0].target if slots[0].layer is None else (len(slots), *slots[0].target)


def _parameter(read, slots: list[Slot], shape, dtype, sharding, pool) -> jax.Array:
  """One parameter; devices that hold the same part of it get copies of one buffer."""
  devices_of: dict[Any, list[jax.Device]] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
    devices_of.setdefault(bounds, []).append(device)
  buffers = []
  for bounds, (first, *others) in devices_of.items():
    buffer = _part(read, slots, bounds, dtype, first, pool)
    buffers += [buffer, *(jax.device_put(buffer, device) for device in others)]
  return jax.make_array_from_single_device_arrays(shape, sharding, buffers)


def _part(read, slots: list[Slot], bounds, dtype, device: jax.Device, pool) -> jax.Array:
  """The part of a parameter within `bounds`: a buffer on the device, into which pieces are written in place."""

  def load(piece: tuple[Slot, Index, tuple[int, ...]]):
    slot, index, at = piece
    in_file, turn = slot.part(index)
    # The view goes to the device as it is: JAX turns it on the way, much faster than NumPy.
    values = turn(read(slot.tensor, in_file))
    return jax.device_put(values if slot.layer is None else values[None], device), np.asarray(at, np.int32)

  with jax.set_mesh(jax.sharding.Mesh([device], ("one",))):  # whatever mesh is in use
    buffer = jnp.zeros([stop - start for start, stop in bounds], dtype, device=device)
    for values, at in _ahead(pool, load, _pieces(slots, bounds, dtype.itemsize)):
      buffer = _written(buffer, values, at).block_until_ready()  # or pieces would pile up behind the device
  return buffer


@functools.partial(jax.jit, donate_argnums=0)
def _written(buffer, values, at):
  """The buffer with `values` in their place; as integers, since XLA:CPU rewrites all of a bfloat16 buffer otherwise."""
  kind = f"uint{8 * buffer.dtype.itemsize}"
  bits, new = (jax.lax.bitcast_convert_type(x, kind) for x in (buffer, values.astype(buffer.dtype)))
  return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(bits, new, tuple(at)), buffer.dtype)


def _pieces(slots: list[Slot], bounds, itemsize: int) -> Iterator[tuple[Slot, Index, tuple[int, ...]]]:
  """(slot, part of its parameter, where that goes in the buffer) of a device's part, in pieces of `PIECE_BYTES`."""
  for slot in slots:
    parts = bounds
    if slot.layer is not None:
      (first, last), parts = bounds[0], bounds[1:]
      if not first <= slot.layer < last:
        continue
    axis = slot.row_axis
    start, stop = parts[axis]
    others = int(np.prod([b - a for place, (a, b) in enumerate(parts) if place != axis], dtype=np.int64))
    step = max(1, PIECE_BYTES // max(1, others * itemsize))
    for begin in range(start, stop, step):
      end = min(begin + step, stop)
      index = tuple(slice(begin, end) if place == axis else slice(*part) for place, part in enumerate(parts))
      at = tuple(begin - start if place == axis else 0 for place in range(len(parts)))
      yield slot, index, at if slot.layer is None else (slot.layer - bounds[0][0], *at)


def _ahead(pool, function, items: Iterable[Any]) -> Iterator[Any]:
  """`function` of each item in order, computed in the pool a few items ahead."""
  waiting: collections.deque = collections.deque()
  with contextlib.closing(iter(items)) as items:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > _READERS:
        yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def same_values(read, first: str, second: str, shape: tuple[int, ...]) -> bool:
  """Whether two tensors hold the same numbers, compared a few rows at a time."""
  rows = max(1, PIECE_BYTES // max(1, 4 * int(np.prod(shape[1:], dtype=np.int64))))
  for begin in range(0, shape[0], rows):
    index = (slice(begin, min(begin + rows, shape[0])), *whole(shape[1:]))
    if not np.array_equal(read(first, index), read(second, index)):
      return False
  return True
