"""Groups of token segments -> rows of one fixed shape, with what is scored in them.

The layout of a row is in docs/architecture.md: `[prompt | branch 1 | branch 2 | ...][prompt | ...] padding`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medjax.data.examples import Segments
from medjax.errors import UserError


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
    weight: float32 [B, S], 1 for a scored token, 0 for an unused slot.
    example: int32 [B, N], index of the example that a sequence belongs to, -1 for none.
    reference_logp: float32 [B, N], the sequence's log-probability under the reference model (0 where not needed).
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


@dataclasses.dataclass(frozen=True)
class RowShape:
  """How much fits in a row: T tokens, S scored positions, N sequences."""

  tokens: int
  scored: int
  sequences: int

  def empty(self, rows: int) -> Batch:
    """Rows of padding."""
    T, S, N = (np.zeros((rows, size), np.int32) for size in (self.tokens, self.scored, self.sequences))
    zeros_BS, zeros_BN = np.zeros(S.shape, np.float32), np.zeros(N.shape, np.float32)
    return Batch(T, T.copy(), T.copy(), T.copy(), S, S.copy(), S.copy(), zeros_BS, N - 1, zeros_BN)


def row_tokens(group: Segments) -> int:
  """Input tokens a group takes in a row: the last token of a completion is a target only."""
  return len(group.prompt) + sum(len(completion) - 1 for completion in group.completions)


def scored_tokens(group: Segments) -> int:
  """Tokens of a group that are scored."""
  return sum(len(completion) for completion in group.completions)


def plain_tokens(group: Segments) -> int:
  """Real tokens of the group where nothing is shared: the prompt counted with each of its answers."""
  return len(group.prompt) * len(group.completions) + scored_tokens(group)


def choose_shape(groups: Sequence[Segments], row_length: int) -> RowShape:
  """The row shape for a dataset: T as asked, S and N for what such a row holds on average and a quarter more.

  S is a power of two, and N one times the branches of a group, so that like datasets share a compiled program.

  Raises:
    UserError: a group is longer than a row.
  """
  for group in groups:
    if not group.prompt or not all(group.completions):
      raise UserError(f"row {group.id}: the prompt or a completion has no tokens; remove the row")
    if row_tokens(group) > row_length:
      raise UserError(
        f"row {group.id} takes {row_tokens(group)} tokens with its completions, more than train.row_length = "
        f"{row_length}; raise train.row_length, or lower data.max_prompt"
      )
  lengths = np.array([row_tokens(group) for group in groups])
  scored = np.array([scored_tokens(group) for group in groups])
  branches = max(len(group.completions) for group in groups)
  per_row = 1.25 * row_length / lengths.mean()
  scored_positions = max(scored.mean() * per_row, scored.max(), 16)
  return RowShape(row_length, _power_of_two(scored_positions), branches * _power_of_two(per_row))


def _power_of_two(least: float | int) -> int:
  return 1 << math.ceil(math.log2(max(least, 1)))


def assign_rows(groups: Sequence[Segments], shape: RowShape) -> list[list[int]]:
  """First-fit-decreasing packing: for each row the indices of its groups. A function of its arguments alone."""
  rows: list[list[int]] = []
  left: list[list[int]] = []  # tokens, scored positions and sequences still free in each row
  for index in sorted(range(len(groups)), key=lambda i: (-row_tokens(groups[i]), i)):
    group = groups[index]
    need = (row_tokens(group), scored_tokens(group), len(group.completions))
    fits = (i for i, free in enumerate(left) if all(n <= f for n, f in zip(need, free, strict=True)))
    row = next(fits, len(rows))
    if row == len(rows):
      rows.append([])
      left.append([shape.tokens, shape.scored, shape.sequences])
    rows[row].append(index)
    left[row] = [f - n for f, n in zip(left[row], need, strict=True)]
  return rows


def fill_rows(
  groups: Sequence[Segments], indices: Sequence[int], assignment: list[list[int]], shape: RowShape, rows: int
) -> Batch:
  """Writes groups into `rows` rows.

  Args:
    groups: what to write.
    indices: the dataset index of each group, kept in `Batch.example`.
    assignment: for each row the positions in `groups` of what it holds.
    shape: the shape of a row.
    rows: B, at least `len(assignment)`; the rest is padding.
  """
  batch = shape.empty(rows)
  for b, members in enumerate(assignment):
    at = scored = sequence = 0
    for segment, member in enumerate(members, start=1):
      group = groups[member]
      P = len(group.prompt)
      parts = [(0, 0, group.prompt)]
      last_prompt = at + P - 1
      start = at + P
      for branch, completion in enumerate(group.completions, start=1):
        inputs = completion[:-1]
        parts.append((branch, P, inputs))
        end = scored + len(completion)
        batch.source_index[b, scored:end] = [last_prompt, *range(start, start + len(inputs))]
        batch.target_token[b, scored:end] = completion
        batch.sequence_id[b, scored:end] = sequence
        batch.weight[b, scored:end] = 1.0
        batch.example[b, sequence] = indices[member]
        scored, sequence, start = end, sequence + 1, start + len(inputs)
      for branch, first, tokens in parts:
        end = at + len(tokens)
        batch.tokens[b, at:end] = tokens
        batch.positions[b, at:end] = np.arange(first, first + len(tokens))
        batch.segments[b, at:end] = segment
        batch.branches[b, at:end] = branch
        at = end
  return batch
