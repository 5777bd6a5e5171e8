"""How far the probabilities of a run can be believed, and how well they rank: bins, and scores with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from medjax.evaluation import metrics, ranking, statistics
from medjax.tasks.task import Target

BINS = 10
_SPANS = {"ece": (0.0, 1.0), "brier": (0.0, 2.0), "log_loss": None}


def reliability(
  references: Sequence[str],
  probabilities_NK: np.ndarray,
  groups: Sequence[str],
  target: Target,
  resamples: int = 2000,
) -> dict[str, Any]:
  """The reliability of the likeliest label, and the scores of all of a run's probabilities.

  Args:
    references: n labels.
    probabilities_NK: columns in the order of `target.labels`.
    groups: n patients, resampled whole.
    target: the label set.
    resamples: of the intervals.

  Returns:
    `n`; `scores`: for `ece`, `brier` and `log_loss` (defined in `metrics.calibration`) the value with the `low` and
    `high` end of its 95 % interval; `ranking`: as `ranking.with_intervals`; `bins` of equal width that hold answers:
    their ends `from` and `to`, `n`, mean `confidence`, and the share that is `right` with its Wilson interval (Wilson
    1927), `low` and `high`.

  Raises:
    UserError: as `metrics.calibration`.
  """
  values = metrics.calibration(references, probabilities_NK, target, BINS)
  truth, _ = metrics.encode(references, references, target)
  probabilities_NK = np.asarray(probabilities_NK, np.float64)
  probabilities_NK = probabilities_NK / probabilities_NK.sum(1, keepdims=True)
  confidence_N, right_N = probabilities_NK.max(1), probabilities_NK.argmax(1) == truth
  bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
  found = statistics.estimate(_sample(values, probabilities_NK, truth, bin_N, groups), resamples=resamples)
  bins = []
  for index in range(BINS):
    inside = bin_N == index
    if inside.any():
      right = stats.binomtest(int(right_N[inside].sum()), int(inside.sum()))
      wilson = right.proportion_ci(method="wilson")
      edges = {"from": index / BINS, "to": (index + 1) / BINS, "n": int(inside.sum())}
      shares = {"confidence": float(confidence_N[inside].mean()), "right": float(right_N[inside].mean())}
      bins.append({**edges, **shares, "low": float(wilson.low), "high": float(wilson.high)})
  scores = {name: {"value": found[name].value, "low": found[name].low, "high": found[name].high} for name in _SPANS}
  numbers = {name: number for number, name in enumerate(sorted(set(groups)))}
  group_N = np.array([numbers[group] for group in groups])
  areas = ranking.with_intervals(truth, probabilities_NK, target.labels, group_N)
  return {"n": len(truth), "scores": scores, "ranking": areas, "bins": bins}


def _sample(values: Mapping[str, float], probabilities_NK, truth, bin_N, groups) -> statistics.Sample:
  """The scores as functions of sums over patients: [G, BINS + 3] of gaps by bin, Brier, log loss and number."""
  confidence_N, right_N = probabilities_NK.max(1), probabilities_NK.argmax(1) == truth
  truth_NK = np.eye(probabilities_NK.shape[1])[truth]
  own_N = probabilities_NK[np.arange(len(truth)), truth]
  columns = np.zeros((len(truth), BINS + 3))
  columns[np.arange(len(truth)), bin_N] = right_N - confidence_N
  columns[:, BINS] = ((probabilities_NK - truth_NK) ** 2).sum(1)
  columns[:, BINS + 1] = -np.log(np.maximum(own_N, np.finfo(np.float64).eps))
  columns[:, BINS + 2] = 1
  names = {name: place for place, name in enumerate(sorted(set(groups)))}
  sums_G = np.zeros((len(names), BINS + 3))
  np.add.at(sums_G, [names[group] for group in groups], columns)
  of = {
    "ece": lambda sums: np.abs(sums[..., :BINS]).sum(-1) / sums[..., -1],
    "brier": lambda sums: sums[..., BINS] / sums[..., -1],
    "log_loss": lambda sums: sums[..., BINS + 1] / sums[..., -1],
  }
  measures = {name: statistics.Measure(values[name], of[name], False, span) for name, span in _SPANS.items()}
  return statistics.Sample(sums_G, measures, len(truth))
