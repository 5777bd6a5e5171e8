"""What a compiled program costs a device each step: products, traffic to memory, cycles, and what devices send."""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from medjax.hardware.program_text import Computation, Op, Program, product_flops

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# Operations that move nothing themselves.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call")
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind, array and place in a program.

  Attributes:
    kind: of `KINDS`; an all-reduce of which each device keeps a slice is a reduce-scatter.
    axis: the mesh axes that are summed or gathered over, joined by a comma.
    dtype: of what is sent.
    shape: of its result; of several arrays the first.
    bytes: that a device sends a step.
    count: how often a step.
    source: where in the traced step it is from.
  """

  kind: str
  axis: str
  dtype: str
  shape: tuple[int, ...]
  bytes: float
  count: float
  source: str


@dataclasses.dataclass(frozen=True)
class Costs:
  """What a device does in a step.

  Attributes:
    product_flops: of matrix products, recomputed ones with them, kernels of our own not.
    read_bytes: read from HBM.
    memory_bytes: read from and written to HBM.
    cycles: the compiler's own estimates, summed; 0 where it makes none.
    collectives: what is sent.
    kernels: custom kernels (Pallas) and how often each runs.
  """

  product_flops: float
  read_bytes: float
  memory_bytes: float
  cycles: float
  collectives: tuple[Collective, ...]
  kernels: dict[str, float]


def costs_of(program: Program, mesh: dict[str, int], unknown: int = 1) -> Costs:
  """Adds up a program.

  Args:
    program: as it is compiled for a device.
    mesh: axis -> devices, in the mesh's order.
    unknown: see `Program.executed`.
  """
  flops = read = written = cycles = 0.0
  kernels: collections.Counter[str] = collections.Counter()
  seen: set[tuple[str, str]] = set()
  found = []
  for op, computation, times, path in program.executed(unknown):
    products = [(op, computation), *program.inside(op)]
    flops += times * sum(product_flops(one, around) for one, around in products)
    moved = _memory(program, op, computation)
    read, written = read + times * moved[0], written + times * moved[1]
    estimated = re.search(r'"estimated_cycles":"(\d+)"', op.rest)
    cycles += times * int(estimated[1]) if estimated else 0
    if 'custom_call_target="tpu_custom_call"' in op.rest:
      kernels[re.sub(r"[.\d]+$", "", op.name)] += times
    for one, around in products:
      kind = one.kind.removesuffix("-start")
      if kind not in KINDS:
        continue
      channel = re.search(r"channel_id=(\d+)", one.rest)
      same = f"{channel[1]} {one.arrays[-1].shape}" if channel else one.name
      # The parts of an asynchronous one repeat it inside fusions, also in loops that run while it is under way.
      if one is op or not any((place, same) in seen for place in path):
        seen.add((path[-1], same))
        found.append(_collective(kind, one, around, mesh, times))
  return Costs(flops, read, read + written, cycles, tuple(one for one in found if one.bytes), dict(kernels))


def _collective(kind: str, op: Op, computation: Computation, mesh: dict[str, int], times: float) -> Collective:
  arrays, members = op.arrays, members_of(op.rest, math.prod(mesh.values()))
  if op.kind == "collective-permute-start":
    arrays = arrays[:1]
  elif op.kind in ("all-gather-start", "reduce-scatter-start", "all-to-all-start"):
    arrays = arrays[len(arrays) // 2 :]  # behind the operands
  size, n = sum(array.bytes for array in arrays), len(members)
  users = [other for other in computation.values() if op.name in other.operands]
  if kind == "all-reduce" and users and all(user.kind == "dynamic-slice" for user in users):
    kind = "reduce-scatter"
    size //= n
  sent = {
    "all-reduce": 2 * size * (n - 1) / n,
    "reduce-scatter": size * (n - 1),
    "collective-permute": size if n > 1 else 0,
  }.get(kind, size * (n - 1) / n)
  source = re.search(r'op_name="([^"]*)"', op.rest)
  axis = ",".join(axes_of(members, mesh))
  shape, dtype = (arrays[0].shape, arrays[0].dtype) if arrays else ((), "")
  return Collective(kind, axis, dtype, shape, times * sent, times, source[1] if source else "")


def members_of(text: str, devices: int) -> tuple[int, ...]:
  """The devices that exchange with the first one, itself with them; of permutations all that a ring reaches."""
  pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", text)
  if pairs:
    follows = {int(a): int(b) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])}
    start = next((source for source, target in follows.items() if source != target), 0)
    found = [start]
    while (after := follows.get(found[-1])) is not None and after not in found:
      found.append(after)
    return tuple(sorted(found))
  ids = np.arange(devices)
  named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\([\d,]*\))?)\))? *\{([^}]*)\}", text)
  if named:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    within = re.findall(r"'([^']+)'", named[3])
    grid = _ordered(ids, named[2] or "").reshape([int(size) for size in sizes.values()])
    return tuple(sorted(grid[tuple(slice(None) if axis in within else 0 for axis in sizes)].reshape(-1).tolist()))
  iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text)
  if iota:
    return tuple(sorted(_ordered(ids, iota[3])[: int(iota[2])].tolist()))
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
  return tuple(sorted(int(x) for x in listed[1].split(","))) if listed else tuple(range(devices))


def _ordered(ids: np.ndarray, order: str) -> np.ndarray:
  """Device ids in an order given as sizes, and how the axes of that size change places (`[16,16]T(1,0)`)."""
  found = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order)
  if not found:
    return ids
  ids = ids.reshape([int(x) for x in found[1].split(",")])
  return (ids.transpose([int(x) for x in found[2].split(",")]) if found[2] else ids).reshape(-1)


def axes_of(members: Sequence[int], mesh: dict[str, int]) -> list[str]:
  """The axes of a mesh on which some devices differ."""
  places = np.stack(np.unravel_index(np.array(members), tuple(mesh.values())))
  return [axis for axis, along in zip(mesh, places, strict=True) if len(set(along.tolist())) > 1]


def _memory(program: Program, op: Op, computation: Computation) -> tuple[int, int]:
  """Bytes that an operation reads from HBM, and writes there."""
  if op.kind in _FREE or op.kind.endswith("-done"):
    return 0, 0
  inner = program.computations.get(op.called() or "")
  total = 0
  for number, name in enumerate(op.operands):
    made = computation.get(name)
    for array in made.arrays[:1] if made is not None else ():
      if not array.on_chip:
        total += array.bytes if inner is None else _read(program, inner, number, array.bytes)
  if op.kind == "dynamic-update-slice":
    return (computation[op.operands[1]].bytes,) * 2
  if op.kind in _SLICES:
    return op.bytes, op.bytes
  if inner is None:
    return total, sum(array.bytes for array in op.arrays if not array.on_chip)
  return total, _written(inner, op)


def _read(program: Program, inner: Computation, number: int, whole: int) -> int:
  """Bytes of a fusion's operand that it reads: slices of it, where it takes no more."""
  parameter = next(
    (one for one in inner.values() if one.kind == "parameter" and int(one.rest.split(")")[0]) == number), None
  )
  if parameter is None:
    return 0
  total, names = 0, [parameter.name]
  while names:
    name = names.pop()
    for user in (one for one in inner.values() if name in one.operands):
      if user.kind == "bitcast":
        names.append(user.name)
      elif user.kind in _SLICES and user.operands[0] == name:
        total += user.bytes
      elif user.kind == "dynamic-update-slice" and user.operands[0] == name:
        continue  # written in place
      elif user.kind == "fusion":
        total += _read(program, program.computations[user.called()], user.operands.index(name), whole)
      else:
        return whole
  return min(total, whole)


def _written(inner: Computation, op: Op) -> int:
  """Bytes that a fusion writes: of an array that it changes in place the part that changes."""
  root = next(one for one in inner.values() if one.root)
  made = [inner.get(name) for name in root.operands] if root.kind == "tuple" else [root]
  total = 0
  for array, one in zip(op.arrays, made, strict=False):
    while one is not None and one.kind == "bitcast":
      one = inner.get(one.operands[0])
    if array.on_chip:
      continue
    in_place = one is not None and one.kind == "dynamic-update-slice"
    total += inner[one.operands[1]].bytes if in_place else array.bytes
  return total
