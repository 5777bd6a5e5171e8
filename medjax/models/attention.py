"""Attention over packed rows: one mask rule, one function, grouped-query heads."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from flax import nnx
from jaxtyping import Bool, Float, Int

from medjax.arrays import Array
from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.layers import Linear, RMSNorm, keep, soft_capped
from medjax.models.lora import Adapters, LoraConfig
from medjax.models.rope import Tables, apply_rope
from medjax.models.sharding import constrain

IMPLEMENTATIONS = ("auto", "xla")


class Layout(NamedTuple):
  """What each token of a row is, all int32 [B, T].

  Attributes:
    positions: restart at 0 with a segment, and at the prompt's end with each branch.
    segments: number of the example in the row, from 1; 0 is padding.
    branches: 0 for the prompt, from 1 for the completions that continue it.
  """

  positions: Int[Array, "B T"]
  segments: Int[Array, "B T"]
  branches: Int[Array, "B T"]

  @classmethod
  def plain(cls, mask_BT: Int[Array, "B T"]) -> "Layout":
    """One sequence a row, padded on either side; `mask` is 1 at real tokens."""
    mask_BT = mask_BT.astype(jnp.int32)
    return cls(jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0), mask_BT, jnp.zeros_like(mask_BT))


def visible(queries: Layout, keys: Layout, window: int | None) -> Bool[Array, "B T C"]:
  """The mask rule: same segment, prompt or own branch, not after the query, less than `window` positions back.

  Padding sees padding only, so that no row of the softmax is empty.
  """
  back_BTC = queries.positions[:, :, None] - keys.positions[:, None, :]
  same_segment_BTC = queries.segments[:, :, None] == keys.segments[:, None, :]
  in_branch_BTC = (keys.branches[:, None, :] == 0) | (keys.branches[:, None, :] == queries.branches[:, :, None])
  visible_BTC = same_segment_BTC & in_branch_BTC & (back_BTC >= 0)
  return visible_BTC if window is None else visible_BTC & (back_BTC < window)


@functools.cache
def check_implementation(name: str) -> str:
  """The implementation that `name` stands for, logged once; UserError where there is none of that name."""
  if name not in IMPLEMENTATIONS:
    raise UserError(f"model.attention is {name!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
  logging.info("attention: xla (dense, float32 softmax)")
  return "xla"


def attend(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  visible_BTC: Bool[Array, "B T C"],
  scale: float,
  softcap: float | None = None,
) -> Float[Array, "B T H E"]:
  """Softmax attention, scores in float32; each kv head serves H / K query heads (Ainslie et al., arXiv 2305.13245).

  Args:
    q_BTHE: queries.
    k_BKEC: keys, transposed as a cache keeps them.
    v_BKCE: values.
    visible_BTC: which keys a query sees.
    scale: what scores are multiplied by.
    softcap: of the scores, see `soft_capped`.
  """
  B, T, H, E = q_BTHE.shape
  K, C = k_BKEC.shape[1], k_BKEC.shape[3]
  G = H // K
  # Heads before tokens, the query heads of a group beside each other: each product is one plain batched matmul. With
  # the axes left to the compiler, forward and backward took twice as long on a CPU.
  # Keys come transposed: scores are rows times columns, which a CPU decodes with faster.
  # Queries stay where their tokens are; keys and values of all tokens come to them.
  q_BKME = q_BTHE.reshape(B, T, K, G, E).transpose(0, 2, 1, 3, 4).reshape(B, K, T * G, E)
  q_BKME = keep(constrain(q_BKME, "BKT-"))
  k_BKEC, v_BKCE = keep(constrain(k_BKEC, "BK--")), keep(constrain(v_BKCE, "BK--"))
  scores_BKMC = jnp.einsum("BKME,BKEC->BKMC", q_BKME, k_BKEC, preferred_element_type=jnp.float32) * scale
  scores_BKMC = soft_capped(scores_BKMC, softcap)
  scores_BKTGC = jnp.where(visible_BTC[:, None, :, None], scores_BKMC.reshape(B, K, T, G, C), -1e30)
  weights_BKMC = keep(jax.nn.softmax(scores_BKTGC, axis=-1).astype(v_BKCE.dtype).reshape(B, K, T * G, C))
  out_BKME = jnp.einsum("BKMC,BKCE->BKME", weights_BKMC, v_BKCE)
  return keep(out_BKME.reshape(B, K, T, G, E).transpose(0, 2, 1, 3, 4).reshape(B, T, H, E))


class Attention(nnx.Module):
  """Rotary grouped-query attention with an optional key-value cache."""

  def __init__(self, config: ModelConfig, lora: LoraConfig | None, quantize: str, *, rngs: nnx.Rngs):
    self.q, self.k, self.v = (
      Linear(name, config, config.qkv_bias, lora, quantize, rngs=rngs) for name in ("q", "k", "v")
    )
    self.o = Linear("o", config, config.output_bias, lora, quantize, rngs=rngs)
    if config.qk_norm:
      self.q_norm = RMSNorm(config.head_width, config.norm_eps, config.offset_norms)
      self.k_norm = RMSNorm(config.head_width, config.norm_eps, config.offset_norms)
    self.scale = (config.query_scalar or config.head_width) ** -0.5
    self.softcap = config.attention_softcap

  def __call__(
    self,
    x_BTD: Float[Array, "B T D"],
    tables: Tables,
    visible_BTC: Bool[Array, "B T C"],
    store,
    adapters: Adapters | None,
  ):
    """Attends; `store(k_BKET, v_BKTE)` gives the keys and values to look at, and what to carry on."""
    q_BTHE = constrain(self.q(x_BTD, adapters), "BTHE")
    k_BTKE = constrain(self.k(x_BTD, adapters), "BTKE")
    v_BTKE = constrain(self.v(x_BTD, adapters), "BTKE")
    if hasattr(self, "q_norm"):
      q_BTHE, k_BTKE = self.q_norm(keep(q_BTHE)), self.k_norm(keep(k_BTKE))
    k_BTKE = apply_rope(k_BTKE, tables)
    k_BKEC, v_BKCE, carry = store(k_BTKE.transpose(0, 2, 3, 1), v_BTKE.transpose(0, 2, 1, 3))
    out_BTHE = attend(apply_rope(q_BTHE, tables), k_BKEC, v_BKCE, visible_BTC, self.scale, self.softcap)
    return self.o(constrain(out_BTHE, "BTHE"), adapters), carry
