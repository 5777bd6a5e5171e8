"""Each preference loss alone: by hand, by sign, at the reference; its SFT term, metrics, and microbatches."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest

from medjax.data.packing import RowShape, assign_rows, fill_rows
from medjax.objectives import preference
from medjax.objectives.objective import Objective
from medjax.objectives.preference import Answer
from medjax.training.step import gradients, loss_sums

# The answers of one pair: policy and reference log-probabilities, and length.
CHOSEN, REJECTED = (-6.0, -9.0, 4), (-10.0, -8.0, 5)
NAMES = list(preference.LOSSES)
ON_PAIRS = [name for name in NAMES if name != "kto"]  # which is on single answers, see test_kto.py
# Where each loss is looked at: beta, label smoothing, gamma.
SETTINGS = {"cdpo": {"label_smoothing": 0.2}, "robust": {"label_smoothing": 0.2}, "simpo": {"gamma": 0.3}}


def objective_of(name, beta=0.5, **changes):
  return Objective("dpo", name, beta, **SETTINGS.get(name, {}) | changes)


def answer(logp, reference, length):
  return Answer(*map(jnp.float32, (logp, reference, length)))


def value(objective, chosen=CHOSEN, rejected=REJECTED):
  return float(preference.LOSSES[objective.loss](answer(*chosen), answer(*rejected), objective))


def log_sigmoid(x):
  return -math.log1p(math.exp(-x))


def odds(p):
  return p / (1 - p)


# Margin (-6 + 9) - (-10 + 8) = 5; log-ratios a token 3/4 and -2/5; log-probabilities a token -3/2 and -2; beta 1/2.
BY_HAND = {
  "sigmoid": -log_sigmoid(2.5),
  "sigmoid_norm": -log_sigmoid(0.5 * (0.75 + 0.4)),
  "cdpo": -0.8 * log_sigmoid(2.5) - 0.2 * log_sigmoid(-2.5),
  "robust": (-0.8 * log_sigmoid(2.5) + 0.2 * log_sigmoid(-2.5)) / 0.6,
  "ipo_sum": (5 - 1.0) ** 2,
  "ipo_mean": (0.75 + 0.4 - 1.0) ** 2,
  "hinge": 0.0,
  "kto": 1 - 1 / (1 + math.exp(-2.5)),
  "simpo": -log_sigmoid(0.5 * (-1.5 + 2.0) - 0.3),
  "orpo": 1.5 - 0.5 * log_sigmoid(math.log(odds(math.exp(-1.5)) / odds(math.exp(-2.0)))),
}


@pytest.mark.parametrize("name", NAMES)
def test_value_by_hand(name):
  assert value(objective_of(name)) == pytest.approx(BY_HAND[name], rel=1e-5, abs=1e-7)


def test_values_as_numbers():
  """sigmoid(1) = 0.7310586, and numbers that can be read off the papers."""
  two = (2.0, 0.0, 2), (0.0, 0.0, 1)
  assert value(objective_of("sigmoid"), *two) == pytest.approx(0.3132617, abs=1e-6)
  assert value(objective_of("sigmoid", label_smoothing=0.1), *two) == pytest.approx(0.3132617, abs=1e-6), "not read"
  assert value(objective_of("cdpo", label_smoothing=0.1), *two) == pytest.approx(0.4132617, abs=1e-6)
  assert value(objective_of("robust", label_smoothing=0.1), *two) == pytest.approx(0.1882617, abs=1e-6)
  assert value(objective_of("hinge", 0.25), *two) == pytest.approx(0.5)
  assert value(objective_of("ipo_sum", 0.25), *two) == pytest.approx(0.0)
  assert value(objective_of("ipo_mean", 0.25), *two) == pytest.approx(1.0)
  assert value(objective_of("sigmoid_norm", 1.0), *two) == pytest.approx(0.3132617, abs=1e-6)
  assert value(objective_of("simpo", 2.0, gamma=1.0), *two) == pytest.approx(0.3132617, abs=1e-6)
  # Both answers of probability 1/2 a token: odds 1, so ln 2 for the SFT term and half of ln 2 for the odds ratio.
  even = (-3 * math.log(2), 0.0, 3), (-math.log(2), 0.0, 1)
  assert value(objective_of("orpo"), *even) == pytest.approx(1.5 * math.log(2), abs=1e-6)


@functools.cache
def slopes(name):
  """Jitted (d loss / d logp of the chosen, of the rejected answer) for one pair."""

  def of(chosen_logp, rejected_logp, objective):
    chosen, rejected = Answer(chosen_logp, -9.0, 4.0), Answer(rejected_logp, -8.0, 5.0)
    return preference.LOSSES[name](chosen, rejected, objective)

  return jax.jit(jax.grad(of, (0, 1)), static_argnums=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("logps", [(-9.0, -8.0), (-12.0, -5.0)], ids=["undecided", "wrong"])
def test_gradient_raises_chosen_and_lowers_rejected(name, logps):
  chosen, rejected = map(float, slopes(name)(*logps, objective_of(name)))
  assert chosen < 0 < rejected
  if name not in ("sigmoid_norm", "ipo_mean", "simpo", "orpo"):
    assert chosen == pytest.approx(-rejected, rel=1e-5), "of the margin alone"


def test_gradients_where_the_margin_is_large_already():
  """Margin 30, or 6.8 nats a token: IPO and cDPO pull it back to their optimum, the hinge leaves it, the rest go on."""
  found = {name: [float(slope) for slope in slopes(name)(9.0, -20.0, objective_of(name))] for name in NAMES[:-1]}
  for name in ("ipo_sum", "ipo_mean", "cdpo"):
    assert found[name][0] > 0 > found[name][1], name
  assert found["hinge"] == [0.0, 0.0]
  for name in ("sigmoid", "sigmoid_norm", "robust", "kto", "simpo"):
    assert found[name][0] < 0 < found[name][1], name


@pytest.mark.parametrize("name", NAMES)
def test_extreme_values_stay_finite(name):
  for logps in ((-1e4, 0.0), (0.0, -1e4), (0.0, 0.0)):
    of_logps = [float(x) for x in slopes(name)(*logps, objective_of(name))]
    assert np.isfinite([*of_logps, value(objective_of(name), (logps[0], -9.0, 4), (logps[1], -8.0, 5))]).all()


def test_robust_undoes_swapped_labels_on_average():
  """Its mean over labels swapped with chance e is DPO's over the true ones: what the paper asks of it."""
  robust = objective_of("robust", label_smoothing=0.3)
  mean = 0.7 * value(robust) + 0.3 * value(robust, REJECTED, CHOSEN)
  assert mean == pytest.approx(value(objective_of("sigmoid")), rel=1e-5)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    *((name, math.log(2)) for name in ("sigmoid", "sigmoid_norm", "cdpo", "robust")),
    *(("ipo_sum", 1 / (4 * 0.3**2)), ("ipo_mean", 1 / (4 * 0.3**2)), ("hinge", 1.0), ("kto", 0.5)),
    *(("simpo", None), ("orpo", None)),
  ],
)
def test_loss_at_the_reference(name, expected):
  objective = objective_of(name, 0.3)
  found = preference.loss_at_reference(objective)
  assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))
  if expected is not None:
    assert value(objective, (-3.0, -3.0, 4), (-7.0, -7.0, 2)) == pytest.approx(expected, rel=1e-6)
    off = abs(value(objective, (-3.0, -2.99, 1), (-7.0, -7.01, 1)) - expected)
    assert 0 < off <= preference.error_at_reference(objective, 0.01) * 1.001 < 0.1


def pairs(count=3):
  """(chosen, rejected, real) of random pairs, the last of which does not exist."""
  draw = np.random.default_rng(0)
  answers = [
    Answer(*(jnp.asarray(x, jnp.float32) for x in (*draw.normal(-20, 3, (2, count)), draw.integers(1, 9, count))))
    for _ in range(2)
  ]
  return *answers, jnp.array([1.0] * (count - 1) + [0.0])


@pytest.mark.parametrize("name", ON_PAIRS)
def test_metrics_by_hand(name):
  chosen, rejected, real = pairs()
  objective = objective_of(name, sft_weight=0.0 if name == "orpo" else 0.7)
  total, metrics = jax.jit(preference.loss_of_pairs, static_argnums=3)(chosen, rejected, real, objective)
  c, r = (np.stack(x).astype(np.float64)[:, :2] for x in (chosen, rejected))
  each = [value(objective, c[:, i], r[:, i]) for i in (0, 1)]
  nll = -c[0].sum() / c[2].sum()
  assert float(total.mean) == pytest.approx(np.mean(each) + objective.sft_weight * nll, rel=1e-5)
  free = name in preference.REFERENCE_FREE
  rewards = [0.5 * (x[0] / x[2] if free else x[0] - x[1]) for x in (c, r)]
  wanted = {
    "rewards/chosen": rewards[0].mean(),
    "rewards/rejected": rewards[1].mean(),
    "rewards/margin": (rewards[0] - rewards[1]).mean(),
    "rewards/accuracy": (rewards[0] > rewards[1]).mean(),
    "logps/chosen": c[0].mean(),
    "logps/rejected": r[0].mean(),
    "nll/chosen": nll,
  }
  if not free:
    wanted |= {f"kl/{key}": (x[0] - x[1]).sum() / x[2].sum() for key, x in (("chosen", c), ("rejected", r))}
  assert {key: float(metric.mean) for key, metric in metrics.items()} == pytest.approx(wanted, rel=1e-4)


def test_nll_is_reported_where_the_loss_has_it():
  chosen, rejected, real = pairs()
  assert "nll/chosen" not in preference.loss_of_pairs(chosen, rejected, real, objective_of("sigmoid"))[1]


@functools.cache
def jitted(objective):
  graph, _ = packed.decoder()
  return jax.jit(functools.partial(gradients, graph, objective))


def rows_of(members, rows=8):
  """One group in each row."""
  return fill_rows(members, range(len(members)), [[i] for i in range(len(members))], RowShape(40, 16, 2), rows)


@pytest.mark.parametrize("name", ["sigmoid", "ipo_mean", "simpo", "orpo"])  # by sums, by means, without a reference
def test_microbatches_equal_one_big_batch(name):
  """Answers of 1 to 6 tokens and an empty row; an SFT term, whose count is not that of the pairs, in all but ORPO."""
  objective = objective_of(name, sft_weight=0.0 if name == "orpo" else 2.0)
  _, params = packed.decoder()
  reference = packed.decoder(seed=1)[1] if preference.reads_reference(objective) else None
  rows = rows_of(packed.random_groups(7, 2, seed=2))

  def stacked(microbatches):
    return jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), rows)

  with jax.default_matmul_precision("highest"):
    whole = jitted(objective)(params, None, reference, stacked(1), 1)
    split = jitted(objective)(params, None, reference, stacked(8), 7)
  packed.assert_trees_close(split[0], whole[0])
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole[0])) > 1e-3
  np.testing.assert_allclose(split[1], whole[1], rtol=1e-5)
  assert split[2].keys() == whole[2].keys()
  for key, metric in whole[2].items():
    np.testing.assert_allclose(split[2][key], metric, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", preference.REFERENCE_FREE)
def test_reference_free_losses_read_no_reference(name):
  graph, params = packed.decoder()
  members = packed.random_groups(4, 2)
  batch = fill_rows(members, range(4), assign_rows(members, 40), RowShape(40, 48, 8), 4)
  poisoned = batch._replace(reference_logp=np.full_like(batch.reference_logp, np.nan))
  found = [
    jax.jit(lambda p, b: loss_sums(graph, objective_of(name), p, None, b)[0].mean)(params, b) for b in (batch, poisoned)
  ]
  assert found[0] == found[1] and np.isfinite(found[0])
  assert not preference.reads_reference(objective_of(name))
  assert preference.reads_reference(objective_of("hinge"))
  assert not preference.reads_reference(dataclasses.replace(objective_of("hinge"), method="sft"))
