"""Which model a GGUF file holds: its metadata as a ModelConfig, and where its tensors belong in the parameter tree."""

import dataclasses
from typing import Any

import numpy as np

from medjax.errors import UserError
from medjax.models.config import (
  GLOBAL,
  LinearScaling,
  Llama3Scaling,
  LongRopeScaling,
  ModelConfig,
  RopeScaling,
  YarnScaling,
)
from medjax.models.families import FAMILIES, Family, family_of, tensor_slots
from medjax.models.families.family import longrope_attention_factor, yarn_scale
from medjax.models.gguf import GgufFile
from medjax.models.rope import frequencies_of
from medjax.models.slots import Slot, whole

# Rotary factors are no weights: `config_from_gguf` turns them into a setting.
_LLAMA3_FACTORS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
IGNORED = (_LLAMA3_FACTORS, _LONG, _SHORT)

_NAMES = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}


def config_from_gguf(file: GgufFile) -> ModelConfig:
  """The ModelConfig that a file's metadata describes.

  Raises:
    UserError: an architecture, experts, rotary positions or biases that medjax does not have, or a missing key.
  """
  family = _family(file)
  read = _Metadata(file, family.gguf.architecture)
  if read.values.get("expert_count", 0):
    raise UserError(f"{file.where}: {read.name('expert_count')} is set; mixtures of experts are not supported")
  if "token_embd.weight" not in file.shapes:
    raise UserError(f"{file.where}: tensor token_embd.weight is missing; download the file again")
  width, heads = read.size("embedding_length"), read.size("attention.head_count")
  head_width = read.size("attention.key_length", width // heads)
  rotated = read.size("rope.dimension_count", head_width)
  kv_heads = read.size("attention.head_count_kv", heads)
  partly = rotated != head_width and family.name != "phi3"
  if partly or rotated > head_width or rotated % 2 or heads % kv_heads:
    raise UserError(
      f"{file.where}: {heads} heads of width {head_width}, {kv_heads} kv heads and {rotated} rotated columns do not "
      f"fit together in a model of the family {family.name}"
    )
  config = ModelConfig(
    vocab_size=file.shapes["token_embd.weight"][0],
    width=width,
    num_layers=read.size("block_count", most=1024),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    ffn_width=read.size("feed_forward_length"),
    rope_theta=read.number("rope.freq_base", 10000.0),
    norm_eps=read.number("attention.layer_norm_rms_epsilon"),
    tied_head="output.weight" not in file.shapes,
    max_positions=read.size("context_length"),
    family=family.name,
    rotary_width=None if rotated == head_width else rotated,
  )
  try:
    config = dataclasses.replace(config, **family.gguf.variant(read.values, config))
  except (TypeError, ValueError) as error:
    raise UserError(f"{file.where}: damaged metadata of {family.gguf.architecture} ({error})") from error
  if "blk.0.attn_q.bias" in file.shapes:
    config = dataclasses.replace(config, qkv_bias=True, output_bias="blk.0.attn_output.bias" in file.shapes)
  return dataclasses.replace(config, rope_scaling=_scaling(file, read, config))


def gguf_slots(config: ModelConfig) -> list[Slot]:
  """Every tensor that a GGUF file of this config holds, with its place in the parameter tree.

  llama.cpp's converter interleaves the two halves of each head of q and k, row by row, in some families; the views here
  take that back, so that the parameters follow rotate-half. It adds 1 to Gemma's norms.
  """
  family = family_of(config)
  names = {**_NAMES, **family.gguf.names}
  return [_gguf_slot(slot, family, names, config.offset_norms) for slot in tensor_slots(config)]


def _gguf_slot(slot: Slot, family: Family, names: dict[str, str], offset_norms: bool) -> Slot:
  stem, _, kind = slot.tensor.rpartition(".")
  prefix = ""
  if slot.layer is not None:
    stem, prefix = stem.removeprefix(f"model.layers.{slot.layer}."), f"blk.{slot.layer}."
  slot = dataclasses.replace(slot, tensor=f"{prefix}{names[stem]}.{kind}")
  if family.gguf.interleaved and stem in ("self_attn.q_proj", "self_attn.k_proj"):
    (heads, E), *columns = slot.view
    axes = ((3,), (0,), (2, 1)) if columns else ((0,), (2, 1))
    slot = dataclasses.replace(slot, view=((heads, E // 2, 2), *columns), axes=axes)
  return dataclasses.replace(slot, added=1.0) if offset_norms and slot.path[-1] == "scale" else slot


def _family(file: GgufFile) -> Family:
  named = file.metadata.get("general.architecture")
  for family in FAMILIES.values():
    if family.gguf.architecture == named:
      return family
  known = ", ".join(dict.fromkeys(family.gguf.architecture for family in FAMILIES.values()))
  raise UserError(f"{file.where}: general.architecture = {named!r} is not supported; medjax reads {known}")


class _Metadata:
  """The keys of one architecture, by what follows its name."""

  def __init__(self, file: GgufFile, architecture: str):
    self._where, self._prefix = file.where, f"{architecture}."
    self.values = {
      key.removeprefix(self._prefix): value for key, value in file.metadata.items() if key.startswith(self._prefix)
    }

  def name(self, key: str) -> str:
    return self._prefix + key

  def number(self, key: str, default: float | None = None) -> float:
    value = self.values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
      raise UserError(f"{self._where}: {self.name(key)} = {value!r}; a positive number is needed, one for all layers")
    return float(value)

  def size(self, key: str, default: int | None = None, most: int = 2**31) -> int:
    value = self.number(key, default)
    if not value.is_integer() or value > most:
      raise UserError(f"{self._where}: {self.name(key)} = {value!r}; a whole number up to {most} is needed")
    return int(value)


def _scaling(file: GgufFile, read: _Metadata, config: ModelConfig) -> RopeScaling | None:
  if _LLAMA3_FACTORS in file.shapes:
    return _llama3(file, config)
  if _LONG in file.shapes or _SHORT in file.shapes:
    return _longrope(file, read, config)
  kind = read.values.get("rope.scaling.type", "none")
  if kind == "none":
    return None
  factor = read.number("rope.scaling.factor", 1.0)
  if kind == "linear":
    return LinearScaling(factor)
  unscaled = all(read.number(f"rope.scaling.{key}", 1.0) == 1.0 for key in ("yarn_attn_factor", "attn_factor"))
  if kind == "yarn" and unscaled:
    fast, slow = read.number("rope.scaling.yarn_beta_fast", 32.0), read.number("rope.scaling.yarn_beta_slow", 1.0)
    return YarnScaling(factor, read.size("rope.scaling.original_context_length"), yarn_scale(factor), fast, slow)
  raise UserError(
    f"{file.where}: {read.name('rope.scaling.type')} = {kind!r} is not supported; medjax has linear and yarn"
  )


def _llama3(file: GgufFile, config: ModelConfig) -> Llama3Scaling:
  """Llama 3's scaling, recognised by the divisors of the frequencies that the file holds."""
  given = _factors(file, _LLAMA3_FACTORS)
  scaling = Llama3Scaling(float(given.max()), 1.0, 4.0, 8192)
  unscaled, _ = frequencies_of(config, GLOBAL)
  scaled, _ = frequencies_of(dataclasses.replace(config, rope_scaling=scaling), GLOBAL)
  if given.shape != scaled.shape or not np.allclose(given, unscaled / scaled, rtol=1e-3):
    raise UserError(
      f"{file.where}: tensor {_LLAMA3_FACTORS} is no scaling of Llama 3.1 or 3.2; use the model's Hugging Face "
      "directory"
    )
  return scaling


def _longrope(file: GgufFile, read: _Metadata, config: ModelConfig) -> LongRopeScaling:
  missing = [name for name in (_SHORT, _LONG) if name not in file.shapes]
  if missing:
    raise UserError(f"{file.where}: tensor {missing[0]} is missing; download the file again")
  short, long = (_factors(file, name) for name in (_SHORT, _LONG))
  if not short.shape == long.shape == (config.rotated // 2,):
    raise UserError(f"{file.where}: {_SHORT} and {_LONG} need {config.rotated // 2} factors; download the file again")
  original = read.size("rope.scaling.original_context_length")
  factor = read.number("rope.scaling.attn_factor", longrope_attention_factor(config.max_positions / original, original))
  return LongRopeScaling(tuple(map(float, short)), tuple(map(float, long)), original, factor)


def _factors(file: GgufFile, name: str) -> Any:
  return np.asarray(file.read(name, whole(file.shapes[name]))).ravel()
