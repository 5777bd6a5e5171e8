"""Qwen2 and Qwen2.5: biases on queries, keys and values; YaRN for long contexts."""

from typing import Any

from medjax.models.config import ModelConfig
from medjax.models.families.family import Family, Gguf, rope_to_hf, windows_from_hf, windows_to_hf


def write_shared(config: ModelConfig) -> dict[str, Any]:
  """Keys of Qwen2 and Qwen3."""
  sliding = {"use_sliding_window": config.sliding_window is not None}
  return {**rope_to_hf(config), **windows_to_hf(config), **sliding}


def _preset(vocab_size: int, *sizes: int, tied: bool = False) -> ModelConfig:
  return ModelConfig(
    vocab_size, *sizes, 1e6, norm_eps=1e-6, tied_head=tied, max_positions=32768, family="qwen2", qkv_bias=True
  )


FAMILY = Family(
  name="qwen2",
  architecture="Qwen2ForCausalLM",
  read=lambda hf: {"qkv_bias": True, **windows_from_hf(hf)},
  write=write_shared,
  presets={
    "qwen2.5-0.5b": _preset(151936, 896, 24, 14, 2, 64, 4864, tied=True),
    "qwen2.5-1.5b": _preset(151936, 1536, 28, 12, 2, 128, 8960, tied=True),
    "qwen2.5-3b": _preset(151936, 2048, 36, 16, 2, 128, 11008, tied=True),
    "qwen2.5-7b": _preset(152064, 3584, 28, 28, 4, 128, 18944),
    "qwen2.5-14b": _preset(152064, 5120, 48, 40, 8, 128, 13824),
    "qwen2.5-32b": _preset(152064, 5120, 64, 40, 8, 128, 27648),
    "qwen2.5-72b": _preset(152064, 8192, 80, 64, 8, 128, 29568),
  },
  gguf=Gguf("qwen2", variant=lambda metadata, config: {"qkv_bias": True}),
)
