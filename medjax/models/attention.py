"""Attention over packed rows: one function, kernels behind it (`models.kernels` chooses), grouped-query heads."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from medjax.arrays import Array, product
from medjax.models import blockwise, library_attention, pallas_attention
from medjax.models.config import ModelConfig
from medjax.models.layers import Linear, RMSNorm, keep, soft_capped
from medjax.models.lora import Adapters, LoraConfig
from medjax.models.rope import Tables, apply_rope
from medjax.models.sharding import BATCH, constrain
from medjax.models.views import Layout, View, visible


def attend(
  q_BTHE: Float[Array, "B T H E"],
  k_BKEC: Float[Array, "B K E C"],
  v_BKCE: Float[Array, "B K C E"],
  view: View,
  scale: float,
  softcap: float | None = None,
  implementation: str = "xla",
) -> Float[Array, "B T H E"]:
  """Softmax attention, scores in float32; each kv head serves H / K query heads (Ainslie et al., arXiv 2305.13245).

  Args:
    q_BTHE: queries.
    k_BKEC: keys, transposed as a cache keeps them.
    v_BKCE: values.
    view: which keys a query sees.
    scale: what scores are multiplied by.
    softcap: of the scores, see `soft_capped`.
    implementation: of `kernels.choose`. A single query is always attended densely; `splash` serves rows that look at
      themselves and are whole on their device, `pallas` the others.

  Returns:
    What it is for queries that see nothing (padding) is finite and without meaning.
  """
  # Queries stay where their tokens are; keys and values of all tokens come to them.
  q_BTHE = constrain(q_BTHE, "BTHE")
  k_BKEC, v_BKCE = constrain(k_BKEC, "BK--"), constrain(v_BKCE, "BK--")
  if q_BTHE.shape[1] == 1:
    return _dense(q_BTHE, k_BKEC, v_BKCE, visible(view.queries, view.keys, view.window), scale, softcap)
  q_BTHE, k_BKEC, v_BKCE = keep(q_BTHE), keep(k_BKEC), keep(v_BKCE)
  places = _Places(q_BTHE, k_BKEC)
  if implementation == "splash" and (places.split or q_BTHE.shape[1] != k_BKEC.shape[3]):
    implementation = "pallas"
  if implementation in _KERNELS:
    return _in_blocks(q_BTHE, k_BKEC, v_BKCE, view, scale, softcap, _KERNELS[implementation])
  run = functools.partial(_LIBRARY[implementation], scale=scale, softcap=softcap)
  inputs = places.queries, places.keys, places.keys, places.view
  return keep(places.mapped(run, inputs, places.queries)(q_BTHE, k_BKEC, v_BKCE, view))


def _dense(q_BTHE, k_BKEC, v_BKCE, visible_BTC, scale, softcap):
  B, T, H, E = q_BTHE.shape
  K, C = k_BKEC.shape[1], k_BKEC.shape[3]
  G = H // K
  # Heads before tokens, the query heads of a group beside each other: each product is one plain batched matmul, of rows
  # with columns, which a CPU decodes with faster.
  q_BKME = q_BTHE.reshape(B, T, K, G, E).transpose(0, 2, 1, 3, 4).reshape(B, K, T * G, E)
  scores_BKMC = product("BKME,BKEC->BKMC", q_BKME, k_BKEC) * scale
  scores_BKMC = soft_capped(scores_BKMC, softcap)
  scores_BKTGC = jnp.where(visible_BTC[:, None, :, None], scores_BKMC.reshape(B, K, T, G, C), -1e30)
  weights_BKMC = jax.nn.softmax(scores_BKTGC, axis=-1).astype(v_BKCE.dtype).reshape(B, K, T * G, C)
  out_BKME = product("BKMC,BKCE->BKME", weights_BKMC, v_BKCE, v_BKCE.dtype)
  return out_BKME.reshape(B, K, T, G, E).transpose(0, 2, 1, 3, 4).reshape(B, T, H, E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _in_blocks(q_BTHE, k_BKEC, v_BKCE, view, scale, softcap, kernel):
  return _in_blocks_forward(q_BTHE, k_BKEC, v_BKCE, view, scale, softcap, kernel)[0]


def _in_blocks_forward(q_BTHE, k_BKEC, v_BKCE, view, scale, softcap, kernel):
  places = _Places(q_BTHE, k_BKEC)

  def run(q_BTHE, k_BKEC, v_BKCE, view):
    return kernel.forward(q_BTHE, k_BKEC, v_BKCE, places.local(view), scale, softcap)

  inputs = places.queries, places.keys, places.keys, places.view
  out_BTHE, lse_BTH = places.mapped(run, inputs, (places.queries, places.queries))(q_BTHE, k_BKEC, v_BKCE, view)
  out_BTHE, lse_BTH = keep(out_BTHE), keep(lse_BTH)
  return out_BTHE, (q_BTHE, k_BKEC, v_BKCE, view, out_BTHE, lse_BTH)


def _in_blocks_backward(scale, softcap, kernel, residuals, gradient_BTHE):
  q_BTHE, k_BKEC, v_BKCE, view, out_BTHE, lse_BTH = residuals
  places = _Places(q_BTHE, k_BKEC)

  def run(q_BTHE, k_BKEC, v_BKCE, view, out_BTHE, lse_BTH, gradient_BTHE):
    own = places.local(view)
    found = kernel.backward(q_BTHE, k_BKEC, v_BKCE, own, scale, softcap, out_BTHE, lse_BTH, gradient_BTHE)
    q_gradient_BTHE, *of_keys = found
    if places.split:
      of_keys = jax.lax.psum(of_keys, "sequence")
    return q_gradient_BTHE, of_keys[0].astype(k_BKEC.dtype), of_keys[1].astype(v_BKCE.dtype)

  inputs = places.queries, places.keys, places.keys, places.view, *(places.queries,) * 3
  outputs = places.queries, places.keys, places.keys
  return *places.mapped(run, inputs, outputs)(*residuals, gradient_BTHE), None


_in_blocks.defvjp(_in_blocks_forward, _in_blocks_backward)


class _Places:
  """Where the arrays of attention are on the mesh in use, so that each device runs a kernel on its own part."""

  def __init__(self, q_BTHE, k_BKEC):
    self._mesh = mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
      self.split, self.queries, self.keys, self.view = False, None, None, None
      return
    (B, T), K = q_BTHE.shape[:2], k_BKEC.shape[1]
    rows = BATCH if B % math.prod(mesh.shape[axis] for axis in BATCH) == 0 else None
    heads = "tensor" if K % mesh.shape["tensor"] == 0 else None
    self.split = mesh.shape["sequence"] > 1 and T % mesh.shape["sequence"] == 0
    tokens = "sequence" if self.split else None
    self.queries, self.keys = P(rows, tokens, heads), P(rows, heads)
    own, all_ = (Layout(*(P(rows, place),) * 3) for place in (tokens, None))
    self.view = View(own, all_, P(rows, tokens), P(), P())

  def mapped(self, function, inputs, outputs):
    """`function` on each device's part; itself outside a mesh."""
    if self._mesh.empty:
      return function
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)

  def local(self, view: View) -> View:
    """The view of a device's own queries."""
    if not self.split:
      return view
    return view._replace(start=view.start + jax.lax.axis_index("sequence") * view.first_BT.shape[1])


# Kernels with a backward pass of their own, and functions that JAX differentiates.
_KERNELS = {"xla": blockwise, "pallas": pallas_attention}
_LIBRARY = {"splash": library_attention.splash, "cudnn": library_attention.cudnn}


class Attention(nnx.Module):
  """Rotary grouped-query attention with an optional key-value cache."""

  def __init__(
    self, config: ModelConfig, implementation: str, lora: LoraConfig | None, quantize: str, *, rngs: nnx.Rngs
  ):
    self.implementation = implementation
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
    self, x_BTD: Float[Array, "B T D"], tables: Tables, view: View, store, adapters: Adapters | None
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Attends; `store(k_BKET, v_BKTE)` gives the keys and values to look at, and what to carry on."""
    q_BTHE = constrain(self.q(x_BTD, adapters), "BTHE")
    k_BTKE = constrain(self.k(x_BTD, adapters), "BTKE")
    v_BTKE = constrain(self.v(x_BTD, adapters), "BTKE")
    if hasattr(self, "q_norm"):
      q_BTHE, k_BTKE = self.q_norm(keep(q_BTHE)), self.k_norm(keep(k_BTKE))
    q_BTHE, k_BTKE = apply_rope(q_BTHE, tables), apply_rope(k_BTKE, tables)
    k_BKEC, v_BKCE, carry = store(k_BTKE.transpose(0, 2, 3, 1), v_BTKE.transpose(0, 2, 1, 3))
    out_BTHE = attend(q_BTHE, k_BKEC, v_BKCE, view, self.scale, self.softcap, self.implementation)
    return self.o(constrain(out_BTHE, "BTHE"), adapters), carry
