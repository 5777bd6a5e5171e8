"""Which examples make which optimizer step, as a function of seed and step; and their packed rows, ahead of need."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from medjax.data.examples import Segments
from medjax.data.packing import (
  TILE,
  Batch,
  RowShape,
  assign_rows,
  check_groups,
  fill_rows,
  plain_tokens,
  row_tokens,
  shape_of,
)


@dataclasses.dataclass(frozen=True)
class StepBatch:
  """What one optimizer step reads.

  Attributes:
    batches: microbatches stacked on a leading axis, [M, R, ...].
    used: how many of the M hold anything.
    tokens: real tokens as the plain layout counts them: a prompt with each of its answers.
    padded_share: share of the computed positions that hold no token.
    ids: ids of the examples, for messages.
  """

  batches: Batch
  used: int
  tokens: int
  padded_share: float
  ids: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(size)


def planned_steps(config, examples: int) -> int:
  """Optimizer steps of a run on so many examples: `train.steps`, or what `train.epochs` makes of them."""
  return config.train.steps or max(1, round(config.train.epochs * examples / config.train.batch_size))


def seen(config, examples: int) -> list[int]:
  """Indices of the examples that a run reads at all, ascending: in its steps it may not come to all of them."""
  most = planned_steps(config, examples) * config.train.batch_size
  return sorted(_permutation(config.seed, 0, examples)[:most].tolist())


class StepShape(NamedTuple):
  """Shape of a step's batch: M microbatches of rows of one shape."""

  microbatches: int
  row: RowShape

  @property
  def cost(self) -> int:
    """Tokens of one row of each microbatch."""
    return self.microbatches * self.row.tokens

  def union(self, other: "StepShape") -> "StepShape":
    """The least shape that holds what either holds."""
    return StepShape(max(self.microbatches, other.microbatches), self.row.union(other.row))

  def holds(self, other: "StepShape") -> bool:
    """Whether what has the other shape fits."""
    return self.union(other) == self


def few_shapes(needed: Iterable[StepShape], most: int = 4, worth: int = 30_000) -> list[StepShape]:
  """A few shapes that hold all that is needed with little padding, the cheapest first.

  Neighbours are merged, those that add the least padding first, until there are at most `most` and each spares at
  least `worth` tokens of a row over the run: less is not worth compiling a program for.
  """
  of_size: dict[tuple[int, int], tuple[StepShape, int]] = {}
  for shape in needed:
    key = shape.microbatches, shape.row.tokens
    known, count = of_size.get(key, (shape, 0))
    of_size[key] = known.union(shape), count + 1
  kept = [of_size[key] for key in sorted(of_size)]
  while len(kept) > 1:
    added = []
    for (one, count), (other, more) in itertools.pairwise(kept):
      both = one.union(other)
      added.append(count * (both.cost - one.cost) + more * (both.cost - other.cost))
    at = min(range(len(added)), key=added.__getitem__)
    if len(kept) <= most and added[at] >= worth:
      break
    (one, count), (other, more) = kept[at : at + 2]
    kept[at : at + 2] = [(one.union(other), count + more)]
  return sorted((shape for shape, _ in kept), key=lambda shape: (shape.cost, shape))


@dataclasses.dataclass(frozen=True)
class Plan:
  """The batches of a run. Nothing is remembered between steps: `plan[step]` needs the step alone.

  Examples are taken in the order of one permutation after another, a new one each epoch, `batch_size` for each step.
  Batches have one of a few shapes, which are chosen for the lengths of all steps.

  Attributes:
    groups: the examples or pairs.
    steps: optimizer steps of the run.
    seed: of the permutations.
    batch_size: groups of a step, over all devices.
    row_length: most tokens of a row.
    microbatch_rows: rows computed at once, a multiple of `multiple`; 0 for one on each device.
    multiple: how many devices share a microbatch's rows (`mesh.check_divides` refuses what does not fit).
    tile: tokens that the length of a row is a multiple of.
    reference_logp: float32 [examples, branches], or None.
    shared: whether the completions of a group share its prompt; else it is computed with each, for comparison.
    here: the rows of a microbatch that this process feeds (`mesh.rows_here`); others stay empty. None for all.
  """

  groups: Sequence[Segments]
  steps: int
  seed: int
  batch_size: int
  row_length: int
  microbatch_rows: int = 0
  multiple: int = 1
  tile: int = TILE
  reference_logp: np.ndarray | None = None
  shared: bool = True
  here: Collection[int] | None = None

  def __post_init__(self):
    check_groups(self.groups, self.row_length, self.shared)

  def indices(self, step: int) -> list[int]:
    """Dataset indices of a step's examples."""
    size = len(self.groups)
    places = range(step * self.batch_size, (step + 1) * self.batch_size)
    return [int(_permutation(self.seed, place // size, size)[place % size]) for place in places]

  @property
  def rows(self) -> int:
    """Rows of a microbatch."""
    return self.microbatch_rows or self.multiple

  @functools.cached_property
  def shapes(self) -> list[StepShape]:
    """The shapes of batches that this run compiles a step for, the cheapest first."""
    return few_shapes(self._needed(*self._assigned(step)[1:]) for step in range(self.steps))

  def _assigned(self, step: int) -> tuple[list[int], list[Segments], list[list[int]]]:
    """(dataset indices, groups, rows) of a step."""
    indices = self.indices(step)
    members = [self.groups[index] for index in indices]
    return indices, members, assign_rows(members, self.row_length, self.rows, self.shared)

  def _needed(self, members: list[Segments], assignment: list[list[int]]) -> StepShape:
    return StepShape(len(assignment) // self.rows, shape_of(members, assignment, self.tile, self.shared))

  def shape(self, step: int) -> StepShape:
    """Shape of a step's batch: the cheapest that holds it."""
    needed = self._needed(*self._assigned(step)[1:])
    return next(shape for shape in self.shapes if shape.holds(needed))

  def __getitem__(self, step: int) -> StepBatch:
    indices, members, assignment = self._assigned(step)
    needed = self._needed(members, assignment)
    M, row = next(shape for shape in self.shapes if shape.holds(needed))
    own = [held if self.here is None or at % self.rows in self.here else [] for at, held in enumerate(assignment)]
    flat = fill_rows(members, indices, own, row, M * self.rows, self.shared)
    if self.reference_logp is not None:
      branch_N = np.arange(row.sequences) % self.reference_logp.shape[1]
      known_BN = self.reference_logp[flat.example, branch_N]
      flat = flat._replace(reference_logp=np.where(flat.example >= 0, known_BN, 0.0).astype(np.float32))
    return StepBatch(
      batches=Batch(*(array.reshape(M, self.rows, *array.shape[1:]) for array in flat)),
      used=needed.microbatches,
      tokens=sum(map(plain_tokens, members)),
      padded_share=1.0
      - sum(row_tokens(group, self.shared) for group in members) / (needed.microbatches * self.rows * row.tokens),
      ids=tuple(group.id for group in members),
    )

  def iterate(self, start: int) -> Iterator[StepBatch]:
    """The batches from step `start` on, made in a thread a few steps ahead."""
    steps = grain.MapDataset.range(start, self.steps).map(self.__getitem__)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
