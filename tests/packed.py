"""A tiny decoder, random groups, and the plain computations that packed rows are held to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from medjax.data.examples import Segments
from medjax.data.packing import Batch, RowShape, assign_rows, fill_rows
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, bind, build, head_matrix
from medjax.models.views import Layout

# Every size divides by 8 where a mesh may cut it.
CONFIG = ModelConfig(64, 16, 2, 4, 2, 4, 32, max_positions=64)
WINDOW = ModelConfig(64, 16, 2, 4, 2, 4, 32, max_positions=64, sliding_window=4, tied_head=True, family="mistral")
SHAPE = RowShape(tokens=40, scored=48, sequences=8)
ROWS = 4  # hold any list of four groups
LONGEST = 12 + 6  # tokens of a prompt and a completion


@functools.cache
def decoder(config: ModelConfig = CONFIG, seed: int = 0):
  """(graph, params), with weights large enough that a wrong mask or position shows."""
  draw = np.random.default_rng(seed)

  def weight(path, x):
    normal = draw.standard_normal(x.shape, np.float32)
    return jnp.asarray(1 + 0.1 * normal if path[-1].key == "scale" else 0.25 * normal)

  return build(config, "float32"), jax.tree_util.tree_map_with_path(weight, abstract_params(config))


def tokens(most: int):
  """1 to `most` token ids."""
  return st.lists(st.integers(0, 63), min_size=1, max_size=most).map(tuple)


def groups(branches: int, most: int = 4):
  """1 to `most` groups of so many completions; prompts and completions may be one token long."""
  body = st.tuples(tokens(12), st.tuples(*[tokens(6)] * branches))
  return st.lists(body, min_size=1, max_size=most).map(
    lambda bodies: [Segments(f"r{index}", *body) for index, body in enumerate(bodies)]
  )


def random_groups(count: int, branches: int, seed: int = 0, longest: int = 12) -> list[Segments]:
  """Groups of unequal lengths, the same for equal arguments."""
  draw = np.random.default_rng(seed)

  def ids(most):
    return tuple(int(token) for token in draw.integers(0, 64, draw.integers(1, most + 1)))

  return [Segments(f"r{index}", ids(longest), tuple(ids(6) for _ in range(branches))) for index in range(count)]


def pack(members: list[Segments], shape: RowShape = SHAPE, rows: int = ROWS) -> Batch:
  """Groups packed into rows; `Batch.example` counts them from 0."""
  return fill_rows(members, range(len(members)), assign_rows(members, shape.tokens), shape, rows)


def one_by_one(members: list[Segments], shape: RowShape = SHAPE, rows: int = ROWS) -> Batch:
  """The same rows with one group in each."""
  return fill_rows(members, range(len(members)), [[index] for index in range(len(members))], shape, rows)


def separate(members: list[Segments]) -> list[tuple[tuple[int, ...], int]]:
  """The plain layout: each completion after a prompt of its own, as (tokens, how many of them are prompt)."""
  return [(group.prompt + completion, len(group.prompt)) for group in members for completion in group.completions]


def plain_arrays(sequences: list[tuple[tuple[int, ...], int]], rows: int):
  """(tokens_BT, mask_BT, scored_BT) of sequences in rows of their own; scored where a token is to be predicted."""
  tokens_BT, mask_BT, scored_BT = np.zeros((3, rows, LONGEST), np.int32)
  for row, (ids, prompt) in enumerate(sequences):
    tokens_BT[row, : len(ids)], mask_BT[row, : len(ids)], scored_BT[row, prompt : len(ids)] = ids, 1, 1
  return tokens_BT, mask_BT, scored_BT


def plain_hidden(graph, params, tokens_BT, mask_BT):
  """Hidden states of rows that hold one sequence each."""
  return bind(graph, params)(tokens_BT, Layout.plain(mask_BT))


def plain_logps(graph, params, tokens_BT, mask_BT, scored_BT):
  """[B] sums of log-probabilities by the textbook: all logits, log-softmax, gather."""
  logits_BTV = jnp.einsum("BTD,VD->BTV", plain_hidden(graph, params, tokens_BT, mask_BT), head_matrix(params))
  logp_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
  return (jnp.take_along_axis(logp_BTV, tokens_BT[:, 1:, None], 2)[..., 0] * scored_BT[:, 1:]).sum(1)


def assert_trees_close(got, wanted, relative: float = 1e-5) -> None:
  """Each array equal, to `relative` times its largest entry or 0.1: what cancels leaves rounding errors behind."""
  for path, want in jax.tree_util.tree_leaves_with_path(wanted):
    want, have = np.asarray(want), np.asarray(functools.reduce(lambda tree, key: tree[key.key], path, got))
    assert np.abs(have - want).max() <= relative * max(np.abs(want).max(), 0.1), jax.tree_util.keystr(path)
