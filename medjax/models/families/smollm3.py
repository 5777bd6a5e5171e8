"""SmolLM3: as Llama 3, but every fourth layer has no rotary positions (NoPE)."""

from typing import Any

from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.families.family import Family, Gguf, Hf, rope_to_hf, shortest_pattern

_PATTERN = ("global",) * 3 + ("nope",)


def _read(hf: Hf) -> dict[str, Any]:
  if hf.use_sliding_window:
    raise UserError("use_sliding_window is true; of SmolLM3 medjax has global layers only")
  if len(hf.no_rope_layers) < hf.num_hidden_layers:
    raise UserError(f"no_rope_layers has {len(hf.no_rope_layers)} entries for {hf.num_hidden_layers} layers")
  kinds = ["global" if rotates else "nope" for rotates in hf.no_rope_layers[: hf.num_hidden_layers]]
  return {"pattern": shortest_pattern(kinds), "qkv_bias": hf.attention_bias, "output_bias": hf.attention_bias}


def _write(config: ModelConfig) -> dict[str, Any]:
  return {
    **rope_to_hf(config),
    "attention_bias": config.qkv_bias,
    "mlp_bias": False,
    "use_sliding_window": False,
    "no_rope_layers": [int(kind != "nope") for kind in config.layer_kinds],
    "layer_types": ["full_attention"] * config.num_layers,
  }


FAMILY = Family(
  name="smollm3",
  architecture="SmolLM3ForCausalLM",
  read=_read,
  write=_write,
  presets={
    "smollm3-3b": ModelConfig(
      128256,
      *(2048, 36, 16, 4, 128, 11008),
      5e6,
      norm_eps=1e-6,
      tied_head=True,
      max_positions=65536,
      family="smollm3",
      pattern=_PATTERN,
    ),
  },
  gguf=Gguf("smollm3", interleaved=True, variant=lambda metadata, config: {"pattern": _PATTERN}),
)
