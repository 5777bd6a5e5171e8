"""Model FLOPs: what the mathematics of a step needs, counted from the examples and not from a program."""

from collections.abc import Sequence

from medjax.data.examples import Segments
from medjax.data.packing import row_tokens, scored_tokens
from medjax.models.config import ModelConfig


def kernel_parameters(config: ModelConfig) -> int:
  """Weights that every token is multiplied by: the kernels of all blocks, without embedding, head and norms."""
  D, E = config.width, config.head_width
  attention = 2 * D * config.num_heads * E + 2 * D * config.num_kv_heads * E
  return config.num_layers * (attention + 3 * D * config.ffn_width)


def visible_pairs(group: Segments, window: int | None = None) -> int:
  """(query, key) pairs of one group in the shared-prompt layout, over all its input tokens.

  A token at position p sees p + 1 tokens, itself included, or `window` of them.
  """
  most = window or float("inf")
  start = len(group.prompt)
  positions = [*range(start)]
  for completion in group.completions:
    positions += range(start, start + len(completion) - 1)
  return int(sum(min(position + 1, most) for position in positions))


def forward_flops(config: ModelConfig, groups: Sequence[Segments]) -> int:
  """FLOPs of the forward pass over groups whose branches share their prompt; a multiply and an add are two.

  2 a weight and token (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1), 4 H E for each visible pair of each layer, and
  2 V D for each scored token. Padding, recomputation, norms and element-wise work count nothing.
  """
  tokens = sum(map(row_tokens, groups))
  pairs = sum(visible_pairs(group, config.sliding_window) for group in groups)
  scored = sum(map(scored_tokens, groups))
  return (
    2 * kernel_parameters(config) * tokens
    + 4 * config.num_layers * config.num_heads * config.head_width * pairs
    + 2 * config.vocab_size * config.width * scored
  )


def train_flops(config: ModelConfig, groups: Sequence[Segments]) -> int:
  """FLOPs of forward and backward pass where all weights are trained: three times the forward pass."""
  return 3 * forward_flops(config, groups)
