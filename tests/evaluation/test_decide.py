"""Labels from probabilities: thresholds against a search of every cut, costs by hand."""

import numpy as np
import pytest
import soak

from medjax.evaluation.decide import as_text, chosen_weights, decide
from medjax.evaluation.metrics import METRICS
from medjax.tasks.task import Target

RARE = Target(("no", "yes"), decide="thresholds")


def distributions(draw, rows, labels):
  return draw.dirichlet(np.ones(labels), rows)


@pytest.mark.parametrize("primary", ["macro_f1", "mcc", "accuracy"])
def test_the_threshold_of_two_labels_is_the_best_of_all(primary):
  draw = np.random.default_rng(0)
  for _ in range(20):
    p_N = draw.uniform(0, 0.4, 40)  # never the likeliest: without a threshold no row would be "yes"
    truth = np.where(draw.uniform(size=40) < 2 * p_N, "yes", "no").tolist()
    target = Target(("no", "yes"), primary=primary, decide="thresholds")
    probabilities_N2 = np.stack([1 - p_N, p_N], 1)
    found = decide(probabilities_N2, target, chosen_weights(probabilities_N2, truth, target))
    value = METRICS[primary].function(truth, found, target)
    every = [
      METRICS[primary].function(truth, np.where(p_N > cut, "yes", "no").tolist(), target)
      for cut in [-1.0, *np.sort(p_N)]
    ]
    assert value == pytest.approx(max(every))


def test_a_threshold_is_told_as_a_probability():
  p_N = np.array([0.1, 0.2, 0.3, 0.35])
  probabilities_N2 = np.stack([1 - p_N, p_N], 1)
  weights = chosen_weights(probabilities_N2, ["no", "no", "yes", "yes"], RARE)
  assert as_text(RARE, weights) == {"threshold of yes": pytest.approx(0.25)}
  assert decide(probabilities_N2, RARE, weights) == ["no", "no", "yes", "yes"]


def test_a_metric_of_which_less_is_better_is_made_less():
  target = Target(("routine", "urgent"), ordinal=True, primary="triage_cost", under_cost=5.0, decide="thresholds")
  p_N = np.array([0.1, 0.3, 0.3, 0.45])
  probabilities_N2 = np.stack([1 - p_N, p_N], 1)
  truth = ["routine", "routine", "urgent", "urgent"]
  found = decide(probabilities_N2, target, chosen_weights(probabilities_N2, truth, target))
  assert found == ["routine", "urgent", "urgent", "urgent"]  # one too high for none too low


def test_of_more_labels_validation_is_never_worse_than_the_likeliest():
  draw = np.random.default_rng(1)
  target = Target(("a", "b", "c", "d"), decide="thresholds")
  plain = Target(("a", "b", "c", "d"))
  better = 0
  draws = soak.count(5, 10)
  for _ in range(draws):
    probabilities_NK = distributions(draw, 60, 4) * np.array([4.0, 1.0, 1.0, 0.5])
    probabilities_NK /= probabilities_NK.sum(1, keepdims=True)
    truth = [target.labels[k] for k in distributions(draw, 60, 4).argmax(1)]
    chosen = decide(probabilities_NK, target, chosen_weights(probabilities_NK, truth, target))
    values = [
      METRICS["macro_f1"].function(truth, labels, target) for labels in (chosen, decide(probabilities_NK, plain))
    ]
    assert values[0] >= values[1]
    better += values[0] > values[1]
  assert better >= 0.8 * draws


def test_costs_choose_the_label_of_least_expected_cost():
  target = Target(("routine", "urgent", "emergency"), ordinal=True, under_cost=2.0, decide="costs")
  probabilities_N3 = np.array([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.5, 0.15, 0.35]])
  # Of the third row: routine 0.15 x 2 + 0.35 x 4 = 1.7, urgent 0.5 + 0.35 x 2 = 1.2, emergency 0.5 x 2 + 0.15 = 1.15.
  assert decide(probabilities_N3, target) == ["urgent", "routine", "emergency"]
