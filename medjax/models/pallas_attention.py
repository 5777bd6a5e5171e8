"""Attention as kernels of our own for TPU: the mask rule of `views.visible`, and nothing of size T x C in memory.

Three Pallas kernels, as in FlashAttention-2 (Dao 2023, arXiv 2307.08691, alg. 1 and 2): the forward pass, the gradient
of queries, and that of keys and values. Each step holds a block of queries, with all query heads of a key-value head
below one another, and a block of keys; the last axis of a grid goes along the blocks that the one of the axis before it
sees, or is seen by. Scores, softmax and sums are float32. Beside the usual letters: N blocks of queries, M queries of a
block times heads of a group, P rows times blocks, X what a token is (position, segment, branch), S sums of a query.

Blocks have 128 lanes along their last axis. What there is one of for each query comes as a column where the queries are
the rows of the scores, and as a row in the third kernel, whose scores are transposed, so that none has to be turned.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from medjax.arrays import Array, precision_of
from medjax.models.layers import row_sums, soft_capped
from medjax.models.views import Layout, View, sees

# Rows M of a block's scores, and how many scores it has, at most: a kernel has 16 MiB of a v4's fast memory, and
# 2048 x 1024 scores take 18 MiB of it with all that is beside them, where heads are 128 wide.
_MOST_ROWS, _MOST_SCORES = 1024, 1024 * 512
_MOST_TOKENS, _MOST_KEYS = 512, 512
_LANES = 128
# A hidden score is so far below where the running maximum starts that it weighs nothing even where all are hidden.
_HIDDEN, _LOWEST = -1e30, -1e20
_NO_QUERY, _NO_KEY = -1, -2  # segments of what fills up the last blocks: they see nothing, and nothing sees them


class _Sizes(NamedTuple):
  """Rows, key-value heads, query heads of each, head width; tokens and keys of a block, and numbers of blocks."""

  B: int
  K: int
  G: int
  E: int
  tokens: int
  keys: int
  token_blocks: int
  key_blocks: int

  @property
  def M(self) -> int:
    return self.G * self.tokens


class _Cut(NamedTuple):
  """What tokens are, filled up to whole blocks, and which blocks see each other.

  Attributes:
    queries_BTX: the queries.
    keys_BCX: the keys.
    seen: for each row and block of queries, the first block of keys that it sees, and the one behind the last.
    seen_by: for each row and block of keys, the first block of queries that sees it, and the one behind the last.
  """

  queries_BTX: Int[Array, "B T X"]
  keys_BCX: Int[Array, "B C X"]
  seen: tuple[Int[Array, "P"], Int[Array, "P"]]
  seen_by: tuple[Int[Array, "P"], Int[Array, "P"]]


def forward(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  view: View,
  scale: float,
  softcap: float | None,
  interpret: bool = False,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
  """The attention of each query, and the log-sum-exp of its scores in float32; zeros for queries that see nothing.

  `interpret` runs the kernels as XLA operations, on any backend: for tests.
  """
  size = _sizes(q_BTHE, k_BKEC)
  cut, specs = _cut(view, size), _Specs(size, "queries")
  out_BKNME, lse_BKNM1 = _call(
    functools.partial(_forward_kernel, size, scale, softcap),
    (size.B, size.K, size.token_blocks, size.key_blocks),
    (*cut.seen, view.window),
    [
      (cut.queries_BTX, specs.of_queries(1)),
      (cut.keys_BCX.swapaxes(1, 2), specs.of_keys(2)),
      (_blocks(q_BTHE, size), specs.block(size.M, size.E)),
      (_filled(k_BKEC, 3, size.keys), specs.keys_last()),
      (_filled(v_BKCE, 2, size.keys), specs.keys_first()),
    ],
    [
      (specs.shape(size.M, size.E, q_BTHE.dtype), specs.block(size.M, size.E)),
      (specs.shape(size.M, 1, jnp.float32), specs.block(size.M, 1)),
    ],
    [(size.M, size.E), (size.M, _LANES), (size.M, _LANES)],
    interpret,
  )
  return _rows(out_BKNME, q_BTHE.shape), _rows(lse_BKNM1[..., 0], q_BTHE.shape[:3])


def backward(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  view: View,
  scale: float,
  softcap: float | None,
  out_BTHE: Float[Array, "B T H E"],
  lse_BTH: Float[Array, "B T H"],
  gradient_BTHE: Float[Array, "B T H E"],
  interpret: bool = False,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B K E C"], Float[Array, "B K C E"]]:
  """Gradients of queries, keys and values, the last two in float32, from what `forward` gave."""
  size, C = _sizes(q_BTHE, k_BKEC), k_BKEC.shape[3]
  cut = _cut(view, size)
  # The mean of the weights' gradients under the weights.
  mean_BTH1 = row_sums(gradient_BTHE.astype(jnp.float32) * out_BTHE.astype(jnp.float32))
  sums_BKNMS = _blocks(jnp.concatenate([lse_BTH[..., None], mean_BTH1], axis=-1), size)
  q_BKNME, gradient_BKNME = _blocks(q_BTHE, size), _blocks(gradient_BTHE, size)
  k_BKEC, v_BKCE = _filled(k_BKEC, 3, size.keys), _filled(v_BKCE, 2, size.keys)

  specs = _Specs(size, "queries")
  (q_gradient_BKNME,) = _call(
    functools.partial(_query_kernel, size, scale, softcap),
    (size.B, size.K, size.token_blocks, size.key_blocks),
    (*cut.seen, view.window),
    [
      (cut.queries_BTX, specs.of_queries(1)),
      (cut.keys_BCX.swapaxes(1, 2), specs.of_keys(2)),
      (q_BKNME, specs.block(size.M, size.E)),
      (k_BKEC, specs.keys_last()),
      (v_BKCE, specs.keys_first()),
      (gradient_BKNME, specs.block(size.M, size.E)),
      (sums_BKNMS, specs.block(size.M, 2)),
    ],
    [(specs.shape(size.M, size.E, q_BTHE.dtype), specs.block(size.M, size.E))],
    [(size.M, size.E)],
    interpret,
  )

  specs = _Specs(size, "keys")
  of_keys = jax.ShapeDtypeStruct(v_BKCE.shape, jnp.float32), specs.keys_first()
  k_gradient_BKCE, v_gradient_BKCE = _call(
    functools.partial(_key_kernel, size, scale, softcap),
    (size.B, size.K, size.key_blocks, size.token_blocks),
    (*cut.seen_by, view.window),
    [
      (cut.queries_BTX.swapaxes(1, 2), specs.of_queries(2)),
      (cut.keys_BCX, specs.of_keys(1)),
      (q_BKNME, specs.block(size.M, size.E)),
      (k_BKEC.swapaxes(2, 3), specs.keys_first()),
      (v_BKCE, specs.keys_first()),
      (gradient_BKNME, specs.block(size.M, size.E)),
      (sums_BKNMS.swapaxes(3, 4), specs.block(2, size.M)),
    ],
    [of_keys, of_keys],
    [],
    interpret,
  )
  q_gradient_BTHE = _rows(q_gradient_BKNME, q_BTHE.shape)
  return q_gradient_BTHE, k_gradient_BKCE[:, :, :C].swapaxes(2, 3), v_gradient_BKCE[:, :, :C]


def _forward_kernel(size, scale, softcap, first, end, window, *refs):
  queries_TX, keys_XC, q_ME, k_EC, v_CE, out_ME, lse_M1, sum_ME, top_ML, total_ML = refs

  def begin():
    sum_ME[...] = jnp.zeros_like(sum_ME)
    top_ML[...] = jnp.full_like(top_ML, _LOWEST)
    total_ML[...] = jnp.zeros_like(total_ML)

  def step():
    scores_MC = _dot(q_ME[...], k_EC[...], (1, 0))
    scores_MC = soft_capped(scores_MC * scale, softcap) + _hidden(queries_TX, keys_XC, window, size.G, 0)
    old_ML = top_ML[...]
    new_ML = jnp.maximum(old_ML, scores_MC.max(axis=1, keepdims=True))
    weights_MC = jnp.exp(scores_MC - _across(new_ML, size.keys))
    shrink_ML = jnp.exp(old_ML - new_ML)
    top_ML[...] = new_ML
    total_ML[...] = total_ML[...] * shrink_ML + weights_MC.sum(axis=1, keepdims=True)
    added_ME = _dot(weights_MC.astype(v_CE.dtype), v_CE[...], (1, 0))
    sum_ME[...] = sum_ME[...] * _across(shrink_ML, size.E) + added_ME

  def finish():
    most_ML = jnp.maximum(total_ML[...], 1e-30)
    out_ME[...] = (sum_ME[...] / _across(most_ML, size.E)).astype(out_ME.dtype)
    lse_M1[...] = (top_ML[...] + jnp.log(most_ML))[:, :1]

  _along(first, end, begin, step, finish)


def _query_kernel(size, scale, softcap, first, end, window, *refs):
  queries_TX, keys_XC, q_ME, k_EC, v_CE, gradient_ME, sums_MS, q_gradient_ME, sum_ME = refs

  def begin():
    sum_ME[...] = jnp.zeros_like(sum_ME)

  def step():
    capped_MC = soft_capped(_dot(q_ME[...], k_EC[...], (1, 0)) * scale, softcap)
    hidden_MC = _hidden(queries_TX, keys_XC, window, size.G, 0)
    weights_MC = jnp.exp(capped_MC + hidden_MC - sums_MS[:, 0:1])
    weight_gradient_MC = _dot(gradient_ME[...], v_CE[...], (1, 1))
    score_gradient_MC = weights_MC * (weight_gradient_MC - sums_MS[:, 1:2]) * _slope(capped_MC, softcap)
    sum_ME[...] += _dot(score_gradient_MC.astype(k_EC.dtype), k_EC[...], (1, 1))

  def finish():
    q_gradient_ME[...] = (sum_ME[...] * scale).astype(q_gradient_ME.dtype)

  _along(first, end, begin, step, finish)


def _key_kernel(size, scale, softcap, first, end, window, *refs):
  queries_XT, keys_CX, q_ME, k_CE, v_CE, gradient_ME, sums_SM, k_gradient_CE, v_gradient_CE = refs

  def begin():
    k_gradient_CE[...] = jnp.zeros_like(k_gradient_CE)
    v_gradient_CE[...] = jnp.zeros_like(v_gradient_CE)

  def step():
    capped_CM = soft_capped(_dot(k_CE[...], q_ME[...], (1, 1)) * scale, softcap)
    hidden_CM = _hidden(queries_XT, keys_CX, window, size.G, 1)
    weights_CM = jnp.exp(capped_CM + hidden_CM - sums_SM[0:1, :])
    v_gradient_CE[...] += _dot(weights_CM.astype(q_ME.dtype), gradient_ME[...], (1, 0))
    weight_gradient_CM = _dot(v_CE[...], gradient_ME[...], (1, 1))
    score_gradient_CM = weights_CM * (weight_gradient_CM - sums_SM[1:2, :]) * _slope(capped_CM, softcap)
    k_gradient_CE[...] += _dot(score_gradient_CM.astype(q_ME.dtype), q_ME[...], (1, 0)) * scale

  _along(first, end, begin, step, lambda: None)


def _along(first, end, begin, step, finish) -> None:
  """`step` at the blocks from `first` to before `end`, of the block that the grid is at; the others are passed by."""
  at = pl.program_id(0) * pl.num_programs(2) + pl.program_id(2)
  pl.when(pl.program_id(3) == 0)(begin)
  pl.when(first[at] + pl.program_id(3) < end[at])(step)
  pl.when(pl.program_id(3) == pl.num_programs(3) - 1)(finish)


def _hidden(queries, keys, window, heads: int, axis: int) -> Float[Array, "..."]:
  """What is added to the scores of one block so that nothing hidden weighs; the queries of all heads along `axis`."""
  queries, keys = (
    Layout(*(jax.lax.slice_in_dim(ref[...], x, x + 1, axis=along) for x in range(3)))
    for ref, along in ((queries, 1 - axis), (keys, axis))
  )
  of_head = jnp.where(sees(queries, keys, window[0]), 0.0, _HIDDEN)
  return jnp.concatenate([of_head] * heads, axis=axis)


def _slope(capped, softcap: float | None):
  """The derivative of `soft_capped`, by what it gave."""
  return 1.0 if softcap is None else 1.0 - (capped / softcap) ** 2


def _dot(x, y, contracted: tuple[int, int]):
  """The product over one axis of each, in float32."""
  axes = (((contracted[0],), (contracted[1],)), ((), ()))
  return jax.lax.dot_general(x, y, axes, precision_of(x.dtype), jnp.float32)


def _across(x_ML, width: int):
  """What is equal in all lanes, `width` lanes wide."""
  return jnp.tile(x_ML, (1, pl.cdiv(width, _LANES)))[:, :width]


class _Specs:
  """Which block of an array a step of the grid (rows, key-value heads, `outer`, the other) sees."""

  def __init__(self, size: _Sizes, outer: str):
    self._size, self._outer = size, outer
    self._count = size.token_blocks if outer == "queries" else size.key_blocks

  def _spec(self, shape, of: str, axis: int) -> pl.BlockSpec:
    def index(row, head, outer, step, first, end, window):
      at = row * self._count + outer
      # Steps that are passed by stay at a block that is there already, and nothing is copied.
      inner = jnp.maximum(jnp.minimum(first[at] + step, end[at] - 1), 0)
      place = [row, head, 0, 0, 0][: len(shape)] if len(shape) > 3 else [row, 0, 0]
      place[axis] = outer if of == self._outer else inner
      return tuple(place)

    return pl.BlockSpec(shape, index)

  def of_queries(self, axis: int) -> pl.BlockSpec:
    """What the tokens along `axis` are."""
    shape = [None, 3, 3]
    shape[axis] = self._size.tokens
    return self._spec(tuple(shape), "queries", axis)

  def of_keys(self, axis: int) -> pl.BlockSpec:
    """What the keys along `axis` are."""
    shape = [None, 3, 3]
    shape[axis] = self._size.keys
    return self._spec(tuple(shape), "keys", axis)

  def keys_first(self) -> pl.BlockSpec:
    return self._spec((None, None, self._size.keys, self._size.E), "keys", 2)

  def keys_last(self) -> pl.BlockSpec:
    return self._spec((None, None, self._size.E, self._size.keys), "keys", 3)

  def block(self, *last: int) -> pl.BlockSpec:
    """A block of queries, with these last axes."""
    return self._spec((None, None, None, *last), "queries", 2)

  def shape(self, rows: int, columns: int, dtype) -> jax.ShapeDtypeStruct:
    """All blocks of queries."""
    return jax.ShapeDtypeStruct((self._size.B, self._size.K, self._size.token_blocks, rows, columns), dtype)


def _call(kernel, grid, scalars, inputs, outputs, scratch, interpret: bool) -> list[Array]:
  """Runs a kernel over arrays and shapes, each with its spec; `scalars` are there before a block is chosen."""
  first_P, end_P, window = scalars
  arrays, in_specs = zip(*inputs, strict=True)
  shapes, out_specs = zip(*outputs, strict=True)
  return pl.pallas_call(
    kernel,
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=grid,
      in_specs=in_specs,
      out_specs=out_specs,
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    ),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
    interpret=interpret,
    name=kernel.func.__name__.strip("_"),
  )(first_P, end_P, window.reshape(1), *arrays)


def _sizes(q_BTHE, k_BKEC) -> _Sizes:
  (B, T, H, E), (K, _, C) = q_BTHE.shape, k_BKEC.shape[1:]
  tokens = min(max(_power_of_two(_MOST_ROWS // (H // K)), _LANES), _MOST_TOKENS, _LANES * pl.cdiv(T, _LANES))
  keys = min(max(_power_of_two(_MOST_SCORES // (H // K * tokens)), _LANES), _MOST_KEYS, _LANES * pl.cdiv(C, _LANES))
  return _Sizes(B, K, H // K, E, tokens, keys, pl.cdiv(T, tokens), pl.cdiv(C, keys))


def _power_of_two(most: int) -> int:
  return 1 << max(most.bit_length() - 1, 0)


def _cut(view: View, size: _Sizes) -> _Cut:
  B, C = view.keys.segments.shape

  def filled(of: Layout, block: int, segment: int):
    return jnp.stack([_filled(x, 1, block, filler) for x, filler in zip(of, (0, segment, 0), strict=True)], axis=2)

  # A query sees no key before its segment or its window, of which the latter counts positions, and none behind itself.
  first_BT = view.first_BT + jnp.maximum(view.queries.positions - view.window + 1, 0)
  first_BT = _filled(jnp.where(view.queries.segments > 0, first_BT, C), 1, size.tokens, C)
  first_BN = first_BT.reshape(B, size.token_blocks, size.tokens).min(axis=2) // size.keys
  end_N = (view.start + size.tokens * (jnp.arange(size.token_blocks) + 1) + size.keys - 1) // size.keys
  end_BN = jnp.broadcast_to(jnp.minimum(end_N, size.key_blocks), first_BN.shape)
  at_1J1 = jnp.arange(size.key_blocks)[None, :, None]
  seen_BJN = (first_BN[:, None] <= at_1J1) & (at_1J1 < end_BN[:, None])
  end_BJ = jnp.where(seen_BJN.any(axis=2), size.token_blocks - seen_BJN[..., ::-1].argmax(axis=2), 0)
  flat = [x.reshape(-1).astype(jnp.int32) for x in (first_BN, end_BN, seen_BJN.argmax(axis=2), end_BJ)]
  return _Cut(
    filled(view.queries, size.tokens, _NO_QUERY),
    filled(view.keys, size.keys, _NO_KEY),
    (flat[0], flat[1]),
    (flat[2], flat[3]),
  )


def _filled(x: Array, axis: int, block: int, filler: int = 0) -> Array:
  """`x` with an axis filled up to whole blocks."""
  missing = -x.shape[axis] % block
  if not missing:
    return x
  return jnp.pad(x, [(0, missing if place == axis else 0) for place in range(x.ndim)], constant_values=filler)


def _blocks(x_BTHX: Float[Array, "B T H X"], size: _Sizes) -> Float[Array, "B K N M X"]:
  """Queries, or what there is of them for each head, in blocks: the heads of a group one below the other."""
  x_BTHX = _filled(x_BTHX, 1, size.tokens)
  x_BNTKGX = x_BTHX.reshape(size.B, size.token_blocks, size.tokens, size.K, size.G, -1)
  return x_BNTKGX.transpose(0, 3, 1, 4, 2, 5).reshape(size.B, size.K, size.token_blocks, size.M, -1)


def _rows(x_BKNMX: Float[Array, "B K N M *X"], shape: tuple[int, ...]) -> Float[Array, "B T H *X"]:
  """What `_blocks` cut, as it was."""
  B, T, H, *X = shape
  K, N = x_BKNMX.shape[1:3]
  x_BKNGTX = x_BKNMX.reshape(B, K, N, H // K, -1, *X)
  return jnp.moveaxis(x_BKNGTX, (1, 3), (3, 4)).reshape(B, -1, H, *X)[:, :T]
