"""The decoder: embedding, scanned blocks, final norm. Hidden states out; the vocabulary is projected elsewhere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from medjax.arrays import Array
from medjax.models import kernels
from medjax.models.attention import Attention
from medjax.models.config import SLIDING, ModelConfig
from medjax.models.layers import KEPT, MLP, RMSNorm, keep, normal
from medjax.models.lora import Adapters, LoraConfig, Params
from medjax.models.rope import rope_tables, sequence_extents
from medjax.models.sharding import constrain, look_up, order_in_memory
from medjax.models.views import NO_WINDOW, Layout, View, view

_POLICIES = {
  "products": jax.checkpoint_policies.save_only_these_names(KEPT),
  "full": jax.checkpoint_policies.nothing_saveable,
}


_LANES = 128  # of a TPU: an innermost axis of fewer columns is padded to so many


class Cache(NamedTuple):
  """Keys and values of C positions for every layer, and what those positions are.

  Attributes:
    k_LBKEC: keys, transposed.
    v_LBKCE: values.
    layout: [B, C]; segment 0 where nothing is stored yet.
    extents_BX: how many tokens a sequence may come to (LongRoPE chooses its frequencies by it): [B, 1] of the one that
      each row holds, or [B, T] of each token that is written.
  """

  k_LBKEC: Float[Array, "L B K E C"]
  v_LBKCE: Float[Array, "L B K C E"]
  layout: Layout
  extents_BX: Int[Array, "B X"]


def empty_cache(config: ModelConfig, positions: int, extents_BX: Int[Array, "B X"], dtype: Any) -> Cache:
  """A cache with room for `positions` tokens a row."""
  L, K, E, B = config.num_layers, config.num_kv_heads, config.head_width, extents_BX.shape[0]
  k_LBKEC, v_LBKCE = jnp.zeros((L, B, K, E, positions), dtype), jnp.zeros((L, B, K, positions, E), dtype)
  nothing_BC = jnp.zeros((B, positions), jnp.int32)
  return Cache(k_LBKEC, v_LBKCE, Layout(nothing_BC, nothing_BC, nothing_BC), extents_BX)


def _in_place(x, order):
  """Keys or values of all layers in an order of memory that attention reads without a copy.

  Left to itself the TPU's compiler takes the order in which one column is written fastest, and then copies the keys and
  values of each layer, for each token, into the order that products read.
  """
  return order_in_memory(x, "-BK--", order)


class Block(nnx.Module):
  """Attention and feed-forward layer, each on a norm and added to the stream."""

  def __init__(self, config: ModelConfig, attention: str, lora: LoraConfig | None, quantize: str, *, rngs: nnx.Rngs):
    def norm() -> RMSNorm:
      return RMSNorm(config.width, config.norm_eps, config.offset_norms)

    self.attention_norm, self.mlp_norm = norm(), norm()
    if config.post_norms:
      self.attention_post_norm, self.mlp_post_norm = norm(), norm()
    self.attention = Attention(config, attention, lora, quantize, rngs=rngs)
    self.mlp = MLP(config, lora, quantize, rngs=rngs)

  def __call__(self, x_BTD, tables, view: View, store, adapters):
    added_BTD, carry = self.attention(self.attention_norm(x_BTD), tables, view, store, adapters)
    if hasattr(self, "attention_post_norm"):
      added_BTD = self.attention_post_norm(keep(added_BTD))
    x_BTD = keep(constrain(x_BTD + added_BTD, "BTD"))
    added_BTD = self.mlp(self.mlp_norm(x_BTD), adapters)
    if hasattr(self, "mlp_post_norm"):
      added_BTD = self.mlp_post_norm(keep(added_BTD))
    return constrain(x_BTD + added_BTD, "BTD"), carry


class Table(nnx.Module):
  """A [V, D] table: the embedding, or an untied head."""

  def __init__(self, name: str, config: ModelConfig, *, rngs: nnx.Rngs):
    setattr(self, name, normal(rngs, config.vocab_size, config.width))


class Decoder(nnx.Module):
  """A decoder-only transformer; `config` says of which family.

  Parameters are float32 where the module makes them and keep their dtype where they are loaded; `dtype` is what
  activations and products are computed in. The parameter tree is in docs/architecture.md.

  Args:
    config: shape and variant.
    dtype: compute dtype.
    attention: implementation of attention, of `kernels.choose`.
    remat: what the backward pass computes again: `none` (nothing), `products` (norms, rotations and activations, from
      the matrix products beside them, which are kept), `full` (each block).
    lora: None, or the low-rank adapters.
    quantize: how the kernels of the blocks are stored, `none`, `int8` or `nf4`; only for kernels that are frozen.
    rngs: source of the initial values.
  """

  def __init__(
    self,
    config: ModelConfig,
    dtype: Any = jnp.float32,
    attention: str = "xla",
    remat: str = "products",
    lora: LoraConfig | None = None,
    quantize: str = "none",
    *,
    rngs: nnx.Rngs,
  ):
    self.config = config
    self.dtype = dtype
    self.remat = remat
    self.embed = Table("embedding", config, rngs=rngs)
    self.blocks = nnx.vmap(lambda rngs: Block(config, attention, lora, quantize, rngs=rngs))(
      rngs.fork(split=config.num_layers)
    )
    self.final_norm = RMSNorm(config.width, config.norm_eps, config.offset_norms)
    if not config.tied_head:
      self.head = Table("kernel", config, rngs=rngs)

  def __call__(
    self, tokens_BT: Int[Array, "B T"], layout: Layout, adapters: Adapters | None = Adapters(), ahead: int = 0
  ) -> Float[Array, "B T D"]:
    """Hidden states after the final norm, in the compute dtype.

    Args:
      tokens_BT: token ids.
      layout: what they are.
      adapters: how low-rank adapters are run; None: not at all, which gives the base model.
      ahead: tokens of each sequence that are not inputs: 1 if its last token is a target only (for LongRoPE).
    """
    extents_BT = None if self.config.turn is None else sequence_extents(layout.positions, layout.segments) + ahead
    views = self._views(layout, layout, jnp.int32(0), extents_BT)
    return self._run(tokens_BT, views, lambda layer, carry, k, v: (k, v, carry), (), adapters)[0]

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
      carry = tuple(map(_in_place, carry, orders))
      return *(jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in carry), carry

    orders = (0, 1, 2, 3, 4), (0, 1, 2, 3, 4) if self.config.head_width % _LANES == 0 else (0, 1, 2, 4, 3)
    views = self._views(layout, written, start, cache.extents_BX)
    hidden_BTD, (k, v) = self._run(tokens_BT, views, store, (cache.k_LBKEC, cache.v_LBKCE), Adapters())
    return hidden_BTD, Cache(k, v, written, cache.extents_BX)

  def _views(self, queries: Layout, keys: Layout, start: Int[Array, ""], extents_BT):
    """(kind -> rotary tables and view, the kind of each layer): kinds are counted as they first occur."""
    kinds = tuple(dict.fromkeys(self.config.layer_kinds))
    shared = view(queries, keys, start, jnp.int32(NO_WINDOW))

    def of_kind(kind: str):
      window = self.config.sliding_window if kind == SLIDING else NO_WINDOW
      return rope_tables(queries.positions, extents_BT, self.config, kind), jnp.int32(window)

    stacked = jax.tree.map(lambda *of_kinds: jnp.stack(of_kinds), *map(of_kind, kinds))
    kinds_L = jnp.array([kinds.index(kind) for kind in self.config.layer_kinds])

    def view_of(kind):
      tables, window = jax.tree.map(lambda x: x[0 if len(kinds) == 1 else kind], stacked)
      return tables, shared._replace(window=window)

    return view_of, kinds_L

  def _run(self, tokens_BT, views, store, carry, adapters):
    view_of, kinds_L = views
    x_BTD = look_up(self.embed.embedding[...], tokens_BT, self.dtype)
    if self.config.scaled_embedding:
      x_BTD *= jnp.asarray(self.config.width**0.5, self.dtype)
    graph, stacked = nnx.split(self.blocks)

    def body(stream, layer_kind_params):
      x_BTD, carry = stream
      layer, kind, params = layer_kind_params
      tables, seen = view_of(kind)
      of_layer = None if adapters is None else adapters.fold(layer)
      block = nnx.merge(graph, params)
      return block(x_BTD, tables, seen, lambda k, v: store(layer, carry, k, v), of_layer), None

    if self.remat != "none":
      body = jax.checkpoint(body, prevent_cse=False, policy=_POLICIES[self.remat])
    layers = (jnp.arange(self.config.num_layers), kinds_L, stacked)
    (x_BTD, carry), _ = jax.lax.scan(body, (x_BTD, carry), layers)
    return self.final_norm(x_BTD), carry


def build(
  config: ModelConfig,
  dtype: str,
  attention: str = "auto",
  remat: str = "products",
  lora: LoraConfig | None = None,
  quantize: str = "none",
  plain_rows: bool = False,
) -> nnx.GraphDef:
  """The decoder as a graph definition without arrays; `bind(graph, params)` gives the module back.

  The kernel of attention is chosen for the devices of the mesh in use.

  Args:
    config: shape and variant.
    dtype: compute dtype.
    attention: `model.attention` of a run's config.
    remat: see `Decoder`.
    lora: None, or the low-rank adapters.
    quantize: see `Decoder`.
    plain_rows: whether each prompt of a row has one completion, as in SFT.
  """
  attention = kernels.choose(attention, config, dtype, plain_rows)
  return nnx.graphdef(
    nnx.eval_shape(lambda: Decoder(config, jnp.dtype(dtype), attention, remat, lora, quantize, rngs=nnx.Rngs(0)))
  )


def bind(graph: nnx.GraphDef, params: Params) -> Decoder:
  """The module with these parameters in it."""
  return nnx.merge(graph, nnx.State(params))


def abstract_params(
  config: ModelConfig, dtype: Any = jnp.float32, lora: LoraConfig | None = None, quantize: str = "none"
) -> Params:
  """Shapes of every parameter, as a plain nested dict of ShapeDtypeStruct.

  Adapters and what belongs to quantized kernels have the dtypes they are trained and stored in, all else `dtype`.
  """
  module = nnx.eval_shape(lambda: Decoder(config, lora=lora, quantize=quantize, rngs=nnx.Rngs(0)))
  own = ("codes", "block_scale", "lora_a", "lora_b")

  def shape(path, x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype if path[-1].key in own else dtype)

  return jax.tree_util.tree_map_with_path(shape, nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def cast_weights(params: Params, dtype: Any) -> Params:
  """Weights in the dtype that products read them in, so that no loop casts them again and again.

  Results stay as they are to the bit: scales of norms and of quantized kernels are read in float32, so that they keep
  their dtype, as codes do.

  Args:
    params: a tree of arrays, changed in place: no more than one array is held in both dtypes.
    dtype: compute dtype of the decoder.

  Returns:
    The same tree.
  """
  for key, x in params.items():
    if isinstance(x, dict):
      cast_weights(x, dtype)
    elif key not in ("scale", "codes", "block_scale") and x.dtype != dtype:
      params[key] = x.astype(dtype)
  return params


def weight_shapes(config: ModelConfig, dtype: str, lora: LoraConfig | None = None, kind: str = "none") -> Params:
  """Shapes of the parameters that `cast_weights` gives, stored in float32 before; adapters are on kernels of `kind`."""
  return jax.eval_shape(lambda params: cast_weights(params, dtype), abstract_params(config, "float32", lora, kind))


def weight_bytes(config: ModelConfig, dtype: str, lora: LoraConfig | None = None, kind: str = "none") -> int:
  """Bytes of those parameters."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(weight_shapes(config, dtype, lora, kind)))


def init_params(config: ModelConfig, seed: int = 0, lora: LoraConfig | None = None) -> Params:
  """Random float32 parameters."""
  return nnx.to_pure_dict(nnx.state(Decoder(config, lora=lora, rngs=nnx.Rngs(seed)), nnx.Param))


def head_matrix(params: Params) -> Float[Array, "V D"]:
  """The vocabulary projection: the head's own table, or the embedding where they are tied."""
  return params["head"]["kernel"] if "head" in params else params["embed"]["embedding"]
