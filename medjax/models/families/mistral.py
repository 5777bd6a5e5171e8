"""Mistral 7B v0.1 to v0.3, BioMistral, Zephyr."""

from medjax.models.config import ModelConfig
from medjax.models.families.family import Family, Gguf, rope_to_hf

_SIZES = (4096, 32, 32, 8, 128, 14336)

FAMILY = Family(
  name="mistral",
  architecture="MistralForCausalLM",
  read=lambda hf: {"sliding_window": hf.sliding_window},
  write=lambda config: {**rope_to_hf(config), "sliding_window": config.sliding_window},
  presets={
    "mistral-7b": ModelConfig(32000, *_SIZES, sliding_window=4096, max_positions=32768, family="mistral"),
    "mistral-7b-v0.2": ModelConfig(32000, *_SIZES, 1e6, max_positions=32768, family="mistral"),
    "mistral-7b-v0.3": ModelConfig(32768, *_SIZES, 1e6, max_positions=32768, family="mistral"),
  },
  gguf=Gguf("llama", interleaved=True),  # its files say llama; sliding windows are not in them
)
