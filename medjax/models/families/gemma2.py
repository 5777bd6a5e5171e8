"""Gemma 2: every second layer slides; four norms a block that multiply by 1 + scale; soft caps on scores and logits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.families.family import Family, Gguf, Hf, rope_to_hf, windows_from_hf, windows_to_hf

# What Gemma 2 and 3 share.
SHARED = {"post_norms": True, "offset_norms": True, "scaled_embedding": True, "activation": "gelu_tanh"}
GGUF_NAMES = {
  "post_attention_layernorm": "post_attention_norm",
  "pre_feedforward_layernorm": "ffn_norm",
  "post_feedforward_layernorm": "post_ffw_norm",
}


def read_gemma(hf: Hf) -> dict[str, Any]:
  """Fields of Gemma 2 and 3."""
  if hf.use_bidirectional_attention:
    raise UserError("use_bidirectional_attention is true; medjax has causal attention only")
  return {
    **SHARED,
    **windows_from_hf(hf),
    "query_scalar": int(hf.query_pre_attn_scalar),
    "qkv_bias": hf.attention_bias,
    "output_bias": hf.attention_bias,
    "attention_softcap": hf.attn_logit_softcapping,
    "logit_softcap": hf.final_logit_softcapping,
  }


def write_gemma(config: ModelConfig) -> dict[str, Any]:
  """Keys of Gemma 2 and 3."""
  return {
    **windows_to_hf(config),
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": config.qkv_bias,
    "query_pre_attn_scalar": config.query_scalar or config.head_width,
    "attn_logit_softcapping": config.attention_softcap,
    "final_logit_softcapping": config.logit_softcap,
  }


def gguf_query_scalar(config: ModelConfig, largest: int) -> int:
  """llama.cpp's files do not name it: D / H in the largest model, E in the others."""
  return config.width // config.num_heads if config.num_layers == largest else config.head_width


def _gguf_variant(metadata: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
  return {
    **SHARED,
    "pattern": ("sliding", "global"),
    "sliding_window": int(metadata.get("attention.sliding_window", 4096)),
    "query_scalar": gguf_query_scalar(config, 46),
    "attention_softcap": float(metadata.get("attn_logit_softcapping", 50.0)),
    "logit_softcap": float(metadata.get("final_logit_softcapping", 30.0)),
  }


_BASE = ModelConfig(
  256000,
  *(2304, 26, 8, 4, 256, 9216),
  norm_eps=1e-6,
  tied_head=True,
  sliding_window=4096,
  max_positions=8192,
  family="gemma2",
  pattern=("sliding", "global"),
  query_scalar=256,
  attention_softcap=50.0,
  logit_softcap=30.0,
  **SHARED,
)

FAMILY = Family(
  name="gemma2",
  architecture="Gemma2ForCausalLM",
  read=read_gemma,
  write=lambda config: {**rope_to_hf(config), **write_gemma(config)},
  presets={
    "gemma2-2b": _BASE,
    "gemma2-9b": dataclasses.replace(
      _BASE, width=3584, num_layers=42, num_heads=16, num_kv_heads=8, head_width=256, ffn_width=14336
    ),
    "gemma2-27b": dataclasses.replace(
      _BASE,
      width=4608,
      num_layers=46,
      num_heads=32,
      num_kv_heads=16,
      head_width=128,
      ffn_width=36864,
      query_scalar=144,
    ),
  },
  gguf=Gguf("gemma2", variant=_gguf_variant, names=GGUF_NAMES),
)
