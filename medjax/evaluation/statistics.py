"""Intervals and tests for metrics on a finite test set; the choices are explained in docs/statistics.md.

Everything resamples groups (patients), not items. A group is kept as its confusion counts, so that a resample is a
row of weights and all resamples of all metrics are one matrix product.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.tasks.task import Target

_BATCH_ENTRIES = 4_000_000  # resampled group indices held at once


@dataclasses.dataclass(frozen=True)
class Interval:
  """A metric's value and interval; `n` items in `groups` groups."""

  value: float
  low: float
  high: float
  n: int
  groups: int


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two methods on the same items: `difference` = b - a with its interval, and the two-sided p of `method`."""

  difference: float
  low: float
  high: float
  p: float
  method: str  # "mcnemar" | "exchange"
  n: int
  groups: int


def bootstrap_interval(
  references: Sequence[str],
  predictions: Sequence[str],
  metric: str,
  target: Target,
  groups: Sequence[str] | None = None,
  seed: int = 0,
  resamples: int = 2000,
  level: float = 0.95,
) -> Interval:
  """Percentile bootstrap interval of one metric, resampling groups; see `bootstrap_intervals`."""
  return bootstrap_intervals(references, predictions, [metric], target, groups, seed, resamples, level)[metric]


def bootstrap_intervals(
  references: Sequence[str],
  predictions: Sequence[str],
  names: Sequence[str],
  target: Target,
  groups: Sequence[str] | None = None,
  seed: int = 0,
  resamples: int = 2000,
  level: float = 0.95,
) -> dict[str, Interval]:
  """Percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13) of several metrics over the same resamples.

  Args:
    references: n labels.
    predictions: n answers.
    names: keys of `metrics.METRICS`.
    target: the label set and its order.
    groups: n cluster ids (patients), resampled whole; None: every item is its own.
    seed: of the resampling.
    resamples: their number.
    level: confidence level.

  Raises:
    UserError: unusable items (see `metrics.encode`), an unknown metric, fewer than two groups.
  """
  chosen = [metrics.get_metric(name, target) for name in names]
  truth, predicted = metrics.encode(references, predictions, target)
  group_of, count = _groups(groups, len(truth))
  counts_GKP = _group_counts(truth, predicted, group_of, count, len(target.labels))

  def values_MR(weights_RG):
    counts_RKP = _resampled(weights_RG, counts_GKP)
    return np.stack([metric.from_counts(counts_RKP, target) for metric in chosen])

  low, high = _bootstrap(values_MR, count, seed, resamples, level)
  return {
    metric.name: Interval(
      float(metric.function(references, predictions, target)), float(low[i]), float(high[i]), len(truth), count
    )
    for i, metric in enumerate(chosen)
  }


def paired_difference(
  references: Sequence[str],
  predictions_a: Sequence[str],
  predictions_b: Sequence[str],
  metric: str,
  target: Target,
  groups: Sequence[str] | None = None,
  seed: int = 0,
  resamples: int = 2000,
  level: float = 0.95,
) -> Comparison:
  """Compares two methods on identical items.

  The interval is a paired percentile bootstrap: the same resampled groups for both. The p-value is McNemar's exact
  test where the metric is the mean of a 0/1 value per item and every group has one item, else a Monte Carlo exchange
  test: under the null hypothesis a group's two sets of answers may be swapped (add-one, so never 0).

  Args:
    references: n labels.
    predictions_a: n answers of one method.
    predictions_b: n answers of the other.
    metric: key of `metrics.METRICS`.
    target: the label set and its order.
    groups: n cluster ids (patients); None: every item is its own.
    seed: of the resampling.
    resamples: bootstrap resamples, and exchanges of the test.
    level: confidence level of the interval.

  Raises:
    UserError: unusable items (see `metrics.encode`), an unknown metric, fewer than two groups.
  """
  chosen = metrics.get_metric(metric, target)
  truth, a = metrics.encode(references, predictions_a, target)
  _, b = metrics.encode(references, predictions_b, target)
  group_of, count = _groups(groups, len(truth))
  size = len(target.labels)
  a_GKP = _group_counts(truth, a, group_of, count, size)
  b_GKP = _group_counts(truth, b, group_of, count, size)

  def difference_R(a_RKP, b_RKP):
    return chosen.from_counts(b_RKP, target) - chosen.from_counts(a_RKP, target)

  low, high = _bootstrap(
    lambda weights_RG: difference_R(_resampled(weights_RG, a_GKP), _resampled(weights_RG, b_GKP)),
    count,
    seed,
    resamples,
    level,
  )
  if chosen.per_item and count == len(truth):
    method, p = "mcnemar", mcnemar(chosen.from_counts(a_GKP, target), chosen.from_counts(b_GKP, target))
  else:
    method, p = "exchange", _exchange_p(a_GKP, b_GKP, difference_R, seed, resamples)
  difference = chosen.function(references, predictions_b, target) - chosen.function(references, predictions_a, target)
  return Comparison(float(difference), float(low), float(high), p, method, len(truth), count)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
  """Exact two-sided McNemar p of paired 0/1 values [n]: a binomial test of the discordant pairs; 1 without any."""
  only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
  return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
  return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def minimum_detectable_difference(
  n: int, discordance: float = 0.2, power: float = 0.8, alpha: float = 0.05
) -> float | None:
  """Smallest difference of two paired proportions (accuracies) that a test of n items is likely to find.

  Solves Connor's sample size for McNemar's test (Connor 1987), n d^2 = (z_alpha/2 sqrt(D) + z_power sqrt(D - d^2))^2,
  for the difference d, with D the share of items on which exactly one of the two methods is right.

  Args:
    n: items, independent of one another.
    discordance: D, an assumption: 0.2 suits two methods of moderate accuracy that mostly agree.
    power: probability of finding the difference.
    alpha: two-sided level of the test.

  Returns:
    The difference, or None where not even d = D, every discordant item in favour of one method, would be found.

  Raises:
    UserError: n below 1, or a discordance that is not in (0, 1].
  """
  if n < 1 or not 0 < discordance <= 1:
    raise UserError(f"n = {n} and discordance = {discordance}; give n of at least 1 and a discordance in (0, 1]")
  z_alpha, z_power = stats.norm.isf(alpha / 2), stats.norm.isf(1 - power)

  def shortfall(d):
    return z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - d * d) - math.sqrt(n) * d

  return float(optimize.brentq(shortfall, 0, discordance)) if shortfall(discordance) <= 0 else None


def groups_needed(low: float, high: float, groups: int, difference: float, power: float = 0.8) -> int:
  """Groups with which a true `difference` is found with `power`, given a 95 % interval measured on `groups` of them.

  The interval's width gives the standard error of one study; it shrinks with the square root of the groups.
  """
  error = (high - low) / (2 * stats.norm.isf(0.025))
  return math.ceil(groups * ((stats.norm.isf(0.025) + stats.norm.isf(1 - power)) * error / difference) ** 2)


def _groups(groups, n) -> tuple[np.ndarray, int]:
  """The group's number [n] of each item, and how many groups there are."""
  if groups is None:
    group_of, count = np.arange(n), n
  else:
    if len(groups) != n:
      raise UserError(f"{len(groups)} groups for {n} items; give one group per item")
    names = {name: number for number, name in enumerate(sorted(set(groups)))}
    group_of, count = np.array([names[name] for name in groups]), len(names)
  if count < 2:
    raise UserError("all items belong to one group; intervals need at least two independent groups (patients)")
  return group_of, count


def _group_counts(truth, predicted, group_of, groups, size) -> np.ndarray:
  """Confusion counts of each group, float64 [G, K, K + 1]."""
  counts_GKP = np.zeros((groups, size, size + 1))
  np.add.at(counts_GKP, (group_of, truth, predicted), 1)
  return counts_GKP


def _resampled(weights_RG: np.ndarray, counts_GKP: np.ndarray) -> np.ndarray:
  return np.tensordot(weights_RG, counts_GKP, 1)


def _bootstrap(values: Callable, groups: int, seed: int, resamples: int, level: float):
  """Percentile interval of `values(weights [R, G]) -> [..., R]` over resampled groups, by scipy."""

  def statistic(indices, axis=-1):
    rows = indices.reshape(-1, groups)
    offsets = groups * np.arange(len(rows))[:, None]
    weights_RG = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)
    values_MR = values(weights_RG)
    return values_MR if indices.ndim > 1 else values_MR[..., 0]

  result = stats.bootstrap(
    (np.arange(groups),),
    statistic,
    n_resamples=resamples,
    batch=max(1, _BATCH_ENTRIES // groups),
    vectorized=True,
    axis=-1,
    confidence_level=level,
    method="percentile",
    rng=np.random.default_rng([seed, 0]),
  )
  return result.confidence_interval


def _exchange_p(a_GKP, b_GKP, difference_R: Callable, seed: int, resamples: int) -> float:
  """Two-sided Monte Carlo p: how often swapping a and b within random groups gives a difference as large."""
  a_KP, b_KP = a_GKP.sum(0), b_GKP.sum(0)
  moved_GKP = (b_GKP - a_GKP)[np.any(a_GKP != b_GKP, axis=(1, 2))]
  observed = abs(difference_R(a_KP[None], b_KP[None])[0])
  rng = np.random.default_rng([seed, 1])
  as_large, left = 0, resamples
  while left:
    batch = min(left, max(1, _BATCH_ENTRIES // max(1, len(moved_GKP))))
    swapped_RG = rng.integers(0, 2, (batch, len(moved_GKP))).astype(np.float64)
    change_RKP = _resampled(swapped_RG, moved_GKP)
    differences = difference_R(a_KP + change_RKP, b_KP - change_RKP)
    as_large += int(np.sum(np.abs(differences) >= observed - 1e-12))
    left -= batch
  return (as_large + 1) / (resamples + 1)
