"""Llama 2, 3, 3.1, 3.2 and 3.3, and what shares their architecture: SmolLM2, Meditron, OpenBioLLM, ..."""

import dataclasses

from medjax.models.config import Llama3Scaling, ModelConfig
from medjax.models.families.family import Family, Gguf, rope_to_hf

_LLAMA31 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
_LLAMA32 = dataclasses.replace(_LLAMA31, factor=32.0)


def _two(*sizes: int) -> ModelConfig:
  return ModelConfig(32000, *sizes, max_positions=4096)


def _three(*sizes: int, scaling=None, tied: bool = False) -> ModelConfig:
  context = 8192 if scaling is None else 131072
  return ModelConfig(128256, *sizes, 500000.0, scaling, tied_head=tied, max_positions=context)


def _smollm2(*sizes: int, theta: float = 100000.0) -> ModelConfig:
  return ModelConfig(49152, *sizes, theta, tied_head=True, max_positions=8192)


FAMILY = Family(
  name="llama",
  architecture="LlamaForCausalLM",
  read=lambda hf: {"qkv_bias": hf.attention_bias, "output_bias": hf.attention_bias},
  write=lambda config: {
    **rope_to_hf(config),
    "attention_bias": config.qkv_bias,
    "mlp_bias": False,
  },
  presets={
    "smollm2-135m": _smollm2(576, 30, 9, 3, 64, 1536),
    "smollm2-360m": _smollm2(960, 32, 15, 5, 64, 2560),
    "smollm2-1.7b": _smollm2(2048, 24, 32, 32, 64, 8192, theta=130000.0),
    "llama2-7b": _two(4096, 32, 32, 32, 128, 11008),
    "llama2-13b": _two(5120, 40, 40, 40, 128, 13824),
    "llama2-70b": _two(8192, 80, 64, 8, 128, 28672),
    "llama3-8b": _three(4096, 32, 32, 8, 128, 14336),
    "llama3-70b": _three(8192, 80, 64, 8, 128, 28672),
    "llama3.1-8b": _three(4096, 32, 32, 8, 128, 14336, scaling=_LLAMA31),
    "llama3.1-70b": _three(8192, 80, 64, 8, 128, 28672, scaling=_LLAMA31),
    "llama3.2-1b": _three(2048, 16, 32, 8, 64, 8192, scaling=_LLAMA32, tied=True),
    "llama3.2-3b": _three(3072, 28, 24, 8, 128, 8192, scaling=_LLAMA32, tied=True),
  },
  gguf=Gguf("llama", interleaved=True),
)
