"""What the tokens of packed rows are, and which of them see each other."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Int

from medjax.arrays import Array

NO_WINDOW = 2**30


class Layout(NamedTuple):
  """What each token of a row is, all int32 [B, T] (or B rows in blocks).

  Attributes:
    positions: restart at 0 with a segment, and at the prompt's end with each branch.
    segments: number of the example in the row, from 1; 0 is padding.
    branches: 0 for the prompt, from 1 for the completions that continue it.
  """

  positions: Int[Array, "..."]
  segments: Int[Array, "..."]
  branches: Int[Array, "..."]

  @classmethod
  def plain(cls, mask_BT: Int[Array, "B T"]) -> "Layout":
    """One sequence a row, padded on either side; `mask` is 1 at real tokens."""
    mask_BT = mask_BT.astype(jnp.int32)
    return cls(jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0), mask_BT, jnp.zeros_like(mask_BT))


class View(NamedTuple):
  """What the queries of a layer look at.

  Attributes:
    queries: T tokens.
    keys: C tokens; a query's own place among them is `start` and its place among the queries.
    first_BT: the first place among the keys of the segment that each query is in.
    start: int32 scalar.
    window: int32 scalar, positions that a query sees, its own included; `NO_WINDOW` for all.
  """

  queries: Layout
  keys: Layout
  first_BT: Int[Array, "B T"]
  start: Int[Array, ""]
  window: Int[Array, ""]


def view(queries: Layout, keys: Layout, start: Int[Array, ""], window: Int[Array, ""]) -> View:
  """The view of T queries that are at `start` among the keys."""
  B, C = keys.segments.shape
  rows_B1, places_BC = jnp.arange(B)[:, None], jnp.broadcast_to(jnp.arange(C), (B, C))
  first_BG = jnp.full((B, C + 1), C).at[rows_B1, keys.segments].min(places_BC)
  return View(queries, keys, jnp.take_along_axis(first_BG, queries.segments, axis=1), start, window)


def sees(queries: Layout, keys: Layout, window: Int[Array, ""] | int) -> Bool[Array, "..."]:
  """The mask rule: same segment, prompt or own branch, not after the query, less than `window` positions back.

  Of queries and keys in shapes that broadcast. Padding sees padding only.
  """
  back = queries.positions - keys.positions
  in_branch = (keys.branches == 0) | (keys.branches == queries.branches)
  return (queries.segments == keys.segments) & in_branch & (back >= 0) & (back < window)


def visible(queries: Layout, keys: Layout, window: Int[Array, ""] | int = NO_WINDOW) -> Bool[Array, "B T C"]:
  """Which keys each query sees. Padding sees padding, so that no row of a whole softmax is empty."""
  return sees(Layout(*(x[:, :, None] for x in queries)), Layout(*(x[:, None, :] for x in keys)), window)
