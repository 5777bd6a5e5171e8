"""Which examples make which optimizer step, as a function of seed and step; and their packed rows, ahead of need."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from medjax.data.examples import Segments
from medjax.data.packing import Batch, RowShape, assign_rows, fill_rows, plain_tokens, row_tokens


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


@dataclasses.dataclass(frozen=True)
class Plan:
  """The batches of a run. Nothing is remembered between steps: `plan[step]` needs the step alone.

  Examples are taken in the order of one permutation after another, a new one each epoch, `batch_size` for each step.

  Attributes:
    groups: the examples or pairs.
    steps: optimizer steps of the run.
    seed: of the permutations.
    batch_size: groups of a step, over all devices.
    shape: shape of a packed row.
    microbatch_rows: rows computed at once, a multiple of `multiple`; 0 for all rows of a step.
    multiple: how many devices share a microbatch's rows (`mesh.check_divides` refuses what does not fit).
    reference_logp: float32 [examples, branches], or None.
  """

  groups: Sequence[Segments]
  steps: int
  seed: int
  batch_size: int
  shape: RowShape
  microbatch_rows: int = 0
  multiple: int = 1
  reference_logp: np.ndarray | None = None

  def indices(self, step: int) -> list[int]:
    """Dataset indices of a step's examples."""
    size = len(self.groups)
    places = range(step * self.batch_size, (step + 1) * self.batch_size)
    return [int(_permutation(self.seed, place // size, size)[place % size]) for place in places]

  @functools.cached_property
  def rows(self) -> tuple[int, int]:
    """(M microbatches, R rows of each): the same for every step, so that there is one compiled program."""
    most = max(len(assign_rows(self._members(step), self.shape)) for step in range(self.steps))
    rows = self.microbatch_rows or self.multiple * -(-most // self.multiple)
    return -(-most // rows), rows

  def _members(self, step: int) -> list[Segments]:
    return [self.groups[index] for index in self.indices(step)]

  def __getitem__(self, step: int) -> StepBatch:
    M, R = self.rows
    indices, members = self.indices(step), self._members(step)
    assignment = assign_rows(members, self.shape)
    flat = fill_rows(members, indices, assignment, self.shape, M * R)
    if self.reference_logp is not None:
      branch_N = np.arange(self.shape.sequences) % self.reference_logp.shape[1]
      known_BN = self.reference_logp[flat.example, branch_N]
      flat = flat._replace(reference_logp=np.where(flat.example >= 0, known_BN, 0.0).astype(np.float32))
    used = -(-len(assignment) // R)
    return StepBatch(
      batches=Batch(*(array.reshape(M, R, *array.shape[1:]) for array in flat)),
      used=used,
      tokens=sum(map(plain_tokens, members)),
      padded_share=1.0 - sum(map(row_tokens, members)) / (used * R * self.shape.tokens),
      ids=tuple(group.id for group in members),
    )

  def iterate(self, start: int) -> Iterator[StepBatch]:
    """The batches from step `start` on, made in a thread a few steps ahead."""
    steps = grain.MapDataset.range(start, self.steps).map(self.__getitem__)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
