"""Gemma 3 and MedGemma, the text part: five layers of six slide, with a rotary base of their own; norms on q and k."""

from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models.config import LinearScaling, ModelConfig
from medjax.models.families.family import Family, Gguf, Hf, rope_from_hf, scaling_to_hf
from medjax.models.families.gemma2 import GGUF_NAMES, SHARED, gguf_query_scalar, read_gemma, write_gemma

_PATTERN = ("sliding",) * 5 + ("global",)


def _read(hf: Hf) -> dict[str, Any]:
  local = hf.rope_parameters["sliding_attention"]
  if (local.get("partial_rotary_factor") or 1.0) != 1.0:
    raise UserError("sliding_attention has a partial_rotary_factor; all columns of a head of Gemma 3 are rotated")
  theta, scaling = rope_from_hf(local, hf, hf.head_dim)
  return {
    **read_gemma(hf),
    "qk_norm": True,
    "local_rope_theta": theta,
    "local_rope_scaling": scaling,
    "attention_softcap": None,  # transformers reads attn_logit_softcapping of Gemma 3, and does not apply it
  }


def _write(config: ModelConfig) -> dict[str, Any]:
  scaling = scaling_to_hf(config.rope_scaling)
  return {
    **write_gemma(config),
    "rope_theta": config.rope_theta,
    "rope_scaling": None if config.rope_scaling is None else scaling,
    "rope_local_base_freq": config.local_rope_theta,
    "rope_parameters": {
      "full_attention": {"rope_theta": config.rope_theta, **scaling},
      "sliding_attention": {"rope_theta": config.local_rope_theta, **scaling_to_hf(config.local_rope_scaling)},
    },
  }


def _gguf_variant(metadata: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
  return {
    **SHARED,
    "qk_norm": True,
    "pattern": _PATTERN,
    "sliding_window": int(metadata.get("attention.sliding_window", 1024)),
    "local_rope_theta": float(metadata.get("rope.freq_base_swa", 10000.0)),
    "query_scalar": gguf_query_scalar(config, 62),
    "logit_softcap": metadata.get("final_logit_softcapping"),
  }


def _preset(vocab_size: int, *sizes: int, window: int = 1024, long: bool = True, scalar: int = 256) -> ModelConfig:
  return ModelConfig(
    vocab_size,
    *sizes,
    1e6,
    LinearScaling(8.0) if long else None,
    norm_eps=1e-6,
    tied_head=True,
    sliding_window=window,
    max_positions=131072 if long else 32768,
    family="gemma3_text",
    pattern=_PATTERN,
    local_rope_theta=10000.0,
    qk_norm=True,
    query_scalar=scalar,
    **SHARED,
  )


FAMILY = Family(
  name="gemma3_text",
  architecture="Gemma3ForCausalLM",
  read=_read,
  write=_write,
  presets={
    "gemma3-270m": _preset(262144, 640, 18, 4, 1, 256, 2048, window=512, long=False),
    "gemma3-1b": _preset(262144, 1152, 26, 4, 1, 256, 6912, window=512, long=False),
    "gemma3-4b": _preset(262208, 2560, 34, 8, 4, 256, 10240),
    "gemma3-12b": _preset(262208, 3840, 48, 16, 8, 256, 15360),
    "gemma3-27b": _preset(262208, 5376, 62, 32, 16, 128, 21504, scalar=168),
  },
  gguf=Gguf("gemma3", variant=_gguf_variant, names=GGUF_NAMES),
)
