"""Reads the text of a compiled program: its operations, how often each runs, what they compute and move.

A compiler's own cost analysis counts the body of a loop once. Here each operation is counted as often as the loops
around it turn, which is read from their conditions.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16, "s32": 32}
_BITS |= {"u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "f8e4m3fn": 8, "f8e5m2": 8}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class ArrayType:
  """dtype and shape of an array, and whether it lies in the chip's own memory and not in HBM."""

  dtype: str
  shape: tuple[int, ...]
  on_chip: bool

  @property
  def bytes(self) -> int:
    """Without padding."""
    return math.prod(self.shape) * _BITS[self.dtype] // 8


@dataclasses.dataclass(frozen=True)
class Op:
  """One operation: what it makes, from which others of its computation, and the rest of its line."""

  name: str
  kind: str
  arrays: tuple[ArrayType, ...]
  operands: tuple[str, ...]
  rest: str
  root: bool

  @property
  def bytes(self) -> int:
    """Of all that it makes."""
    return sum(array.bytes for array in self.arrays)

  def called(self, role: str = "calls") -> str | None:
    """The computation that it calls in a role."""
    return next((name for found, name in _CALLED.findall(self.rest) if found == role), None)


Computation = dict[str, Op]


class Step(NamedTuple):
  """An operation that runs: its computation, how often a step, and the computations that it is in, outermost first."""

  op: Op
  computation: Computation
  times: float
  path: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Program:
  """Computations by name, and the one that starts."""

  computations: dict[str, Computation]
  entry: str

  def executed(self, unknown: int = 1) -> Iterator["Step"]:
    """Operations in the order in which they run, fusions as one operation.

    Args:
      unknown: turns of an outermost loop whose number the program does not hold, since it is an argument: the loop over
        microbatches. Of others, such as those over blocks that attention may skip, the body counts once.
    """
    yield from self._executed((self.entry,), 1.0, unknown)

  def loop(self) -> "Program":
    """The body of the first loop of unknown length that starts with the program, as a program: one turn of it."""
    entry = self.computations[self.entry]
    loops = (op for op in entry.values() if op.kind == "while" and self.turns(op, entry) is None)
    return Program(self.computations, next(loops).called("body"))

  def _executed(self, path: tuple[str, ...], times: float, unknown: int) -> Iterator["Step"]:
    computation = self.computations[path[-1]]
    for op in computation.values():
      if op.kind == "while":
        turns = self.turns(op, computation)
        if turns is None:
          turns = unknown if len(path) == 1 else 1
        yield from self._executed((*path, op.called("body")), times * turns, unknown)
      elif op.kind in ("call", "conditional"):
        branches = [found for role, found in _CALLED.findall(op.rest) if role != "condition"]
        listed = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
        branches += re.findall(r"%([\w.\-]+)", listed[1]) if listed else []
        for branch in branches:
          yield from self._executed((*path, branch), times, unknown)
      yield Step(op, computation, times, path)

  def turns(self, loop: Op, around: Computation) -> int | None:
    """How often a loop turns; None where its bounds are computed."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
      return int(known[1])
    condition, body = (self.computations[loop.called(role)] for role in ("condition", "body"))
    start, root = around.get(loop.operands[0]), next(op for op in body.values() if op.root)
    if start is None or start.kind != "tuple" or root.kind != "tuple":
      return None

    def initial(index: int) -> int | None:
      return _constant(around, start.operands[index])

    def value(computation: Computation, name: str) -> int | None:
      """A constant, or what enters the loop and never changes."""
      op = _through(computation, name)
      if op is not None and op.kind == "get-tuple-element":
        index = _index(op)
        after = _through(body, root.operands[index])
        kept = after is not None and after.kind == "get-tuple-element" and _index(after) == index
        return initial(index) if kept else None
      return _constant(computation, name)

    compared = self._comparison(condition)
    if compared is None:
      return None
    direction, (left, right) = compared
    counter, limit = _through(condition, left), value(condition, right)
    if counter is None or counter.kind != "get-tuple-element" or limit is None:
      return None
    first, step = initial(_index(counter)), self._step(body, root, _index(counter), value)
    if first is None or not step:
      return None
    return max(0, math.ceil((limit - first + (1 if direction == "LE" else 0)) / step))

  def _comparison(self, condition: Computation) -> tuple[str, tuple[str, str]] | None:
    """(direction, operands) of the comparison that a loop ends with, also where it is inside a fusion."""
    root = next(op for op in condition.values() if op.root)
    if root.kind == "compare":
      return re.search(r"direction=(\w+)", root.rest)[1], root.operands[:2]
    inner = self.computations.get(root.called() or "")
    if root.kind != "fusion" or inner is None:
      return None
    found = self._comparison(inner)
    if found is None:
      return None
    numbers = [_parameter(inner, name) for name in found[1]]
    return None if None in numbers else (found[0], tuple(root.operands[number] for number in numbers))

  def _step(self, body: Computation, root: Op, index: int, value) -> int | None:
    """What a loop's counter grows by."""
    added = _through(body, root.operands[index])
    if added is not None and added.kind == "fusion":  # add(parameter, constant) inside
      inner = self.computations[added.called()]
      ends = next(op for op in inner.values() if op.root)
      return (
        next(filter(None, (_constant(inner, name) for name in ends.operands)), None) if ends.kind == "add" else None
      )
    if added is None or added.kind != "add":
      return None
    return next(filter(None, (value(body, name) for name in added.operands)), None)

  def inside(self, op: Op) -> Iterator[tuple[Op, Computation]]:
    """An operation with its computation; of a fusion, and of what starts one, all that it is made of."""
    name = op.called()
    for inner in self.computations.get(name or "", {}).values():
      yield inner, self.computations[name]
      yield from self.inside(inner)


def parse(text: str) -> Program:
  """The program of a module's text, as `compiled.as_text()` gives it."""
  computations: dict[str, Computation] = {}
  entry, current, held = "", None, ""

  def keep(line: str) -> None:
    if line and current is not None:
      op = _op(line)
      current[op.name] = op

  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header or line == "}":
      keep(held)
      held, current = "", None
      if header:
        current = computations.setdefault(header[2], {})
        entry = header[2] if header[1] else entry
    elif _INSTRUCTION.match(line):
      keep(held)
      held = line
    elif held:
      held += f" {line}"  # attributes of kernels go on over lines
  return Program(computations, entry)


def _op(line: str) -> Op:
  found = _INSTRUCTION.match(line)
  rest = line[found.end() :]
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
  made, rest = rest[:end], rest[end:].lstrip()
  kind, opened = rest.split("(", 1)
  close = _closing(rest, len(kind))
  operands = tuple(re.findall(r"%([\w.\-]+)", rest[len(kind) : close]))
  if kind in ("parameter", "constant"):
    rest, close = opened, -1
  return Op(found[2], kind, arrays_of(made), operands, rest[close + 1 :], bool(found[1]))


def arrays_of(text: str) -> tuple[ArrayType, ...]:
  """The arrays of a type; of a tuple all of them."""
  return tuple(
    ArrayType(dtype, tuple(int(size) for size in sizes.split(",") if size), "S(" in (layout or ""))
    for dtype, sizes, layout in _ARRAY.findall(text)
    if dtype in _BITS
  )


def _closing(text: str, start: int) -> int:
  depth = 0
  for place in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[place], 0)
    if depth == 0:
      return place
  return len(text)


def _through(computation: Computation, name: str) -> Op | None:
  """What a name stands for, behind copies."""
  op = computation.get(name)
  while op is not None and op.kind in ("copy", "bitcast", "convert") and op.operands:
    op = computation.get(op.operands[0])
  return op


def _constant(computation: Computation, name: str) -> int | None:
  op = _through(computation, name)
  found = re.match(r"(-?\d+)\)", op.rest) if op is not None and op.kind == "constant" else None
  return int(found[1]) if found else None


def _index(op: Op) -> int:
  return int(re.search(r"index=(\d+)", op.rest)[1])


def _parameter(computation: Computation, name: str) -> int | None:
  op = _through(computation, name)
  return int(op.rest.split(")")[0]) if op is not None and op.kind == "parameter" else None


def product_flops(op: Op, computation: Computation) -> int:
  """FLOPs of a `dot` or `convolution`, a multiply and an add being two; products with padding do not count."""
  if op.kind not in ("dot", "convolution"):
    return 0
  out = op.arrays[0].shape
  if op.kind == "dot":
    left = computation[op.operands[0]].arrays[0].shape
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)[1]
    return 2 * math.prod(out) * math.prod(left[int(axis)] for axis in axes.split(",") if axis)
  left, right = (computation[name].arrays[0].shape for name in op.operands[:2])
  in_labels, kernel_labels, out_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest).groups()
  window = re.search(r"window=\{([^}]*)\}", op.rest)
  given = dict(item.split("=") for item in window[1].split()) if window else {}
  total = 2 * out[out_labels.index("b")] * out[out_labels.index("f")] * right[kernel_labels.index("i")]
  for axis in range(len(out) - 2):
    label = str(axis)
    settings = {key: text.split("x")[axis] for key, text in given.items()}
    low = int(settings.get("pad", "0_0").split("_")[0])
    numbers = (int(settings.get(key, 1)) for key in ("stride", "lhs_dilate", "rhs_dilate"))
    sizes = left[in_labels.index(label)], right[kernel_labels.index(label)], out[out_labels.index(label)]
    total *= _taps(*sizes, low, *numbers)
  return total


@functools.cache
def _taps(size: int, kernel: int, out: int, low: int, stride: int, dilated: int, spread: int) -> int:
  """(output position, kernel position) pairs along one axis that meet an element and no padding."""
  at = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * spread - low
  return int(((at >= 0) & (at % dilated == 0) & (at // dilated < size)).sum())
