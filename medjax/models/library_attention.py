"""Attention by the kernels of others: splash on TPU, cuDNN on GPU. JAX differentiates them; each is for one device."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Float

from medjax.arrays import Array
from medjax.models.layers import KEPT
from medjax.models.views import View, visible

_BLOCK, _TILE = 512, 128  # of splash: its blocks are multiples of the tile, and rows whole blocks


def splash(
  q_BTHE: Float[Array, "B T H E"],
  k_BKET: Float[Array, "B K E T"],
  v_BKTE: Float[Array, "B K T E"],
  view: View,
  scale: float,
  softcap: float | None,
  interpret: bool = False,
) -> Float[Array, "B T H E"]:
  """Splash attention, of rows whose segments are plain sequences: branches, positions and windows are not looked at.

  Its output and log-sum-exp bear the name that `remat = products` keeps. Queries are scaled in their own dtype.

  Args:
    q_BTHE: queries.
    k_BKET: keys of the same tokens, transposed.
    v_BKTE: values.
    view: gives the segments.
    scale: what scores are multiplied by.
    softcap: of the scores, see `layers.soft_capped`.
    interpret: run the kernels as XLA operations, on any backend: for tests.
  """
  T, H = q_BTHE.shape[1:3]
  block = min(_BLOCK, -(-T // _TILE) * _TILE)
  missing = -T % block

  def filled(x: Array, axis: int) -> Array:
    return jnp.pad(x, [(0, missing if place == axis else 0) for place in range(x.ndim)])

  def one_row(q_HTE, k_KTE, v_KTE, segments_T):
    return kernel(q_HTE, k_KTE, v_KTE, kernels.SegmentIds(segments_T, segments_T))

  blocks = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([masks.CausalMask((T + missing, T + missing))] * H),
    block_sizes=kernels.BlockSizes(**{f"block_{name}": block for name in blocks}, k_layout=kernels.QKVLayout.SEQ_MINOR),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap,
    residual_checkpoint_name=KEPT,
    interpret=interpret,
  )
  out_BHTE = jax.vmap(one_row)(
    filled((q_BTHE * jnp.asarray(scale, q_BTHE.dtype)).swapaxes(1, 2), 2),
    filled(k_BKET, 3).swapaxes(2, 3),  # the kernel turns them back
    filled(v_BKTE, 2),
    filled(view.queries.segments, 1),
  )
  return out_BHTE[:, :, :T].swapaxes(1, 2)


def cudnn(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  view: View,
  scale: float,
  softcap: None,
  implementation: str = "cudnn",
) -> Float[Array, "B T H E"]:
  """Attention by cuDNN under the mask of `visible`, of which there is one of T x C for each row.

  The mask goes in as a bias, so hidden blocks are computed too. What cuDNN's backward pass reads has no name that
  `remat` knows: the forward kernel runs again.

  Args:
    q_BTHE: queries.
    k_BKEC: keys, transposed.
    v_BKCE: values.
    view: which keys a query sees.
    scale: what scores are multiplied by.
    softcap: cuDNN has none.
    implementation: of `jax.nn.dot_product_attention`; `xla` runs on any backend, for tests.
  """
  mask_B1TC = visible(view.queries, view.keys, view.window)[:, None]
  k_BCKE, v_BCKE = k_BKEC.transpose(0, 3, 1, 2), v_BKCE.swapaxes(1, 2)
  return jax.nn.dot_product_attention(
    q_BTHE, k_BCKE, v_BCKE, mask=mask_B1TC, scale=scale, implementation=implementation
  )
