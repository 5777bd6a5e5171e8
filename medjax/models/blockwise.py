"""Attention in blocks of queries and keys: memory grows with T and not with T x T.

Blocks in which nothing is visible are not computed. The softmax is kept as a running maximum and sum (Milakov &
Gimelshein 2018, arXiv 1805.02867, alg. 3), and the backward pass computes the weights again from their log-sum-exp, as
FlashAttention does (Dao 2023, arXiv 2307.08691, alg. 1 and 2). Plain loops of XLA operations. Beside the usual letters:
N blocks, M queries of a block times the query heads that share a key-value head, C keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from medjax.arrays import Array, product
from medjax.models.layers import row_sums, soft_capped
from medjax.models.sharding import platform
from medjax.models.views import Layout, View, visible

# Tokens of a block: on a CPU small ones were fastest; elsewhere a loop's steps and small products cost more.
_CPU_BLOCK, _BLOCK = 64, 256
_HIDDEN = -1e30


class Cut(NamedTuple):
  """Rows in blocks, and for each block of queries the blocks of keys it looks at: the same for all rows."""

  queries: Layout
  keys: Layout
  first_N: Int[Array, "N"]
  end_N: Int[Array, "N"]
  window: Int[Array, ""]


def forward(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  view: View,
  scale: float,
  softcap: float | None,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
  """The attention of each query, and the log-sum-exp of its scores in float32; zeros for queries that see nothing."""
  K = k_BKEC.shape[1]
  cut = _cut(view, q_BTHE.shape[1], k_BKEC.shape[3])
  q_BNKME, k_BNKEC, v_BNKCE = _queries(q_BTHE, K), _key_blocks(k_BKEC), _value_blocks(v_BKCE)

  def of_queries(index, found):
    q_BKME = _at(q_BNKME, index)

    def of_keys(at, carry):
      out_BKME, top_BKM, total_BKM = carry
      scores_BKMC = _scores(q_BKME, _at(k_BNKEC, at), _mask(cut, index, at), scale, softcap)
      new_top_BKM = jnp.maximum(top_BKM, scores_BKMC.max(axis=-1))
      weights_BKMC = jnp.exp(scores_BKMC - new_top_BKM[..., None])
      shrink_BKM = jnp.exp(top_BKM - new_top_BKM)
      added_BKME = product("BKMC,BKCE->BKME", weights_BKMC.astype(v_BKCE.dtype), _at(v_BNKCE, at))
      out_BKME = out_BKME * shrink_BKM[..., None] + added_BKME
      return out_BKME, new_top_BKM, total_BKM * shrink_BKM + weights_BKMC.sum(axis=-1)

    start = jnp.zeros(q_BKME.shape, jnp.float32), jnp.full(q_BKME.shape[:3], _HIDDEN), jnp.zeros(q_BKME.shape[:3])
    out_BKME, top_BKM, total_BKM = jax.lax.fori_loop(cut.first_N[index], cut.end_N[index], of_keys, start)
    total_BKM = jnp.maximum(total_BKM, 1e-30)
    out_BKME = (out_BKME / total_BKM[..., None]).astype(q_BTHE.dtype)
    return tuple(_put(x, new, index) for x, new in zip(found, (out_BKME, top_BKM + jnp.log(total_BKM)), strict=True))

  start = jnp.zeros_like(q_BNKME), jnp.zeros(q_BNKME.shape[:4], jnp.float32)
  out_BNKME, lse_BNKM = jax.lax.fori_loop(0, q_BNKME.shape[1], of_queries, start)
  return _rows(out_BNKME, q_BTHE.shape), _rows(lse_BNKM, q_BTHE.shape[:3])


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
) -> tuple[Float[Array, "B T H E"], Float[Array, "B K E C"], Float[Array, "B K C E"]]:
  """Gradients of queries, keys and values, the last two in float32, from what `forward` gave."""
  K, C, dtype = k_BKEC.shape[1], k_BKEC.shape[3], q_BTHE.dtype
  cut = _cut(view, q_BTHE.shape[1], C)
  q_BNKME, k_BNKEC, v_BNKCE = _queries(q_BTHE, K), _key_blocks(k_BKEC), _value_blocks(v_BKCE)
  gradient_BNKME, lse_BNKM, out_BNKME = (_queries(x, K) for x in (gradient_BTHE, lse_BTH, out_BTHE))

  def of_queries(index, found):
    q_BKME, gradient_BKME, lse_BKM = (_at(x, index) for x in (q_BNKME, gradient_BNKME, lse_BNKM))
    # The mean of the weights' gradients under the weights.
    mean_BKM1 = row_sums(gradient_BKME.astype(jnp.float32) * _at(out_BNKME, index).astype(jnp.float32))

    def of_keys(at, carry):
      q_gradient_BKME, k_gradient_BNKEC, v_gradient_BNKCE = carry
      mask_BTC = _mask(cut, index, at)
      scores_BKMC, pull = jax.vjp(lambda q, k: _scores(q, k, mask_BTC, scale, softcap), q_BKME, _at(k_BNKEC, at))
      weights_BKMC = jnp.exp(scores_BKMC - lse_BKM[..., None])
      weight_gradient_BKMC = product("BKME,BKCE->BKMC", gradient_BKME, _at(v_BNKCE, at))
      q_added_BKME, k_added_BKEC = pull(weights_BKMC * (weight_gradient_BKMC - mean_BKM1))
      v_added_BKCE = product("BKMC,BKME->BKCE", weights_BKMC.astype(dtype), gradient_BKME)
      return (
        q_gradient_BKME + q_added_BKME,
        _put(k_gradient_BNKEC, _at(k_gradient_BNKEC, at) + k_added_BKEC, at),
        _put(v_gradient_BNKCE, _at(v_gradient_BNKCE, at) + v_added_BKCE, at),
      )

    q_gradient_BNKME, *of_all_keys = found
    start = jnp.zeros(q_BKME.shape, jnp.float32), *of_all_keys
    q_gradient_BKME, *of_all_keys = jax.lax.fori_loop(cut.first_N[index], cut.end_N[index], of_keys, start)
    return _put(q_gradient_BNKME, q_gradient_BKME.astype(dtype), index), *of_all_keys

  start = jnp.zeros_like(q_BNKME), jnp.zeros(k_BNKEC.shape, jnp.float32), jnp.zeros(v_BNKCE.shape, jnp.float32)
  q_gradient_BNKME, k_gradient_BNKEC, v_gradient_BNKCE = jax.lax.fori_loop(0, q_BNKME.shape[1], of_queries, start)
  k_gradient_BKEC = k_gradient_BNKEC.transpose(0, 2, 3, 1, 4).reshape(*k_BKEC.shape[:3], -1)[..., :C]
  v_gradient_BKCE = v_gradient_BNKCE.transpose(0, 2, 1, 3, 4).reshape(*v_BKCE.shape[:2], -1, v_BKCE.shape[3])
  return _rows(q_gradient_BNKME, q_BTHE.shape), k_gradient_BKEC, v_gradient_BKCE[:, :, :C]


def _scores(q_BKME, k_BKEC, mask_BTC, scale: float, softcap: float | None) -> Float[Array, "B K M C"]:
  scores_BKMC = product("BKME,BKEC->BKMC", q_BKME, k_BKEC) * scale
  B, K, M, C = scores_BKMC.shape
  T = mask_BTC.shape[1]
  seen_BKTGC = jnp.where(
    mask_BTC[:, None, :, None], soft_capped(scores_BKMC, softcap).reshape(B, K, T, M // T, C), _HIDDEN
  )
  return seen_BKTGC.reshape(B, K, M, C)


def _mask(cut: Cut, index, at) -> Bool[Array, "B T C"]:
  queries, keys = (Layout(*(_at(x, place) for x in cut_)) for cut_, place in ((cut.queries, index), (cut.keys, at)))
  return visible(queries, keys, cut.window)


def _cut(view: View, T: int, C: int) -> Cut:
  block_T, block_C = _block(T), _block(C)
  queries, keys = (Layout(*(_split(x, _block(x.shape[1])) for x in of)) for of in (view.queries, view.keys))
  first_BNT = _split(view.first_BT, block_T) + jnp.maximum(queries.positions - view.window + 1, 0)
  first_N = jnp.where(queries.segments > 0, first_BNT, C).min(axis=(0, 2)) // block_C
  end_N = view.start + block_T * (jnp.arange(first_N.shape[0]) + 1)  # a query sees no key behind its own place
  return Cut(queries, keys, first_N, jnp.minimum(-(-end_N // block_C), -(-C // block_C)), view.window)


def _block(size: int) -> int:
  """Size of a block; for short rows the whole row."""
  return min(_CPU_BLOCK if platform() == "cpu" else _BLOCK, size)


def _split(x: Array, block: int, axis: int = 1) -> Array:
  """`x` with an axis as two, blocks and what is in them; the last block is filled up with zeros."""
  missing = -x.shape[axis] % block
  if missing:
    x = jnp.pad(x, [(0, missing if place == axis else 0) for place in range(x.ndim)])
  return x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])


def _queries(x_BTHX: Float[Array, "B T H *X"], K: int) -> Float[Array, "B N K M *X"]:
  """Queries, or what there is one of for each query and head, in blocks; the heads of a group are together."""
  B, T, H, *X = x_BTHX.shape
  x_BNTKGX = _split(x_BTHX.reshape(B, T, K, H // K, *X), _block(T))
  return x_BNTKGX.swapaxes(2, 3).reshape(B, x_BNTKGX.shape[1], K, -1, *X)


def _rows(x_BNKMX: Float[Array, "B N K M *X"], shape: tuple[int, ...]) -> Float[Array, "B T H *X"]:
  """What `_queries` cut, as it was."""
  B, T, H, *X = shape
  N, K = x_BNKMX.shape[1:3]
  return x_BNKMX.reshape(B, N, K, -1, H // K, *X).swapaxes(2, 3).reshape(B, -1, H, *X)[:, :T]


def _key_blocks(k_BKEC: Float[Array, "B K E C"]) -> Float[Array, "B N K E C"]:
  return _split(k_BKEC, _block(k_BKEC.shape[3]), 3).transpose(0, 3, 1, 2, 4)


def _value_blocks(v_BKCE: Float[Array, "B K C E"]) -> Float[Array, "B N K C E"]:
  return _split(v_BKCE, _block(v_BKCE.shape[2]), 2).swapaxes(1, 2)


def _at(x: Array, index) -> Array:
  """A block."""
  return jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False)


def _put(x: Array, block: Array, index) -> Array:
  return jax.lax.dynamic_update_index_in_dim(x, block, index, 1)
