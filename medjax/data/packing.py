"""Groups of token segments -> rows of one fixed shape, with what is scored in them.

The layout of a row is in docs/architecture.md: `[prompt | branch 1 | branch 2 | ...][prompt | ...] padding`.
"""

import dataclasses
import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from medjax import privacy
from medjax.data.examples import Segments
from medjax.errors import UserError

TILE = 128  # rows are a multiple of so many tokens long, as blocks of attention are
_SCORED_TILE = 32


class Batch(NamedTuple):
  """Packed rows, all of one shape. Leading axes may be added (microbatches).

  Attributes:
    tokens: int32 [B, T].
    positions: int32 [B, T], see `models.attention.Layout`.
    segments: int32 [B, T].
    branches: int32 [B, T].
    source_index: int32 [B, S], where in the row the hidden state is that predicts the scored token.
    target_token: int32 [B, S], the scored token.
    sequence_id: int32 [B, S], which of the row's N sequences it belongs to.
    weight: float32 [B, S], how much a scored token counts (1 where nothing else is said), 0 for an unused slot.
    example: int32 [B, N], index of the example that a sequence belongs to, -1 for none.
    reference_logp: float32 [B, N], the sequence's log-probability under the reference model (0 where not needed).
    desirable: bool [B, N], `Segments.desirable` of the sequence's group.
  """

  tokens: np.ndarray
  positions: np.ndarray
  segments: np.ndarray
  branches: np.ndarray
  source_index: np.ndarray
  target_token: np.ndarray
  sequence_id: np.ndarray
  weight: np.ndarray
  example: np.ndarray
  reference_logp: np.ndarray
  desirable: np.ndarray


@dataclasses.dataclass(frozen=True)
class RowShape:
  """How much fits in a row: T tokens, S scored positions, N sequences."""

  tokens: int
  scored: int
  sequences: int

  def union(self, other: "RowShape") -> "RowShape":
    """The least shape that holds what either holds."""
    return RowShape(*map(max, dataclasses.astuple(self), dataclasses.astuple(other)))

  def empty(self, rows: int) -> Batch:
    """Rows of padding."""
    T, S, N = (np.zeros((rows, size), np.int32) for size in (self.tokens, self.scored, self.sequences))
    zeros_BS, zeros_BN = np.zeros(S.shape, np.float32), np.zeros(N.shape, np.float32)
    return Batch(T, T.copy(), T.copy(), T.copy(), S, S.copy(), S.copy(), zeros_BS, N - 1, zeros_BN, N > 0)


def row_tokens(group: Segments, shared: bool = True) -> int:
  """Input tokens a group takes in a row: the last token of a completion is a target only.

  Args:
    group: a prompt and its completions.
    shared: whether completions share the prompt as far as the group says; else each has its own, which is the plain
      layout.
  """
  prompts = len(group.sharing) if shared else len(group.completions)
  return prompts * len(group.prompt) + sum(len(completion) - 1 for completion in group.completions)


def _segments(
  groups: Sequence[Segments], members: Sequence[int], shared: bool
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
  """(member, number of its first sequence, the completions behind this copy of its prompt) of a row's segments."""
  first = 0
  for member in members:
    group = groups[member]
    each = [(index,) for index in range(len(group.completions))]
    for branches in group.sharing if shared else each:
      yield member, first, branches
    first += len(group.completions)


def scored_tokens(group: Segments) -> int:
  """Tokens of a group that are scored: those of its completions, without those of weight 0."""
  return sum(len(ids) for ids, scored in group.runs if scored)


def scored_weight(group: Segments) -> float:
  """Sum of the weights of a group's scored tokens, as the float32 values that a batch has."""
  if group.weights is None:
    return float(scored_tokens(group))
  return sum(float(np.sum(np.float32(weights), dtype=np.float64)) for weights in group.weights)


def plain_tokens(group: Segments) -> int:
  """Real tokens of the group where nothing is shared: the prompt counted with each of its answers."""
  return len(group.prompt) * len(group.completions) + sum(map(len, group.completions))


def check_groups(groups: Sequence[Segments], row_length: int, shared: bool = True) -> None:
  """Raises UserError where a group has no tokens or is longer than a row (`shared`: see `row_tokens`)."""
  for group in groups:
    if not group.prompt or not all(group.completions):
      raise UserError(f"{privacy.row(group.id)}: the prompt or a completion has no tokens; remove the row")
    if row_tokens(group, shared) > row_length:
      raise UserError(
        f"{privacy.row(group.id)} takes {row_tokens(group, shared)} tokens with its completions, more than "
        f"train.row_length = {row_length}; raise train.row_length, or lower data.max_prompt"
      )


def assign_rows(groups: Sequence[Segments], row_length: int, multiple: int = 1, shared: bool = True) -> list[list[int]]:
  """For each row the indices of its groups: few rows, a multiple of `multiple`, filled evenly. Nothing is random.

  First-fit-decreasing says how many rows are needed; giving each group, longest first, to the row with the least in it
  makes them alike, so that all can be short. Rows may stay empty.

  Args:
    groups: none longer than a row.
    row_length: most tokens of a row.
    multiple: devices that share the rows.
    shared: see `row_tokens`.
  """
  lengths = [row_tokens(group, shared) for group in groups]
  longest_first = sorted(range(len(groups)), key=lambda index: (-lengths[index], index))
  rows: list[list[int]] = []
  left: list[int] = []
  for index in longest_first:
    row = next((row for row, free in enumerate(left) if lengths[index] <= free), len(rows))
    if row == len(rows):
      rows.append([])
      left.append(row_length)
    rows[row].append(index)
    left[row] -= lengths[index]
  rows += [[] for _ in range(-len(rows) % multiple)]
  even: list[list[int]] = [[] for _ in rows]
  loads = [(0, row) for row in range(len(rows))]
  for index in longest_first:
    load, row = heapq.heappop(loads)
    even[row].append(index)
    heapq.heappush(loads, (load + lengths[index], row))
  return rows if max(loads, default=(0,))[0] > row_length else even


def shape_of(
  groups: Sequence[Segments], assignment: Sequence[Sequence[int]], tile: int = TILE, shared: bool = True
) -> RowShape:
  """The least shape that holds these rows: tokens a multiple of `tile`, scored positions of `_SCORED_TILE`.

  Of sequences there is room for a power of two of groups, so that like rows share a compiled program.
  """
  loads, scored, members = [0], [0], [0]
  branches = max((len(group.completions) for group in groups), default=1)
  for held in assignment:
    loads.append(sum(row_tokens(groups[index], shared) for index in held))
    scored.append(sum(scored_tokens(groups[index]) for index in held))
    members.append(len(held))
  power_of_two = 1 << (max(*members, 1) - 1).bit_length()
  return RowShape(
    max(tile * math.ceil(max(loads) / tile), tile),
    max(_SCORED_TILE * math.ceil(max(scored) / _SCORED_TILE), _SCORED_TILE),
    branches * power_of_two,
  )


def fill_rows(
  groups: Sequence[Segments],
  indices: Sequence[int],
  assignment: list[list[int]],
  shape: RowShape,
  rows: int,
  shared: bool = True,
) -> Batch:
  """Writes groups into `rows` rows.

  Args:
    groups: what to write.
    indices: the dataset index of each group, kept in `Batch.example`.
    assignment: for each row the positions in `groups` of what it holds.
    shape: the shape of a row.
    rows: B, at least `len(assignment)`; the rest is padding.
    shared: see `row_tokens`. The plain layout has each completion in a segment of its own.
  """
  batch = shape.empty(rows)
  for b, members in enumerate(assignment):
    at = scored = 0
    for segment, (member, first_sequence, branches) in enumerate(_segments(groups, members, shared), start=1):
      group = groups[member]
      P = len(group.prompt)
      parts = [(0, 0, group.prompt)]
      last_prompt = at + P - 1
      start = at + P
      for branch, index in enumerate(branches, start=1):
        completion, own = group.completions[index], first_sequence + index
        inputs = completion[:-1]
        parts.append((branch, P, inputs))
        sources, targets, weights = [last_prompt, *range(start, start + len(inputs))], completion, 1.0
        if group.weights is not None:
          of_tokens = group.weights[index]
          kept = np.flatnonzero(of_tokens)  # what counts nothing takes no slot
          sources, targets, weights = (np.asarray(x)[kept] for x in (sources, targets, of_tokens))
        end = scored + len(targets)
        batch.source_index[b, scored:end] = sources
        batch.target_token[b, scored:end] = targets
        batch.sequence_id[b, scored:end] = own
        batch.weight[b, scored:end] = weights
        batch.example[b, own] = indices[member]
        batch.desirable[b, own] = group.desirable
        scored, start = end, start + len(inputs)
      for branch, first, tokens in parts:
        end = at + len(tokens)
        batch.tokens[b, at:end] = tokens
        batch.positions[b, at:end] = np.arange(first, first + len(tokens))
        batch.segments[b, at:end] = segment
        batch.branches[b, at:end] = branch
        at = end
  return batch
