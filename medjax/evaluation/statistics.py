"""Intervals and tests for metrics on a finite test set; the choices are explained in docs/statistics.md.

Everything resamples groups (patients), not items. A metric is a function of statistics that add up over groups, such
as confusion counts, so that a resample is a row of weights and all resamples of all metrics are one matrix product.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence

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


@dataclasses.dataclass(frozen=True)
class Measure:
  """A metric of a sample.

  Attributes:
    value: on all items.
    of: statistics [..., *S] of any weighting of the groups -> values [...].
    zero_one: whether it is the mean of a 0/1 value per item, so that McNemar's test applies.
  """

  value: float
  of: Callable[[np.ndarray], np.ndarray]
  zero_one: bool


@dataclasses.dataclass(frozen=True)
class Sample:
  """Answers to n items: statistics that add up, float64 [G, *S] with a row for each group, and what they measure."""

  statistics: np.ndarray
  measures: Mapping[str, Measure]
  n: int


def label_sample(
  references: Sequence[str],
  predictions: Sequence[str],
  names: Sequence[str],
  target: Target,
  groups: Sequence[str] | None = None,
) -> Sample:
  """Label predictions as confusion counts [G, K, K + 1].

  Args:
    references: n labels.
    predictions: n answers.
    names: keys of `metrics.METRICS`.
    target: the label set and its order.
    groups: n cluster ids (patients), resampled whole; None: every item is its own.

  Raises:
    UserError: unusable items (see `metrics.encode`), an unknown metric, fewer than two groups.
  """
  chosen = [metrics.get_metric(name, target) for name in names]
  truth, predicted = metrics.encode(references, predictions, target)
  group_of, count = _groups(groups, len(truth))
  counts_GKP = np.zeros((count, len(target.labels), len(target.labels) + 1))
  np.add.at(counts_GKP, (group_of, truth, predicted), 1)

  def measure(metric: metrics.Metric) -> Measure:
    value = float(metric.function(references, predictions, target))
    return Measure(value, lambda counts: metric.from_counts(counts, target), metric.per_item)

  return Sample(counts_GKP, {metric.name: measure(metric) for metric in chosen}, len(truth))


def score_sample(
  scores: Mapping[str, Sequence[float]], groups: Sequence[str] | None = None, zero_one: Container[str] = ()
) -> Sample:
  """Scores of items, such as those of texts, as sums and counts [G, M, 2]; a metric is sum / count, the items' mean.

  Args:
    scores: metric -> n finite scores; every metric the same items in the same order.
    groups: as in `label_sample`.
    zero_one: metrics whose scores are 0 or 1.

  Raises:
    UserError: no items, lengths that differ, a score that is not finite, fewer than two groups.
  """
  sizes = {name: len(values) for name, values in scores.items()}
  if len(set(sizes.values())) != 1 or not max(sizes.values()):
    raise UserError(f"scores of unequal number or none at all: {sizes}; give one score per item and metric")
  values_MN = np.array([list(values) for values in scores.values()], np.float64)
  bad = np.argwhere(~np.isfinite(values_MN))
  if len(bad):
    raise UserError(f"{list(scores)[bad[0, 0]]} of item {bad[0, 1]} is not a finite number; score the item again")
  n = values_MN.shape[1]
  group_of, count = _groups(groups, n)
  sums_GM2 = np.zeros((count, len(values_MN), 2))
  np.add.at(sums_GM2, group_of, np.stack([values_MN.T, np.ones((n, len(values_MN)))], -1))

  def measure(place: int, name: str) -> Measure:
    mean = float(values_MN[place].mean())
    return Measure(mean, lambda sums: sums[..., place, 0] / sums[..., place, 1], name in zero_one)

  return Sample(sums_GM2, {name: measure(place, name) for place, name in enumerate(scores)}, n)


def intervals(sample: Sample, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> dict[str, Interval]:
  """Percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13) of all metrics over the same resamples.

  Args:
    sample: the items.
    seed: of the resampling.
    resamples: their number.
    level: confidence level.
  """
  measures, count = sample.measures, len(sample.statistics)

  def values_MR(weights_RG):
    resampled = _resampled(weights_RG, sample.statistics)
    return np.stack([measure.of(resampled) for measure in measures.values()])

  low, high = _bootstrap(values_MR, count, seed, resamples, level)
  return {
    name: Interval(measure.value, float(low[i]), float(high[i]), sample.n, count)
    for i, (name, measure) in enumerate(measures.items())
  }


def difference(
  a: Sample, b: Sample, metric: str, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Comparison:
  """Compares two methods on identical items.

  The interval is a paired percentile bootstrap: the same resampled groups for both. The p-value is McNemar's exact
  test where the metric is the mean of a 0/1 value per item and every group has one item, else a Monte Carlo exchange
  test: under the null hypothesis a group's two sets of answers may be swapped (add-one, so never 0).

  Args:
    a: one method's answers.
    b: the other's, to the same items in the same groups.
    metric: of both samples.
    seed: of the resampling.
    resamples: bootstrap resamples, and exchanges of the test.
    level: confidence level of the interval.

  Raises:
    UserError: samples of different shapes.
  """
  if a.statistics.shape != b.statistics.shape or a.n != b.n:
    raise UserError(f"samples of {a.n} and {b.n} items differ in items or groups; compare methods on the same rows")
  of, count = a.measures[metric].of, len(a.statistics)

  def difference_R(a_R, b_R):
    return of(b_R) - of(a_R)

  low, high = _bootstrap(
    lambda weights_RG: difference_R(_resampled(weights_RG, a.statistics), _resampled(weights_RG, b.statistics)),
    count,
    seed,
    resamples,
    level,
  )
  if a.measures[metric].zero_one and count == a.n:
    method, p = "mcnemar", mcnemar(of(a.statistics), of(b.statistics))
  else:
    method, p = "exchange", _exchange_p(a.statistics, b.statistics, difference_R, seed, resamples)
  found = b.measures[metric].value - a.measures[metric].value
  return Comparison(found, float(low), float(high), p, method, a.n, count)


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


def _resampled(weights_RG: np.ndarray, statistics: np.ndarray) -> np.ndarray:
  """Statistics [R, *S] of each weighting of the groups' statistics [G, *S]."""
  return np.tensordot(weights_RG, statistics, 1)


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


def _exchange_p(a: np.ndarray, b: np.ndarray, difference_R: Callable, seed: int, resamples: int) -> float:
  """Two-sided Monte Carlo p: how often swapping a and b [G, *S] in random groups gives a difference as large."""
  whole_a, whole_b = a.sum(0), b.sum(0)
  moved = (b - a)[np.any(a != b, axis=tuple(range(1, a.ndim)))]
  observed = abs(difference_R(whole_a[None], whole_b[None])[0])
  rng = np.random.default_rng([seed, 1])
  as_large, left = 0, resamples
  while left:
    batch = min(left, max(1, _BATCH_ENTRIES // max(1, len(moved))))
    swapped_RG = rng.integers(0, 2, (batch, len(moved))).astype(np.float64)
    change = _resampled(swapped_RG, moved)
    differences = difference_R(whole_a + change, whole_b - change)
    as_large += int(np.sum(np.abs(differences) >= observed - 1e-12))
    left -= batch
  return (as_large + 1) / (resamples + 1)
