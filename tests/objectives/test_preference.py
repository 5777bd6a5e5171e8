"""Preference losses over batches: by hand, and packed pairs against the plain two-sequence layout."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medjax.objectives import preference
from medjax.training.step import Objective, loss_sums

BETA = 0.3


def test_loss_and_rewards_of_a_batch_by_hand():
  """Two pairs in one row and one in another; the slots that hold no pair count for nothing."""
  logp_BN = jnp.array([[-1.0, -3.0, -4.0, -2.0], [-5.0, -5.5, 9.0, -9.0]])
  reference_BN = np.array([[-2.0, -2.0, -3.0, -3.0], [-5.0, -5.0, 0.0, 0.0]], np.float32)
  example_BN = np.array([[4, 4, 2, 2], [0, 0, -1, -1]], np.int32)
  batch = packed.pack([], rows=2)._replace(reference_logp=reference_BN, example=example_BN)
  total, metrics = jax.jit(preference.loss, static_argnums=2)(logp_BN, batch, Objective("dpo", beta=0.5))
  margins = [2.0, -2.0, 0.5]
  assert float(total.count) == 3.0
  assert float(total.mean) == pytest.approx(np.mean([math.log1p(math.exp(-0.5 * m)) for m in margins]), rel=1e-6)
  assert {key: float(value.mean) for key, value in metrics.items() if key.startswith("rewards/")} == pytest.approx(
    {
      "rewards/chosen": 0.5 * (1.0 - 1.0 + 0.0) / 3,
      "rewards/rejected": 0.5 * (-1.0 + 1.0 - 0.5) / 3,
      "rewards/margin": 0.5 * 0.5 / 3,
      "rewards/accuracy": 2 / 3,
    }
  )


def test_gradient_raises_chosen_and_lowers_rejected():
  batch = packed.pack([], rows=1)._replace(
    example=np.array([[0, 0, -1, -1]], np.int32), reference_logp=np.zeros((1, 4))
  )
  gradient_BN = jax.grad(lambda logp_BN: preference.loss(logp_BN, batch, Objective("dpo", beta=0.5))[0].total)(
    jnp.array([[-3.0, -2.0, 1.0, 1.0]])
  )
  assert gradient_BN[0, 0] == -gradient_BN[0, 1] < 0
  assert gradient_BN[0, 2:].tolist() == [0.0, 0.0]


@functools.cache
def dpo_functions(config, name):
  graph, params = packed.decoder(config)
  _, reference = packed.decoder(config, seed=1)
  objective = Objective("dpo", name, BETA, 0.2 if name == "cdpo" else 0.0)

  def in_rows(params, reference, batch):
    loss, metrics = loss_sums(graph, objective, params, reference, batch)
    return loss.mean, metrics

  def plain(params, reference, tokens_BT, mask_BT, scored_BT, real_P):
    def ratios(params):
      logp_B = packed.plain_logps(graph, params, tokens_BT, mask_BT, scored_BT)
      return logp_B.reshape(-1, 2)

    reward_P2 = BETA * (ratios(params) - ratios(reference))
    margin_P = reward_P2[:, 0] - reward_P2[:, 1]
    loss_P = (1 - objective.label_smoothing) * jnp.log1p(jnp.exp(-margin_P))
    loss_P += objective.label_smoothing * jnp.log1p(jnp.exp(margin_P))
    return (loss_P * real_P).sum() / real_P.sum(), (reward_P2, ratios(reference))

  return (
    *(params, reference),
    jax.jit(jax.value_and_grad(in_rows, has_aux=True)),
    jax.jit(jax.value_and_grad(plain, has_aux=True)),
  )


@pytest.mark.parametrize(
  ("config", "name"), [(packed.CONFIG, "sigmoid"), (packed.WINDOW, "cdpo")], ids=["full", "window"]
)
@settings(max_examples=10, deadline=None)
@given(members=packed.groups(2), order=st.randoms(use_true_random=False))
def test_packed_pairs_equal_two_sequences_each(config, name, members, order):
  """Loss, rewards and gradients; reference live, from the cache, and with the pairs in another order."""
  assume(all(len(set(group.completions)) == 2 for group in members))  # of equal answers all gradients cancel
  params, reference, in_rows, plain = dpo_functions(config, name)
  arrays = packed.plain_arrays(packed.separate(members), 2 * packed.ROWS)
  real_P = np.arange(packed.ROWS) < len(members)
  batch = packed.pack(members)
  shuffled = order.sample(members, len(members))
  with jax.default_matmul_precision("highest"):
    (wanted, (reward_P2, known_P2)), gradient_wanted = plain(params, reference, *arrays, real_P)
    slot_BN = np.where(batch.example >= 0, batch.example, 0)
    known_BN = np.asarray(known_P2)[slot_BN, np.arange(packed.SHAPE.sequences) % 2] * (batch.example >= 0)
    results = [
      in_rows(params, None, batch._replace(reference_logp=known_BN.astype(np.float32))),
      in_rows(params, reference, batch),
      in_rows(params, reference, packed.pack(shuffled)),
    ]
  rewards = np.asarray(reward_P2)[: len(members)]
  margins = rewards[:, 0] - rewards[:, 1]
  for (loss, metrics), gradient in results:
    np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-6)
    packed.assert_trees_close(gradient, gradient_wanted)
    got = {f"rewards/{key}": float(metrics[f"rewards/{key}"].mean) for key in ("chosen", "rejected", "margin")}
    means = {"chosen": rewards[:, 0].mean(), "rejected": rewards[:, 1].mean(), "margin": margins.mean()}
    assert got == pytest.approx({f"rewards/{key}": float(value) for key, value in means.items()}, abs=1e-5)
    if np.abs(margins).min() > 1e-4:
      assert float(metrics["rewards/accuracy"].mean) == pytest.approx((margins > 0).mean())


def test_rewards_of_each_pair():
  """Each pair alone in a batch shows the reward that it has among others."""
  params, reference, in_rows, _ = dpo_functions(packed.CONFIG, "sigmoid")
  members = packed.random_groups(4, 2, seed=1)
  with jax.default_matmul_precision("highest"):
    (_, together), _ = in_rows(params, reference, packed.pack(members))
    alone = [in_rows(params, reference, packed.pack([member]))[0][1] for member in members]
  for key in ("rewards/chosen", "rewards/rejected"):
    values = [float(metrics[key].mean) for metrics in alone]
    assert np.std(values) > 0.01
    assert float(together[key].mean) == pytest.approx(np.mean(values), abs=1e-5)
