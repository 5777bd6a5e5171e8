"""FLOPs counted by hand, and held to the compiler's own count of a plain forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import packed
import pytest

from medjax.data.examples import Segments
from medjax.hardware import flops
from medjax.models.decoder import bind, head_matrix
from medjax.models.families import PRESETS
from medjax.models.views import Layout


def test_pairs_of_a_shared_prompt():
  pair = Segments("a", (1, 2, 3), ((4, 5, 6), (7, 8)))
  # Inputs: 3 prompt tokens see 1 + 2 + 3; two chosen tokens see 4 + 5; one rejected token sees 4.
  assert flops.visible_pairs(pair) == 6 + 9 + 4
  assert flops.visible_pairs(pair, window=2) == 1 + 2 + 2 + 2 + 2 + 2


def test_weights_of_a_known_model():
  # SmolLM2-135M has 134,515,008 parameters, of which 49152 x 576 are the embedding and 61 x 576 the norms.
  assert flops.kernel_parameters(PRESETS["smollm2-135m"]) == 134_515_008 - 49152 * 576 - 61 * 576


def test_forward_flops_are_those_that_the_compiler_counts():
  """Of the products alone: in a model this wide, with one layer (a loop body is counted once), the rest is small."""
  config = dataclasses.replace(packed.CONFIG, width=256, ffn_width=512, head_width=64, num_layers=1, vocab_size=512)
  graph, params = packed.decoder(config)
  T = 64

  def forward(params, tokens_BT):
    hidden_BTD = bind(graph, params)(tokens_BT, Layout.plain(jnp.ones_like(tokens_BT)))
    return hidden_BTD @ head_matrix(params).T

  counted = jax.jit(forward).lower(params, jnp.ones((1, T), jnp.int32)).compile().cost_analysis()["flops"]
  group = Segments("a", tuple(range(T)), ((1,),))
  unmasked = 4 * config.num_heads * config.head_width * (T * T - flops.visible_pairs(group))
  whole_head = 2 * config.vocab_size * config.width * (T - 1)
  assert counted == pytest.approx(flops.forward_flops(config, [group]) + unmasked + whole_head, rel=0.03)


def test_training_is_three_forward_passes():
  members = packed.random_groups(5, 2)
  assert flops.train_flops(packed.CONFIG, members) == 3 * flops.forward_flops(packed.CONFIG, members)
