"""Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini: fused tensors, LongRoPE, and in Phi-4-mini partly rotated heads."""

from collections.abc import Mapping
from typing import Any

from medjax.models.config import LongRopeScaling, ModelConfig
from medjax.models.families.family import Family, Gguf, Hf, longrope_attention_factor, rope_to_hf

# config.json of microsoft/Phi-4-mini-instruct.
_PHI4_MINI_LONG = (
  *(1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898),
  *(2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424),
  *(6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252),
  *(16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6),
  *(32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77),
)
_PHI4_MINI = LongRopeScaling(
  (1.0,) * 48, tuple(map(float, _PHI4_MINI_LONG)), 4096, longrope_attention_factor(131072 / 4096, 4096)
)


def _read(hf: Hf) -> dict[str, Any]:
  return {"sliding_window": hf.sliding_window}


def _write(config: ModelConfig) -> dict[str, Any]:
  rope = rope_to_hf(config)
  partial = rope["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
  original = config.max_positions
  if isinstance(config.rope_scaling, LongRopeScaling):
    original = config.rope_scaling.original_max_positions
    # Version 4 of transformers takes these keys and no others, and computes the attention factor.
    older, keys = rope["rope_scaling"], ["short_factor", "long_factor"]
    if older["attention_factor"] != longrope_attention_factor(config.max_positions / original, original):
      keys.append("attention_factor")
    rope["rope_scaling"] = {"type": "longrope"} | {key: older[key] for key in keys}
  return {
    **rope,
    "sliding_window": config.sliding_window,
    "partial_rotary_factor": partial,
    "original_max_position_embeddings": original,
  }


def _gguf_variant(metadata: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
  return {"sliding_window": int(metadata.get("attention.sliding_window", 0)) or None}


FAMILY = Family(
  name="phi3",
  architecture="Phi3ForCausalLM",
  read=_read,
  write=_write,
  presets={
    "phi3-mini-4k": ModelConfig(
      32064, 3072, 32, 32, 32, 96, 8192, sliding_window=2047, max_positions=4096, family="phi3"
    ),
    "phi4-mini": ModelConfig(
      200064,
      *(3072, 32, 24, 8, 128, 8192),
      rope_scaling=_PHI4_MINI,
      tied_head=True,
      sliding_window=262144,
      max_positions=131072,
      family="phi3",
      rotary_width=96,
    ),
    "phi4-14b": ModelConfig(100352, 5120, 40, 40, 10, 128, 17920, 250000.0, max_positions=16384, family="phi3"),
  },
  gguf=Gguf(
    "phi3",
    variant=_gguf_variant,
    names={"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
  ),
  fused=True,
)
