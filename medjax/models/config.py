"""What a decoder is made of: one frozen dataclass for all families (`models.families` has the families)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

GLOBAL, SLIDING, NOPE = "global", "sliding", "nope"  # kinds of layers, see ModelConfig.pattern


@dataclasses.dataclass(frozen=True)
class LinearScaling:
  """RoPE frequencies divided by `factor` (Chen et al. 2023, arXiv 2306.15595)."""

  factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
  """RoPE frequency scaling of Llama 3.1 and later (`rope_type: llama3` in Hugging Face configs)."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
  """YaRN (Peng et al. 2023, arXiv 2309.00071); `attention_factor` multiplies cosines and sines."""

  factor: float
  original_max_positions: int
  attention_factor: float
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True


@dataclasses.dataclass(frozen=True)
class LongRopeScaling:
  """LongRoPE (Ding et al. 2024, arXiv 2402.13753): one divisor for each frequency.

  A sequence of more than `original_max_positions` tokens takes the long divisors, another one the short ones.
  """

  short_factors: tuple[float, ...]
  long_factors: tuple[float, ...]
  original_max_positions: int
  attention_factor: float


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and variant of a decoder.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D, size of a hidden state.
    num_layers: L.
    num_heads: H, query heads.
    num_kv_heads: K, key and value heads; divides H.
    head_width: E, size of one head.
    ffn_width: F, size of the gated feed-forward layer.
    rope_theta: base of the rotary frequencies.
    rope_scaling: None, or how frequencies are scaled.
    norm_eps: epsilon of RMSNorm.
    tied_head: whether the head is the embedding.
    sliding_window: None, or how many positions back a token of a sliding layer sees, itself included.
    max_positions: context length the weights were trained for.
    family: name of the family, for names on export.
    pattern: kinds of layers, repeated over all layers: `global` (sees everything), `sliding` (sees its window), `nope`
      (global, without rotary positions). Empty: all sliding where there is a window, else all global.
    local_rope_theta: None, or the base of the frequencies of sliding layers, where these have their own.
    local_rope_scaling: how sliding layers with their own base scale their frequencies.
    rotary_width: None, or how many of a head's first columns are rotated, where it is not all of them.
    qkv_bias: whether queries, keys and values have a bias.
    output_bias: whether attention's output has one.
    qk_norm: whether queries and keys go through RMSNorm, head by head, before they are rotated.
    post_norms: whether the outputs of attention and feed-forward layer go through RMSNorm, too.
    offset_norms: whether a norm multiplies by 1 + scale, in float32.
    scaled_embedding: whether embedded tokens are multiplied by sqrt(D).
    activation: of the feed-forward layer's gate, `silu` or `gelu_tanh`.
    query_scalar: attention scores are divided by its square root; None: E.
    attention_softcap: None, or c where scores s become c tanh(s / c).
    logit_softcap: None, or the same of logits.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_width: int
  ffn_width: int
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  norm_eps: float = 1e-5
  tied_head: bool = False
  sliding_window: int | None = None
  max_positions: int = 2048
  family: str = "llama"
  pattern: tuple[str, ...] = ()
  local_rope_theta: float | None = None
  local_rope_scaling: RopeScaling | None = None
  rotary_width: int | None = None
  qkv_bias: bool = False
  output_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  offset_norms: bool = False
  scaled_embedding: bool = False
  activation: str = "silu"
  query_scalar: int | None = None
  attention_softcap: float | None = None
  logit_softcap: float | None = None

  @property
  def layer_kinds(self) -> tuple[str, ...]:
    """The kind of each of the L layers."""
    pattern = self.pattern or (GLOBAL if self.sliding_window is None else SLIDING,)
    return tuple(pattern[layer % len(pattern)] for layer in range(self.num_layers))

  def rotary(self, kind: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies of a kind of layer."""
    if kind == SLIDING and self.local_rope_theta is not None:
      return self.local_rope_theta, self.local_rope_scaling
    return self.rope_theta, self.rope_scaling

  @property
  def turn(self) -> int | None:
    """Tokens that a text may have before all of it has other rotary frequencies (LongRoPE); None without such."""
    scalings = (self.rotary(kind)[1] for kind in self.layer_kinds)
    return min((x.original_max_positions for x in scalings if isinstance(x, LongRopeScaling)), default=None)

  @property
  def rotated(self) -> int:
    """How many of a head's columns are rotated."""
    return self.rotary_width or self.head_width


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
  """The ModelConfig that `dataclasses.asdict` gave, also after a round trip through JSON."""

  def tuples(items: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in items.items()}

  def scaling(items: Mapping[str, Any] | None) -> RopeScaling | None:
    if items is None:
      return None
    kinds = (LinearScaling, Llama3Scaling, YarnScaling, LongRopeScaling)
    kind = next(kind for kind in kinds if {field.name for field in dataclasses.fields(kind)} == items.keys())
    return kind(**tuples(items))

  scalings = {key: scaling(values.get(key)) for key in ("rope_scaling", "local_rope_scaling")}
  return ModelConfig(**{**tuples(values), **scalings})
