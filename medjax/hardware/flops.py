"""Model FLOPs: what the mathematics of a step needs, counted from the examples and not from a program."""

import math
from collections.abc import Sequence

from medjax.data.examples import Segments
from medjax.data.packing import row_tokens, scored_tokens
from medjax.models.config import SLIDING, ModelConfig
from medjax.models.layers import kernel_sizes
from medjax.models.lora import LoraConfig
from medjax.models.sharding import KERNELS


def kernel_parameters(config: ModelConfig) -> int:
  """Weights that every token is multiplied by: the kernels of all blocks, without embedding, head and norms."""
  return config.num_layers * sum(math.prod(kernel_sizes(name, config)) for name in KERNELS)


def visible_pairs(group: Segments, window: int | None = None) -> int:
  """(query, key) pairs of one group in the shared-prompt layout, over all its input tokens.

  A token at position p sees p + 1 tokens, itself included, or `window` of them.
  """
  most = window or float("inf")
  start = len(group.prompt)
  positions = [*range(start)] * len(group.sharing)
  for completion in group.completions:
    positions += range(start, start + len(completion) - 1)
  return int(sum(min(position + 1, most) for position in positions))


def adapter_parameters(config: ModelConfig, lora: LoraConfig | None) -> int:
  """Weights of all adapters: R (inputs + outputs) of each layer that has one."""
  if lora is None:
    return 0
  ends = 0
  for name in filter(lora.adapts, KERNELS):
    sizes, inputs = kernel_sizes(name, config), len(KERNELS[name][0])
    ends += math.prod(sizes[:inputs]) + math.prod(sizes[inputs:])
  return config.num_layers * lora.rank * ends


def visible_in_layers(config: ModelConfig, groups: Sequence[Segments]) -> int:
  """Visible pairs of all groups, summed over the layers."""
  of_window = {
    window: sum(visible_pairs(group, window) for group in groups) for window in {None, config.sliding_window}
  }
  return sum(of_window[config.sliding_window if kind == SLIDING else None] for kind in config.layer_kinds)


def forward_flops(config: ModelConfig, groups: Sequence[Segments]) -> int:
  """FLOPs of the forward pass over groups whose branches share their prompt; a multiply and an add are two.

  2 a weight and token (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1), 4 H E for each visible pair of each layer, and
  2 V D for each scored token. Padding, recomputation, norms and element-wise work count nothing.
  """
  return _products(config, groups) + _attention(config, groups)


def train_flops(config: ModelConfig, groups: Sequence[Segments], lora: LoraConfig | None = None) -> int:
  """FLOPs of forward and backward pass: three times the forward pass where all weights are trained.

  Frozen weights have no gradient: their products count twice, those of the adapters above them three times.
  """
  if lora is None:
    return 3 * forward_flops(config, groups)
  of_adapters = 2 * adapter_parameters(config, lora) * sum(map(row_tokens, groups))
  return 2 * _products(config, groups) + 3 * _attention(config, groups) + 3 * of_adapters


def _products(config: ModelConfig, groups: Sequence[Segments]) -> int:
  """Products with weights: kernels at every token, the head at every scored one."""
  tokens, scored = sum(map(row_tokens, groups)), sum(map(scored_tokens, groups))
  return 2 * kernel_parameters(config) * tokens + 2 * config.vocab_size * config.width * scored


def _attention(config: ModelConfig, groups: Sequence[Segments]) -> int:
  return 4 * config.num_heads * config.head_width * visible_in_layers(config, groups)
