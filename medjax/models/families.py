"""Families of decoders: Hugging Face's configs and tensor names on one side, medjax's on the other."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.errors import UserError
from medjax.models.config import Llama3Scaling, ModelConfig

_FAMILIES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}

# What transformers takes where config.json leaves a key out (configuration_llama.py, configuration_mistral.py).
_DEFAULTS = {
  "llama": {"max_position_embeddings": 2048, "sliding_window": None},
  "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
}


@dataclasses.dataclass(frozen=True)
class Slot:
  """Where a tensor of a file belongs in the parameter tree, and how its axes are turned.

  The target is `tensor.reshape(view).transpose(axes)`, reshaped to `target` where a view splits an axis further.

  Attributes:
    path: keys of the parameter tree, such as `("blocks", "attention", "q")`.
    layer: index on the leading layer axis, or None for a parameter that is not stacked.
    shape: the tensor's shape in the file, as Hugging Face has it.
    view: the same elements with the head axis split off.
    axes: order of the view's axes in the target.
    target: shape of the target, without the layer axis.
  """

  path: tuple[str, ...]
  layer: int | None
  shape: tuple[int, ...]
  view: tuple[int, ...]
  axes: tuple[int, ...]
  target: tuple[int, ...]

  def write(self, tensor: np.ndarray, target: np.ndarray) -> None:
    """Writes a tensor of the file into its (contiguous) place, cast to the place's dtype."""
    turned = tensor.reshape(self.view).transpose(self.axes)
    target.reshape(turned.shape)[...] = turned


def _slot(path: str, layer: int | None, shape: tuple[int, ...], view=None, axes=None) -> Slot:
  view = shape if view is None else view
  axes = tuple(range(len(view))) if axes is None else axes
  return Slot(tuple(path.split(".")), layer, shape, view, axes, tuple(view[axis] for axis in axes))


def tensor_table(config: ModelConfig) -> dict[str, Slot]:
  """Every tensor that a Hugging Face model of this config holds, by name, with its place in the parameter tree."""
  V, D, F = config.vocab_size, config.width, config.ffn_width
  H, K, E = config.num_heads, config.num_kv_heads, config.head_width
  table = {"model.embed_tokens.weight": _slot("embed.embedding", None, (V, D))}
  for i in range(config.num_layers):
    block = f"model.layers.{i}"
    table |= {
      f"{block}.input_layernorm.weight": _slot("blocks.attention_norm.scale", i, (D,)),
      f"{block}.self_attn.q_proj.weight": _slot("blocks.attention.q", i, (H * E, D), (H, E, D), (2, 0, 1)),
      f"{block}.self_attn.k_proj.weight": _slot("blocks.attention.k", i, (K * E, D), (K, E, D), (2, 0, 1)),
      f"{block}.self_attn.v_proj.weight": _slot("blocks.attention.v", i, (K * E, D), (K, E, D), (2, 0, 1)),
      f"{block}.self_attn.o_proj.weight": _slot("blocks.attention.o", i, (D, H * E), (D, H, E), (1, 2, 0)),
      f"{block}.post_attention_layernorm.weight": _slot("blocks.mlp_norm.scale", i, (D,)),
      f"{block}.mlp.gate_proj.weight": _slot("blocks.mlp.gate", i, (F, D), axes=(1, 0)),
      f"{block}.mlp.up_proj.weight": _slot("blocks.mlp.up", i, (F, D), axes=(1, 0)),
      f"{block}.mlp.down_proj.weight": _slot("blocks.mlp.down", i, (D, F), axes=(1, 0)),
    }
  table["model.norm.weight"] = _slot("final_norm.scale", None, (D,))
  if not config.tied_head:
    table["lm_head.weight"] = _slot("head.kernel", None, (V, D))
  return table


def config_from_hf(hf: Mapping[str, Any], where: str) -> ModelConfig:
  """A Hugging Face `config.json` as a ModelConfig.

  Both forms are read: `rope_parameters` of transformers 5, and the older `rope_theta` with `rope_scaling`.

  Args:
    hf: the parsed JSON.
    where: the file's name, for messages.

  Raises:
    UserError: an architecture, activation, bias, rotary scaling or quantization that medjax does not have, or a
      missing or nonsensical size.
  """
  family = _family(hf, where)
  hf = {**_DEFAULTS[family], **hf}
  heads = _size(hf, "num_attention_heads", where)
  width = _size(hf, "hidden_size", where)
  kv_heads = heads if hf.get("num_key_value_heads") is None else _size(hf, "num_key_value_heads", where)
  if heads % kv_heads:
    raise UserError(f"{where}: num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}")
  if hf.get("head_dim") is not None:
    head_width = _size(hf, "head_dim", where)
  elif width % heads:
    raise UserError(f"{where}: hidden_size = {width} is not a multiple of num_attention_heads = {heads}; give head_dim")
  else:
    head_width = width // heads
  if head_width % 2:
    raise UserError(f"{where}: head_dim = {head_width} is odd; rotary positions need an even one")
  _refuse_variants(hf, where)
  max_positions = _size(hf, "max_position_embeddings", where)
  theta, scaling = _rope(hf, max_positions, where)
  window = hf["sliding_window"] if family == "mistral" else None
  return ModelConfig(
    vocab_size=_size(hf, "vocab_size", where),
    width=width,
    num_layers=_size(hf, "num_hidden_layers", where),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    ffn_width=_size(hf, "intermediate_size", where),
    rope_theta=theta,
    rope_scaling=scaling,
    norm_eps=_number({"rms_norm_eps": 1e-6, **hf}, "rms_norm_eps", where),
    tied_head=bool(hf.get("tie_word_embeddings", False)),
    sliding_window=None if window is None else _size(hf, "sliding_window", where),
    max_positions=max_positions,
    family=family,
  )


def _family(hf: Mapping[str, Any], where: str) -> str:
  named = hf.get("architectures")
  if not named:
    family = hf.get("model_type")
    if family in _DEFAULTS:
      return family
    named = [family]
  if isinstance(named, list) and len(named) == 1 and named[0] in _FAMILIES:
    return _FAMILIES[named[0]]
  known = " and ".join(_FAMILIES)
  raise UserError(f"{where}: architectures = {named!r} is not supported; medjax reads {known}")


def _refuse_variants(hf: Mapping[str, Any], where: str) -> None:
  """Refuses what would load and then compute something else."""
  for key in ("attention_bias", "mlp_bias"):
    if hf.get(key):
      raise UserError(f"{where}: {key} = true is not supported; medjax has projections without bias only")
  if hf.get("hidden_act", "silu") not in ("silu", "swish"):
    raise UserError(f"{where}: hidden_act = {hf['hidden_act']!r} is not supported; medjax has silu only")
  if hf.get("quantization_config"):
    raise UserError(f"{where}: quantization_config is not supported; use the unquantized model or a .gguf file")
  kinds = set(hf.get("layer_types") or [])
  if len(kinds) > 1:
    raise UserError(f"{where}: layer_types mixes {sorted(kinds)}; medjax has the same attention in every layer only")


def _rope(hf: Mapping[str, Any], max_positions: int, where: str) -> tuple[float, Llama3Scaling | None]:
  key = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
  rope = hf.get(key) or {}
  if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
    raise UserError(f"{where}: {key} = {rope!r} is not one flat object; medjax has one rotary setting for all layers")
  if rope.get("partial_rotary_factor", hf.get("partial_rotary_factor")) not in (None, 1, 1.0):
    raise UserError(f"{where}: partial_rotary_factor is not supported; medjax rotates whole heads only")
  if rope.get("rope_theta") is not None:
    theta = _number(rope, "rope_theta", f"{where}: {key}")
  else:
    theta = _number({"rope_theta": 10000.0, **hf}, "rope_theta", where)
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind == "default":
    return theta, None
  if kind != "llama3":
    raise UserError(f"{where}: {key} has rope_type = {kind!r}, which is not supported; medjax has default and llama3")
  rope = {"original_max_position_embeddings": max_positions, **rope}
  at = f"{where}: {key}"
  scaling = Llama3Scaling(
    factor=_number(rope, "factor", at),
    low_freq_factor=_number(rope, "low_freq_factor", at),
    high_freq_factor=_number(rope, "high_freq_factor", at),
    original_max_positions=_size(rope, "original_max_position_embeddings", at),
  )
  if scaling.high_freq_factor <= scaling.low_freq_factor:
    raise UserError(f"{at}: high_freq_factor = {scaling.high_freq_factor} must be above low_freq_factor")
  return theta, scaling


def _size(values: Mapping[str, Any], key: str, where: str) -> int:
  value = values.get(key)
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise UserError(f"{where}: {key} = {value!r}; a positive integer is needed")
  return value


def _number(values: Mapping[str, Any], key: str, where: str) -> float:
  value = values.get(key)
  if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
    raise UserError(f"{where}: {key} = {value!r}; a positive number is needed")
  return float(value)
