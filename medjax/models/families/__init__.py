"""Families of models: config.json and tensor names of Hugging Face on one side, medjax's decoder on the other."""

from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.families import gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3, smollm3
from medjax.models.families.family import Family, rope_from_hf
from medjax.models.slots import Slot, hf_slots

_MODULES = (llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, smollm3)
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}
PRESETS: dict[str, ModelConfig] = {
  name: shape for family in FAMILIES.values() for name, shape in family.presets.items()
}

# Checkpoints of text and pictures of which medjax reads the text: architecture -> (family, model_type).
_TEXT_PARTS = {"Gemma3ForConditionalGeneration": ("gemma3_text", "gemma3")}

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

# Larger than in any model: what a damaged file would have transformers or medjax build lists and arrays of.
_LIMITS = {
  "num_hidden_layers": 1024,
  "num_attention_heads": 1024,
  "num_key_value_heads": 1024,
  "vocab_size": 2**24,
  "hidden_size": 2**20,
  "intermediate_size": 2**22,
  "head_dim": 2**14,
  "max_position_embeddings": 2**30,
  "sliding_window": 2**30,
}


def family_of(config: ModelConfig) -> Family:
  """The family that a config belongs to."""
  return FAMILIES[config.family]


def tensor_slots(config: ModelConfig, prefix: str = "model.") -> list[Slot]:
  """Every tensor that a Hugging Face model of this config holds, with its place in the parameter tree."""
  return hf_slots(config, family_of(config).fused, prefix)


def config_from_hf(hf: Mapping[str, Any], where: str) -> ModelConfig:
  """A Hugging Face `config.json` as a ModelConfig; transformers' own config class fills in what is left out.

  Args:
    hf: the parsed JSON; of a checkpoint of text and pictures the text part is read.
    where: the file's name, for messages.

  Raises:
    UserError: an architecture, activation, bias, rotary scaling or quantization that medjax does not have, or a
      missing or nonsensical size.
  """
  import transformers  # takes a second: not before it is needed

  family, values = _family(hf, where)
  _check_limits(values, where)
  try:
    full = transformers.CONFIG_MAPPING[family.name](**{key: x for key, x in values.items() if key != "model_type"})
  except Exception as error:  # its validators raise every kind
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{where}: not a config of {family.architecture} ({reason})") from error
  try:
    return _read(family, full, values)
  except UserError as error:
    raise UserError(f"{where}: {error}") from None
  except (KeyError, TypeError, ValueError) as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise UserError(f"{where}: not a config of {family.architecture} ({reason})") from error


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
  """The keys of `config.json` that say what the decoder is; `config_from_hf` the other way round."""
  family = family_of(config)
  return {
    "architectures": [family.architecture],
    "model_type": family.name,
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_width,
    "intermediate_size": config.ffn_width,
    "rms_norm_eps": config.norm_eps,
    "hidden_act": next(name for name, kind in _ACTIVATIONS.items() if kind == config.activation),
    "tie_word_embeddings": config.tied_head,
    "max_position_embeddings": config.max_positions,
    **family.write(config),
  }


def text_config(hf: Mapping[str, Any]) -> dict[str, Any]:
  """The `config.json` of the text part alone: what it is, of a checkpoint of text only."""
  named = (hf.get("architectures") or [None])[0]
  if named not in _TEXT_PARTS:
    return dict(hf)
  family = FAMILIES[_TEXT_PARTS[named][0]]
  ends = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype") if key in hf}
  return {**ends, **hf["text_config"], "architectures": [family.architecture], "model_type": family.name}


def _family(hf: Mapping[str, Any], where: str) -> tuple[Family, dict[str, Any]]:
  """The family of a config.json, and the keys that describe its decoder."""
  named, kind = hf.get("architectures"), hf.get("model_type")
  if isinstance(named, list) and len(named) == 1 and named[0] in _TEXT_PARTS:
    if not isinstance(hf.get("text_config"), Mapping):
      raise UserError(f"{where}: text_config is missing")
    return FAMILIES[_TEXT_PARTS[named[0]][0]], text_config(hf)
  for family in FAMILIES.values():
    if named == [family.architecture] or (not named and kind == family.name):
      return family, dict(hf)
  known = ", ".join(family.architecture for family in FAMILIES.values())
  raise UserError(f"{where}: architectures = {named or [kind]!r} is not supported; medjax reads {known}")


def _check_limits(values: Mapping[str, Any], where: str) -> None:
  for key, most in _LIMITS.items():
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most):
      raise UserError(f"{where}: {key} = {value!r}; a positive integer up to {most} is needed")


def _read(family: Family, hf: Any, given: Mapping[str, Any]) -> ModelConfig:
  if given.get("quantization_config"):
    raise UserError("quantization_config is not supported; use the unquantized model or a .gguf file")
  if getattr(hf, "mlp_bias", False):
    raise UserError("mlp_bias = true is not supported; medjax has feed-forward layers without bias only")
  heads, kv_heads = hf.num_attention_heads, hf.num_key_value_heads
  if heads % kv_heads:
    raise UserError(f"num_key_value_heads = {kv_heads} does not divide num_attention_heads = {heads}")
  head_width = getattr(hf, "head_dim", None)
  if head_width is None and hf.hidden_size % heads:
    raise UserError(f"hidden_size = {hf.hidden_size} is not a multiple of num_attention_heads = {heads}; give head_dim")
  head_width = head_width or hf.hidden_size // heads
  rope = hf.rope_parameters
  rope = rope.get("full_attention", rope)
  if any(isinstance(value, Mapping) for value in rope.values()):
    raise UserError(f"rope_parameters = {rope!r} is not one flat object; {family.architecture} has one for all layers")
  share = rope.get("partial_rotary_factor") or 1.0
  rotated = int(head_width * share)
  if rotated % 2 or (share != 1.0 and family.name != "phi3"):
    raise UserError(f"{rotated} of head_dim = {head_width} columns would be rotated; {family.architecture} cannot")
  activation = getattr(hf, "hidden_activation", None) or hf.hidden_act
  if activation not in _ACTIVATIONS:
    raise UserError(f"hidden_act = {activation!r} is not supported; medjax has {', '.join(_ACTIVATIONS)}")
  theta, scaling = rope_from_hf(rope, hf, rotated)
  fields = {"activation": _ACTIVATIONS[activation], **family.read(hf)}
  return ModelConfig(
    vocab_size=hf.vocab_size,
    width=hf.hidden_size,
    num_layers=hf.num_hidden_layers,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    ffn_width=hf.intermediate_size,
    rope_theta=theta,
    rope_scaling=scaling,
    norm_eps=float(hf.rms_norm_eps),
    tied_head=bool(hf.tie_word_embeddings),
    max_positions=hf.max_position_embeddings,
    family=family.name,
    rotary_width=None if rotated == head_width else rotated,
    **fields,
  )
