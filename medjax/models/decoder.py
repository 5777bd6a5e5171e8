"""The decoder: embedding, scanned blocks, final norm. Hidden states out; the vocabulary is projected elsewhere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from medjax.arrays import Array
from medjax.models.attention import Attention, Layout, check_implementation, visible
from medjax.models.config import ModelConfig
from medjax.models.layers import KEPT, MLP, RMSNorm, keep, normal, rope_tables
from medjax.models.sharding import constrain, look_up

Params = dict[str, Any]
_POLICIES = {
  "products": jax.checkpoint_policies.save_only_these_names(KEPT),
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Cache(NamedTuple):
  """Keys and values of C positions for every layer, and what those positions are."""

  k_LBKEC: Float[Array, "L B K E C"]
  v_LBKCE: Float[Array, "L B K C E"]
  layout: Layout  # [B, C]; segment 0 where nothing is stored yet


def empty_cache(config: ModelConfig, batch: int, positions: int, dtype: Any) -> Cache:
  """A cache with room for `positions` tokens a row."""
  L, K, E = config.num_layers, config.num_kv_heads, config.head_width
  k_LBKEC, v_LBKCE = jnp.zeros((L, batch, K, E, positions), dtype), jnp.zeros((L, batch, K, positions, E), dtype)
  nothing_BC = jnp.zeros((batch, positions), jnp.int32)
  return Cache(k_LBKEC, v_LBKCE, Layout(nothing_BC, nothing_BC, nothing_BC))


class Block(nnx.Module):
  """Attention and feed-forward layer, each on a norm and added to the stream."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, config.norm_eps)
    self.attention = Attention(config, rngs=rngs)
    self.mlp_norm = RMSNorm(config.width, config.norm_eps)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(self, x_BTD, tables, visible_BTC, store):
    attended_BTD, carry = self.attention(self.attention_norm(x_BTD), tables, visible_BTC, store)
    x_BTD = keep(constrain(x_BTD + attended_BTD, "BTD"))
    return constrain(x_BTD + self.mlp(self.mlp_norm(x_BTD)), "BTD"), carry


class Table(nnx.Module):
  """A [V, D] table: the embedding, or an untied head."""

  def __init__(self, name: str, config: ModelConfig, *, rngs: nnx.Rngs):
    setattr(self, name, normal(rngs, config.vocab_size, config.width))


class Decoder(nnx.Module):
  """A decoder-only transformer of the Llama family.

  Parameters are float32 where the module makes them and keep their dtype where they are loaded; `dtype` is what
  activations and products are computed in. The parameter tree is in docs/architecture.md.

  Args:
    config: shape and variant.
    dtype: compute dtype.
    attention: implementation of attention, `auto` or `xla`.
    remat: what the backward pass computes again: `none` (nothing), `products` (norms, rotations and activations, from
      the matrix products beside them, which are kept), `full` (each block).
    rngs: source of the initial values.
  """

  def __init__(
    self,
    config: ModelConfig,
    dtype: Any = jnp.float32,
    attention: str = "auto",
    remat: str = "products",
    *,
    rngs: nnx.Rngs,
  ):
    check_implementation(attention)
    self.config = config
    self.dtype = dtype
    self.remat = remat
    self.embed = Table("embedding", config, rngs=rngs)
    self.blocks = nnx.vmap(lambda rngs: Block(config, rngs=rngs))(rngs.fork(split=config.num_layers))
    self.final_norm = RMSNorm(config.width, config.norm_eps)
    if not config.tied_head:
      self.head = Table("kernel", config, rngs=rngs)

  def __call__(self, tokens_BT: Int[Array, "B T"], layout: Layout) -> Float[Array, "B T D"]:
    """Hidden states after the final norm, in the compute dtype."""
    visible_BTT = visible(layout, layout, self.config.sliding_window)
    hidden_BTD, _ = self._run(tokens_BT, layout, visible_BTT, lambda layer, carry, k, v: (k, v, carry), ())
    return hidden_BTD

  def extend(
    self, tokens_BT: Int[Array, "B T"], layout: Layout, cache: Cache, start: Int[Array, ""]
  ) -> tuple[Float[Array, "B T D"], Cache]:
    """Writes T tokens into the cache at `start`; their hidden states, with all that the cache holds in view."""
    written = Layout(
      *(jax.lax.dynamic_update_slice(old, new, (0, start)) for old, new in zip(cache.layout, layout, strict=True))
    )

    def store(layer, carry, k_BKET, v_BKTE):
      new = (k_BKET, (layer, 0, 0, 0, start)), (v_BKTE, (layer, 0, 0, start, 0))
      carry = tuple(jax.lax.dynamic_update_slice(old, x[None], at) for old, (x, at) in zip(carry, new, strict=True))
      return *(jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in carry), carry

    visible_BTC = visible(layout, written, self.config.sliding_window)
    hidden_BTD, (k, v) = self._run(tokens_BT, layout, visible_BTC, store, (cache.k_LBKEC, cache.v_LBKCE))
    return hidden_BTD, Cache(k, v, written)

  def _run(self, tokens_BT, layout, visible_BTC, store, carry):
    embedding_VD = self.embed.embedding[...]
    x_BTD = look_up(embedding_VD, tokens_BT, self.dtype)
    tables = rope_tables(layout.positions, self.config)
    graph, stacked = nnx.split(self.blocks)

    def body(stream, layer_and_params):
      x_BTD, carry = stream
      layer, params = layer_and_params
      block = nnx.merge(graph, params)
      return block(x_BTD, tables, visible_BTC, lambda k, v: store(layer, carry, k, v)), None

    if self.remat != "none":
      body = jax.checkpoint(body, prevent_cse=False, policy=_POLICIES[self.remat])
    (x_BTD, carry), _ = jax.lax.scan(body, (x_BTD, carry), (jnp.arange(self.config.num_layers), stacked))
    return self.final_norm(x_BTD), carry


def build(config: ModelConfig, dtype: str, attention: str = "auto", remat: str = "products") -> nnx.GraphDef:
  """The decoder as a graph definition without arrays; `bind(graph, params)` gives the module back."""
  module = nnx.eval_shape(lambda: Decoder(config, jnp.dtype(dtype), attention, remat, rngs=nnx.Rngs(0)))
  return nnx.graphdef(module)


def bind(graph: nnx.GraphDef, params: Params) -> Decoder:
  """The module with these parameters in it."""
  return nnx.merge(graph, nnx.State(params))


def abstract_params(config: ModelConfig, dtype: Any = jnp.float32) -> Params:
  """Shapes of every parameter, as a plain nested dict of ShapeDtypeStruct."""
  module = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
  shapes = nnx.to_pure_dict(nnx.state(module, nnx.Param))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def init_params(config: ModelConfig, seed: int = 0) -> Params:
  """Random float32 parameters."""
  return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(seed)), nnx.Param))


def head_matrix(params: Params) -> Float[Array, "V D"]:
  """The vocabulary projection: the head's own table, or the embedding where they are tied."""
  return params["head"]["kernel"] if "head" in params else params["embed"]["embedding"]
