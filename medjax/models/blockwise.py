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

from medjax.arrays import Array
from medjax.models.layers import soft_capped
from medjax.models.views import Layout, View, visible

BLOCK = 128
_HIDDEN = -1e30


class Cut(NamedTuple):
  """Rows in blocks, the N blocks on the leading axis, and for each block of queries the blocks of keys it looks at."""

  queries: Layout
  keys: Layout
  first_N: Int[Array, "N"]
  last_N: Int[Array, "N"]
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
  T, K = q_BTHE.shape[1], k_BKEC.shape[1]
  cut = _cut(view, T, k_BKEC.shape[3])
  q_NBKME, k_NBKEC, v_NBKCE = _queries(q_BTHE, K), _key_blocks(k_BKEC), _value_blocks(v_BKCE)

  def of_queries(_, index):
    q_BKME = q_NBKME[index]

    def of_keys(at, carry):
      out_BKME, top_BKM, total_BKM = carry
      scores_BKMC = _scores(q_BKME, _at(k_NBKEC, at), _mask(cut, index, at), scale, softcap)
      new_top_BKM = jnp.maximum(top_BKM, scores_BKMC.max(axis=-1))
      weights_BKMC = jnp.exp(scores_BKMC - new_top_BKM[..., None])
      shrink_BKM = jnp.exp(top_BKM - new_top_BKM)
      added_BKME = jnp.einsum(
        "BKMC,BKCE->BKME", weights_BKMC.astype(v_BKCE.dtype), _at(v_NBKCE, at), preferred_element_type=jnp.float32
      )
      out_BKME = out_BKME * shrink_BKM[..., None] + added_BKME
      return out_BKME, new_top_BKM, total_BKM * shrink_BKM + weights_BKMC.sum(axis=-1)

    start = jnp.zeros(q_BKME.shape, jnp.float32), jnp.full(q_BKME.shape[:3], _HIDDEN), jnp.zeros(q_BKME.shape[:3])
    out_BKME, top_BKM, total_BKM = jax.lax.fori_loop(cut.first_N[index], cut.last_N[index] + 1, of_keys, start)
    total_BKM = jnp.maximum(total_BKM, 1e-30)
    return _, ((out_BKME / total_BKM[..., None]).astype(q_BTHE.dtype), top_BKM + jnp.log(total_BKM))

  _, (out_NBKME, lse_NBKM) = jax.lax.scan(of_queries, None, jnp.arange(q_NBKME.shape[0]))
  return _rows(out_NBKME, q_BTHE.shape), _rows(lse_NBKM, q_BTHE.shape[:3])


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
  T, K, C = q_BTHE.shape[1], k_BKEC.shape[1], k_BKEC.shape[3]
  cut, dtype = _cut(view, T, C), q_BTHE.dtype
  q_NBKME, k_NBKEC, v_NBKCE = _queries(q_BTHE, K), _key_blocks(k_BKEC), _value_blocks(v_BKCE)
  gradient_NBKME, lse_NBKM = _queries(gradient_BTHE, K), _queries(lse_BTH, K)
  product_BTHE = gradient_BTHE.astype(jnp.float32) * out_BTHE.astype(jnp.float32)
  mean_NBKM = _queries(product_BTHE.sum(axis=-1), K)  # of the weights' gradients, under the weights

  def of_queries(carry, index):
    q_BKME, gradient_BKME = q_NBKME[index], gradient_NBKME[index]

    def of_keys(at, carry):
      q_gradient_BKME, k_gradient_NBKEC, v_gradient_NBKCE = carry
      mask_BTC = _mask(cut, index, at)
      scores_BKMC, pull = jax.vjp(lambda q, k: _scores(q, k, mask_BTC, scale, softcap), q_BKME, _at(k_NBKEC, at))
      weights_BKMC = jnp.exp(scores_BKMC - lse_NBKM[index][..., None])
      weight_gradient_BKMC = jnp.einsum(
        "BKME,BKCE->BKMC", gradient_BKME, _at(v_NBKCE, at), preferred_element_type=jnp.float32
      )
      q_added_BKME, k_added_BKEC = pull(weights_BKMC * (weight_gradient_BKMC - mean_NBKM[index][..., None]))
      v_added_BKCE = jnp.einsum(
        "BKMC,BKME->BKCE", weights_BKMC.astype(dtype), gradient_BKME, preferred_element_type=jnp.float32
      )
      return (
        q_gradient_BKME + q_added_BKME,
        _add_at(k_gradient_NBKEC, k_added_BKEC, at),
        _add_at(v_gradient_NBKCE, v_added_BKCE, at),
      )

    start = jnp.zeros(q_BKME.shape, jnp.float32), *carry
    q_gradient_BKME, *carry = jax.lax.fori_loop(cut.first_N[index], cut.last_N[index] + 1, of_keys, start)
    return tuple(carry), q_gradient_BKME.astype(dtype)

  zeros = jnp.zeros(k_NBKEC.shape, jnp.float32), jnp.zeros(v_NBKCE.shape, jnp.float32)
  (k_gradient_NBKEC, v_gradient_NBKCE), q_gradient_NBKME = jax.lax.scan(of_queries, zeros, jnp.arange(q_NBKME.shape[0]))
  k_gradient_BKEC = jnp.moveaxis(k_gradient_NBKEC, 0, 3).reshape(*k_BKEC.shape[:3], -1)[..., :C]
  v_gradient_BKCE = jnp.moveaxis(v_gradient_NBKCE, 0, 2).reshape(*v_BKCE.shape[:2], -1, v_BKCE.shape[3])[:, :, :C]
  return _rows(q_gradient_NBKME, q_BTHE.shape), k_gradient_BKEC, v_gradient_BKCE


def _scores(q_BKME, k_BKEC, mask_BTC, scale: float, softcap: float | None) -> Float[Array, "B K M C"]:
  scores_BKMC = jnp.einsum("BKME,BKEC->BKMC", q_BKME, k_BKEC, preferred_element_type=jnp.float32) * scale
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
  queries, keys = Layout(*map(_blocks_of_layout, view.queries)), Layout(*map(_blocks_of_layout, view.keys))
  first_NBT = _padded(view.first_BT, block_T, fill=C).reshape(view.first_BT.shape[0], -1, block_T).swapaxes(0, 1)
  back_NBT = jnp.maximum(queries.positions - view.window + 1, 0)
  first_N = jnp.where(queries.segments > 0, first_NBT + back_NBT, C).min(axis=(1, 2)) // block_C
  end_N = view.start + block_T * (jnp.arange(first_N.shape[0]) + 1)  # a query sees no key behind its own place
  return Cut(queries, keys, first_N, jnp.minimum((end_N - 1) // block_C, -(-C // block_C) - 1), view.window)


def _block(size: int) -> int:
  """Size of a block: `BLOCK`, or for short rows the whole row."""
  return min(BLOCK, size)


def _padded(x: Array, block: int, axis: int = 1, fill: int = 0) -> Array:
  """`x` with an axis filled up to a multiple of the block."""
  missing = -x.shape[axis] % block
  widths = [(0, missing if place == axis else 0) for place in range(x.ndim)]
  return jnp.pad(x, widths, constant_values=fill) if missing else x


def _blocks_of_layout(x_BT: Int[Array, "B T"]) -> Int[Array, "N B T"]:
  block = _block(x_BT.shape[1])
  return _padded(x_BT, block).reshape(x_BT.shape[0], -1, block).swapaxes(0, 1)


def _queries(x_BTHX: Float[Array, "B T H *X"], K: int) -> Float[Array, "N B K M *X"]:
  """Queries, or what there is one of for each query and head: [B, T, H, ...] in blocks, heads of a group together."""
  B, T, H, *X = x_BTHX.shape
  block = _block(T)
  x_BNTKGX = _padded(x_BTHX, block).reshape(B, -1, block, K, H // K, *X)
  return jnp.moveaxis(x_BNTKGX, (1, 0, 3), (0, 1, 2)).reshape(-1, B, K, block * (H // K), *X)


def _rows(x_NBKMX: Float[Array, "N B K M *X"], shape: tuple[int, ...]) -> Float[Array, "B T H *X"]:
  """What `_queries` cut, as it was."""
  B, T, H, *X = shape
  N, K = x_NBKMX.shape[0], x_NBKMX.shape[2]
  x_NBKTGX = x_NBKMX.reshape(N, B, K, -1, H // K, *X)
  return jnp.moveaxis(x_NBKTGX, (1, 0, 3), (0, 1, 2)).reshape(B, -1, H, *X)[:, :T]


def _key_blocks(k_BKEC: Float[Array, "B K E C"]) -> Float[Array, "N B K E C"]:
  block = _block(k_BKEC.shape[3])
  return jnp.moveaxis(_padded(k_BKEC, block, 3).reshape(*k_BKEC.shape[:3], -1, block), 3, 0)


def _value_blocks(v_BKCE: Float[Array, "B K C E"]) -> Float[Array, "N B K C E"]:
  block, (B, K, _, E) = _block(v_BKCE.shape[2]), v_BKCE.shape
  return jnp.moveaxis(_padded(v_BKCE, block, 2).reshape(B, K, -1, block, E), 2, 0)


def _at(x: Array, index) -> Array:
  return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)


def _add_at(x: Array, added: Array, index) -> Array:
  return jax.lax.dynamic_update_index_in_dim(x, _at(x, index) + added, index, 0)
