"""Qwen3 (dense): queries and keys go through a norm, no biases."""

from medjax.models.config import ModelConfig
from medjax.models.families.family import Family, Gguf, windows_from_hf
from medjax.models.families.qwen2 import write_shared


def _preset(*sizes: int, tied: bool = False) -> ModelConfig:
  return ModelConfig(
    151936, *sizes, 1e6, norm_eps=1e-6, tied_head=tied, max_positions=40960, family="qwen3", qk_norm=True
  )


FAMILY = Family(
  name="qwen3",
  architecture="Qwen3ForCausalLM",
  read=lambda hf: {
    "qk_norm": True,
    "qkv_bias": hf.attention_bias,
    "output_bias": hf.attention_bias,
    **windows_from_hf(hf),
  },
  write=lambda config: {**write_shared(config), "attention_bias": config.qkv_bias},
  presets={
    "qwen3-0.6b": _preset(1024, 28, 16, 8, 128, 3072, tied=True),
    "qwen3-1.7b": _preset(2048, 28, 16, 8, 128, 6144, tied=True),
    "qwen3-4b": _preset(2560, 36, 32, 8, 128, 9728, tied=True),
    "qwen3-8b": _preset(4096, 36, 32, 8, 128, 12288),
    "qwen3-14b": _preset(5120, 40, 40, 8, 128, 17408),
    "qwen3-32b": _preset(5120, 64, 64, 8, 128, 25600),
  },
  gguf=Gguf("qwen3", variant=lambda metadata, config: {"qk_norm": True}),
)
