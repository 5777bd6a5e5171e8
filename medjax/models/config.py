"""What a decoder is made of: a frozen dataclass, and presets by name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
  """RoPE frequency scaling of Llama 3.1 and later (`rope_type: llama3` in Hugging Face configs)."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and variant of a decoder of the Llama family.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D, size of a hidden state.
    num_layers: L.
    num_heads: H, query heads.
    num_kv_heads: K, key and value heads; divides H.
    head_width: E, size of one head.
    ffn_width: F, size of the gated feed-forward layer.
    rope_theta: base of the rotary frequencies.
    rope_scaling: None, or Llama 3's scaling.
    norm_eps: epsilon of RMSNorm.
    tied_head: whether the head is the embedding.
    sliding_window: None, or how many positions back a token sees, itself included (Mistral v0.1).
    max_positions: context length the weights were trained for.
    family: `llama` or `mistral`, for names on export.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_width: int
  ffn_width: int
  rope_theta: float = 10000.0
  rope_scaling: Llama3Scaling | None = None
  norm_eps: float = 1e-5
  tied_head: bool = False
  sliding_window: int | None = None
  max_positions: int = 2048
  family: str = "llama"


_LLAMA31 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
_LLAMA32 = dataclasses.replace(_LLAMA31, factor=32.0)

PRESETS: dict[str, ModelConfig] = {
  "smollm2-135m": ModelConfig(49152, 576, 30, 9, 3, 64, 1536, 100000.0, tied_head=True, max_positions=8192),
  "llama2-7b": ModelConfig(32000, 4096, 32, 32, 32, 128, 11008, max_positions=4096),
  "llama3-8b": ModelConfig(128256, 4096, 32, 32, 8, 128, 14336, 500000.0, max_positions=8192),
  "llama3.1-8b": ModelConfig(128256, 4096, 32, 32, 8, 128, 14336, 500000.0, _LLAMA31, max_positions=131072),
  "llama3.2-1b": ModelConfig(
    128256, 2048, 16, 32, 8, 64, 8192, 500000.0, _LLAMA32, tied_head=True, max_positions=131072
  ),
  "mistral-7b": ModelConfig(
    32000, 4096, 32, 32, 8, 128, 14336, sliding_window=4096, max_positions=32768, family="mistral"
  ),
}
