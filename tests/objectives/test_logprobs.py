"""The log-probability primitive against log-softmax and gather; what it never builds; SFT on packed rows."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
from hypothesis import given, settings

from medjax.data.examples import Segments
from medjax.models.config import LongRopeScaling, ModelConfig
from medjax.models.decoder import build, init_params
from medjax.objectives import logprobs, sft
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import Objective, jitted_step, loss_sums


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def naive(hidden_BTD, head_VD, source_index_BS, target_token_BS):
  logp_BTV = jax.nn.log_softmax(jnp.einsum("BTD,VD->BTV", hidden_BTD, head_VD).astype(jnp.float32))
  logp_BSV = jnp.take_along_axis(logp_BTV, source_index_BS[..., None], 1)
  return jnp.take_along_axis(logp_BSV, target_token_BS[..., None], 2)[..., 0]


def inputs(V: int, dtype="float32"):
  draw = np.random.default_rng(V)
  hidden_BTD, head_VD = draw.standard_normal((3, 9, 8)), draw.standard_normal((V, 8))
  source_BS, target_BS = draw.integers(0, 9, (3, 7)), draw.integers(0, V, (3, 7))
  target_BS[0, :2] = 0, V - 1  # both ends of the vocabulary
  weights_BS = draw.standard_normal((3, 7))
  return [jnp.asarray(x, dtype) for x in (hidden_BTD, head_VD)], source_BS, target_BS, weights_BS


@pytest.mark.parametrize(("V", "chunk"), [(61, 16), (61, 61), (61, 8192), (64, 16), (50, 7), (5, 1)])
def test_equals_log_softmax_and_gather(V, chunk):
  (hidden_BTD, head_VD), source_BS, target_BS, weights_BS = inputs(V)

  def value(function):
    return lambda h, w: (function(h, w, source_BS, target_BS) * weights_BS).sum()

  got_BS = logprobs.token_logps(hidden_BTD, head_VD, source_BS, target_BS, chunk)
  np.testing.assert_allclose(got_BS, naive(hidden_BTD, head_VD, source_BS, target_BS), atol=2e-6)
  ours = jax.grad(value(functools.partial(logprobs.token_logps, chunk=chunk)), (0, 1))(hidden_BTD, head_VD)
  wanted = jax.grad(value(naive), (0, 1))(hidden_BTD, head_VD)
  for got, want in zip(ours, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_chunks_of_a_head_cut_over_more_devices_than_a_chunk_has_entries():
  """40 entries over 8 devices are 5 each: in chunks of 1 entry a device there are 5 chunks, not 40 / 3."""
  (hidden_BTD, head_VD), source_BS, target_BS, weights_BS = inputs(40)

  def value(head_VD, function):
    return (function(hidden_BTD, head_VD, source_BS, target_BS) * weights_BS).sum()

  wanted = jax.grad(value)(head_VD, naive)
  with jax.set_mesh(mesh.make_mesh({"data": 1, "fsdp": 1, "tensor": 8, "sequence": 1})):
    got = jax.jit(jax.grad(functools.partial(value, function=functools.partial(logprobs.token_logps, chunk=3))))(
      head_VD
    )
  np.testing.assert_allclose(got, wanted, atol=5e-6)


def test_bfloat16_within_its_rounding():
  (hidden_BTD, head_VD), source_BS, target_BS, weights_BS = inputs(61, "bfloat16")
  exact = [x.astype(jnp.float32) for x in (hidden_BTD, head_VD)]
  got_BS = logprobs.token_logps(hidden_BTD, head_VD, source_BS, target_BS, 16)
  assert got_BS.dtype == jnp.float32
  # Products of bfloat16 are summed in float32, so values are exact to the inputs' own rounding.
  np.testing.assert_allclose(got_BS, naive(*exact, source_BS, target_BS), atol=1e-4)

  def value(function):
    return lambda h, w: (function(h, w, source_BS, target_BS) * weights_BS).sum()

  ours = jax.grad(value(functools.partial(logprobs.token_logps, chunk=16)), (0, 1))(hidden_BTD, head_VD)
  for got, want in zip(ours, jax.grad(value(naive), (0, 1))(*exact), strict=True):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.01 * float(jnp.abs(want).max()))


def test_large_logits_do_not_overflow():
  (hidden_BTD, head_VD), source_BS, target_BS, _ = inputs(61)
  got_BS = logprobs.token_logps(hidden_BTD * 300, head_VD, source_BS, target_BS, 16)
  np.testing.assert_allclose(got_BS, naive(hidden_BTD * 300, head_VD, source_BS, target_BS), rtol=1e-5, atol=1e-3)
  gradient = jax.grad(lambda h: logprobs.token_logps(h, head_VD, source_BS, target_BS, 16).sum())(hidden_BTD * 300)
  assert np.isfinite(gradient).all()


def largest_array(compiled: str) -> int:
  """Elements of the largest array in a compiled program's text."""
  shapes = set(re.findall(r"\b(?:f32|bf16|f16|pred|s32)\[([\d,]+)\]", compiled))
  return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def compiled_step(method: str, vocabulary: int) -> str:
  config = ModelConfig(vocabulary, 8, 1, 2, 2, 4, 8)
  graph, optimizer = build(config, "float32"), make_optimizer(1.0, 0.0)
  params = init_params(config)
  batches = jax.tree.map(lambda x: x[None], packed.pack(packed.random_groups(4, 2)))
  reference = params if method == "dpo" else None
  step = jitted_step(graph, Objective(method), 1.0, 0.0)
  start = state.create(params, optimizer)
  scalars = np.int32(1), np.float32(1e-3), np.uint32(0)
  return step.lower(start, None, reference, batches, *scalars).compile().as_text()


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_no_logits_of_all_tokens_in_the_train_step(method):
  V = 20011  # three chunks
  assert V > 2 * logprobs.CHUNK
  BS, BT = packed.ROWS * packed.SHAPE.scored, packed.ROWS * packed.SHAPE.tokens
  found = largest_array(compiled_step(method, V))
  assert V * 8 <= found < min(BS, BT) * V, "larger than the embedding's gradient, smaller than (B, S, V)"
  hidden_BTD, slots_BS = (
    jnp.zeros((packed.ROWS, packed.SHAPE.tokens, 8)),
    np.zeros((packed.ROWS, packed.SHAPE.scored), int),
  )
  whole = jax.jit(naive).lower(hidden_BTD, jnp.zeros((V, 8)), slots_BS, slots_BS).compile()
  assert largest_array(whole.as_text()) >= BS * V, "the search finds such an array where there is one"


@functools.cache
def sft_functions(config):
  graph, params = packed.decoder(config)

  def in_rows(params, batch):
    total = loss_sums(graph, Objective("sft"), params, None, batch)[0]
    return total.mean, total.count

  def plain(params, tokens_BT, mask_BT, scored_BT):
    return -packed.plain_logps(graph, params, tokens_BT, mask_BT, scored_BT).sum() / scored_BT.sum()

  return params, jax.jit(jax.value_and_grad(in_rows, has_aux=True)), jax.jit(jax.value_and_grad(plain))


@pytest.mark.parametrize("config", [packed.CONFIG, packed.WINDOW], ids=["full", "window"])
@settings(max_examples=10, deadline=None)
@given(members=packed.groups(1))
def test_packed_sft_equals_one_example_a_row(config, members):
  params, in_rows, plain = sft_functions(config)
  with jax.default_matmul_precision("highest"):
    (loss, count), gradient = in_rows(params, packed.pack(members))
    (apart, _), gradient_apart = in_rows(params, packed.one_by_one(members))
    wanted, gradient_wanted = plain(params, *packed.plain_arrays(packed.separate(members), packed.ROWS))
  assert count == sum(len(group.completions[0]) for group in members)
  np.testing.assert_allclose([loss, apart], wanted, rtol=1e-5)
  packed.assert_trees_close(gradient, gradient_wanted)
  packed.assert_trees_close(gradient_apart, gradient_wanted)


def test_sft_loss_by_hand():
  """Three scored tokens in two rows: their mean, not the mean of the rows' means."""
  batch = packed.pack([])._replace(weight=np.array([[1.0, 1.0], [1.0, 0.0]], np.float32))
  total, metrics = jax.jit(sft.loss)(jnp.array([[-1.0, -2.0], [-6.0, -99.0]]), batch)
  assert (float(total.mean), float(total.count), metrics) == (3.0, 3.0, {})


def test_sft_gradient_raises_scored_tokens_only():
  weights_BS = np.array([[1.0, 0.0]], np.float32)
  batch = packed.pack([])._replace(weight=weights_BS)
  gradient_BS = jax.grad(lambda logps_BS: sft.loss(logps_BS, batch)[0].total)(jnp.array([[-1.0, -2.0]]))
  assert gradient_BS.tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("length", [8, 9, 10])
def test_a_last_token_that_is_only_predicted_counts_for_frequencies(length):
  """LongRoPE's change behind `original_max_positions` tokens, which transformers counts with the last one."""
  long = LongRopeScaling((1.0, 1.1), (1.0, 4.0), original_max_positions=9, attention_factor=1.2)
  config = dataclasses.replace(packed.CONFIG, rope_scaling=long)
  graph, params = packed.decoder(config)
  text = tuple(range(10, 10 + length))
  row = packed.pack([Segments("r", text[:3], (text[3:],))], rows=1)
  found_BN = logprobs.policy_logps(graph, params, row)[1]
  wanted_B = packed.plain_logps(graph, params, *packed.plain_arrays([(text, 3)], 1))
  np.testing.assert_allclose(found_BN[0, 0], wanted_B[0], rtol=1e-5)


@pytest.mark.parametrize("longer", [0, 1])
def test_a_long_answer_leaves_the_frequencies_of_the_other_one_alone(longer):
  long = LongRopeScaling((1.0, 1.1), (4.0, 4.0), original_max_positions=9, attention_factor=1.2)
  config = dataclasses.replace(packed.CONFIG, rope_scaling=long)
  graph, params = packed.decoder(config)
  answers = ((20, 21, 22), (30, 31, 32, 33, 34, 35))
  pair = Segments("r", (10, 11, 12, 13, 14), answers if longer else answers[::-1], turn=config.turn)
  wanted_B = packed.plain_logps(graph, params, *packed.plain_arrays(packed.separate([pair]), 2))
  found_BN = logprobs.policy_logps(graph, params, packed.pack([pair], rows=1))[1]
  np.testing.assert_allclose(found_BN[0, :2], wanted_B, rtol=1e-5)
  shared_BN = logprobs.policy_logps(graph, params, packed.pack([dataclasses.replace(pair, turn=None)], rows=1))[1]
  assert abs(shared_BN[0, 1 - longer] - wanted_B[1 - longer]) > 0.01, "a shared prompt would have shown"
