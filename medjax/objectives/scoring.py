"""Log-probabilities of many groups under fixed weights: the reference pass and label scoring are both this."""

import collections
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from medjax.data.examples import Segments
from medjax.data.packing import Batch, RowShape, assign_rows, check_groups, fill_rows, row_tokens, shape_of
from medjax.models.decoder import Params
from medjax.models.sharding import constrain, place
from medjax.objectives.logprobs import policy_logps

_CHUNK = 512  # groups packed together
_IN_FLIGHT = 2  # batches that devices may have before the first of them is fetched: they never wait for the host


@functools.partial(jax.jit, static_argnames="graph")
def _logp_BN(graph, params, batch):
  return constrain(policy_logps(graph, params, batch)[1], "--")  # whole in every process


def lower(graph: nnx.GraphDef, params: Params, batch: Batch) -> jax.stages.Lowered:
  """The program of `score`, of ShapeDtypeStructs with shardings, for the devices of the mesh in use."""
  return _logp_BN.lower(graph, params, batch)


def score(
  graph: nnx.GraphDef,
  params: Params,
  groups: Sequence[Segments],
  row_length: int,
  rows: int,
  sharding: jax.sharding.Sharding | None = None,
  advance: Callable[[int], None] = lambda groups: None,
) -> list[np.ndarray]:
  """Log-probability of each completion given its prompt; the prompt is computed once for all of its completions.

  Args:
    graph: the decoder.
    params: its parameters.
    groups: prompts with any number of completions each.
    row_length: most tokens of a packed row; raised to the longest group.
    rows: rows computed at once.
    sharding: where a batch lives, None for the default device.
    advance: told how many groups have just been scored.

  Returns:
    For each group float32 [completions], in nats: sums over the scored tokens, each times its weight.
  """
  row_length = max([row_length, *map(row_tokens, groups)])
  check_groups(groups, row_length)
  chunks = [groups[first : first + _CHUNK] for first in range(0, len(groups), _CHUNK)]
  assignments = [assign_rows(chunk, row_length, rows) for chunk in chunks]
  shapes = [shape_of(chunk, assignment) for chunk, assignment in zip(chunks, assignments, strict=True)]
  shape = functools.reduce(RowShape.union, shapes, RowShape(0, 0, 0))
  scores = [np.zeros(len(group.completions), np.float32) for group in groups]
  under_way: collections.deque = collections.deque()

  def fetch() -> None:
    logp_BN, first, held = under_way.popleft()
    logp_BN = np.asarray(jax.device_get(logp_BN))
    for b, members in enumerate(held):
      at = 0
      for member in members:
        of_group = scores[first + member]
        of_group[:] = logp_BN[b, at : at + len(of_group)]
        at += len(of_group)
    advance(sum(map(len, held)))

  for number, (chunk, assignment) in enumerate(zip(chunks, assignments, strict=True)):
    for start in range(0, len(assignment), rows):
      held = assignment[start : start + rows]
      batch = fill_rows(chunk, range(len(chunk)), held, shape, rows)
      under_way.append((_logp_BN(graph, params, place(batch, sharding)), number * _CHUNK, held))
      if len(under_way) > _IN_FLIGHT:
        fetch()
  while under_way:
    fetch()
  return scores
