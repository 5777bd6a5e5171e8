"""Intervals and tests for metrics on a finite test set; the choices are explained in docs/statistics.md.

Everything weighs and exchanges groups (patients), not items. A metric is a function of statistics that add up over
groups, such as confusion counts, so that leaving out, drawing again and swapping groups are sums of a few arrays.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
from scipy import special

from medjax.errors import UserError
from medjax.evaluation import intervals, metrics, power
from medjax.tasks.task import Target

_BATCH_ENTRIES = 4_000_000  # swaps of groups held at once


@dataclasses.dataclass(frozen=True)
class Interval:
  """A metric's value and interval; `n` items in `groups` groups."""

  value: float
  low: float
  high: float
  n: int
  groups: int
  method: str  # "score" | "bca"


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two methods on the same items.

  Attributes:
    difference: b - a, the mean over training seeds.
    low: lower end of its interval over patients.
    high: upper end.
    error: its standard error over patients.
    p: two-sided, of `test`.
    p_mid: the mid-p of an exact test (Lancaster 1961), else None.
    test: `mcnemar_exact` or `permutation`.
    effect_size: in the direction of `difference`; None where no answer differs.
    effect: `cohens_g` (share of the differing items on which b has the 1, less a half; Cohen 1988) with McNemar's test,
      else `cohens_dz` (difference over the standard deviation of the patients' shares in it; Cohen 1988).
    mdd: what this test set would find (`power.detectable`).
    seed_sd: standard deviation of the difference between training seeds, without what is owed to the patients; None
      with one seed.
    n: items.
    groups: patients.
    seeds: training seeds.
  """

  difference: float
  low: float
  high: float
  error: float
  p: float
  p_mid: float | None
  test: str
  effect_size: float | None
  effect: str
  mdd: float | None
  seed_sd: float | None
  n: int
  groups: int
  seeds: int


@dataclasses.dataclass(frozen=True)
class Measure:
  """A metric of a sample.

  Attributes:
    value: on all items.
    of: statistics [..., *S] of any weighting of the groups -> values [...].
    zero_one: whether it is the mean of a 0/1 value per item, so that McNemar's test applies.
    span: its lowest and highest possible value; None where it has no bounds.
    least_error: lower bound of its standard error (see `intervals.smoothed_error`); 0 where there is none.
  """

  value: float
  of: Callable[[np.ndarray], np.ndarray]
  zero_one: bool
  span: tuple[float, float] | None
  least_error: float = 0.0


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
  for name in names:
    metrics.get_metric(name, target)
  truth, predicted = metrics.encode(references, predictions, target)
  group_of, count = _groups(groups, len(truth))
  counts_GKP = np.zeros((count, len(target.labels), len(target.labels) + 1))
  np.add.at(counts_GKP, (group_of, truth, predicted), 1)
  return count_sample(counts_GKP, names, target)


def count_sample(counts_GKP: np.ndarray, names: Sequence[str], target: Target) -> Sample:
  """Confusion counts [G, K, K + 1] of each group, the last column the answers outside the label set."""
  whole_KP = counts_GKP.sum(0)

  def measure(metric: metrics.Metric) -> Measure:
    def of(counts):
      return metric.from_counts(counts, target)

    span, least = metrics.span(metric.name, target), intervals.smoothed_error(whole_KP, of)
    return Measure(float(of(whole_KP)), of, metric.per_item, span, least)

  measures = {name: measure(metrics.get_metric(name, target)) for name in names}
  return Sample(counts_GKP, measures, round(whole_KP.sum()))


def score_sample(
  scores: Mapping[str, Sequence[float]],
  groups: Sequence[str] | None = None,
  zero_one: Container[str] = (),
  bounded: Container[str] = (),
) -> Sample:
  """Scores of items, such as those of texts, as sums and counts [G, M, 2]; a metric is sum / count, the items' mean.

  Args:
    scores: metric -> n finite scores; every metric the same items in the same order.
    groups: as in `label_sample`.
    zero_one: metrics whose scores are 0 or 1.
    bounded: metrics whose scores lie between 0 and 1.

  Raises:
    UserError: no items, lengths that differ, a score that is not finite or out of its bounds, fewer than two groups.
  """
  sizes = {name: len(values) for name, values in scores.items()}
  if len(set(sizes.values())) != 1 or not max(sizes.values()):
    raise UserError(f"scores of unequal number or none at all: {sizes}; give one score per item and metric")
  values_MN = np.array([list(values) for values in scores.values()], np.float64)
  within = np.array([name in zero_one or name in bounded for name in scores])[:, None]
  bad = np.argwhere(~np.isfinite(values_MN) | (within & ((values_MN < 0) | (values_MN > 1))))
  if len(bad):
    what = "between 0 and 1" if within[bad[0, 0]] and np.isfinite(values_MN[tuple(bad[0])]) else "a finite number"
    raise UserError(f"{list(scores)[bad[0, 0]]} of item {bad[0, 1]} is not {what}; score the item again")
  n = values_MN.shape[1]
  group_of, count = _groups(groups, n)
  sums_GM2 = np.zeros((count, len(values_MN), 2))
  np.add.at(sums_GM2, group_of, np.stack([values_MN.T, np.ones((n, len(values_MN)))], -1))

  def measure(place: int, name: str) -> Measure:
    mean, span = float(values_MN[place].mean()), (0.0, 1.0) if within[place] else None
    least = intervals.smoothed_share_error(values_MN[place].sum(), n) if name in zero_one else 0.0
    return Measure(mean, lambda sums: sums[..., place, 0] / sums[..., place, 1], name in zero_one, span, least)

  return Sample(sums_GM2, {name: measure(place, name) for place, name in enumerate(scores)}, n)


def estimate(sample: Sample, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> dict[str, Interval]:
  """Values and intervals of all metrics of a sample.

  A metric that has bounds gets `intervals.score_interval` with the jackknife's error, at least the smoothed one. One
  without gets the BCa bootstrap over groups, with Hesterberg's quantile for few groups.

  Args:
    sample: the items.
    seed: of the resampling.
    resamples: their number.
    level: confidence level.
  """
  out, count, unbounded = {}, len(sample.statistics), []
  left_out = sample.statistics.sum(0) - sample.statistics
  for name, measure in sample.measures.items():
    values_G = measure.of(left_out)
    if measure.span is None:
      unbounded.append((name, measure, values_G))
      continue
    error = max(float(intervals.jackknife_error(values_G)), measure.least_error)
    ends = intervals.score_interval(measure.value, error, measure.span, count, level)
    out[name] = Interval(measure.value, *ends, sample.n, count, "score")

  def values_MR(weights_RG):
    resampled = np.tensordot(weights_RG, sample.statistics, 1)
    return np.stack([measure.of(resampled) for _, measure, _ in unbounded])

  if unbounded:
    drawn_MR, z = intervals.resample(values_MR, count, seed, resamples), intervals.expanded_quantile(count, level)
    for (name, measure, values_G), drawn_R in zip(unbounded, drawn_MR, strict=True):
      ends = intervals.bca_interval(measure.value, drawn_R, values_G, z)
      out[name] = Interval(measure.value, *ends, sample.n, count, "bca")
  return {name: out[name] for name in sample.measures}


def difference(
  a: Sequence[Sample], b: Sequence[Sample], metric: str, seed: int = 0, swaps: int = 2000, level: float = 0.95
) -> Comparison:
  """Compares two methods on identical items, over one or several training seeds.

  The interval is `intervals.t_interval` with the jackknife's error of the difference, or where it is larger with that
  of two values whose errors are at least the smoothed ones and that correlate as the jackknife has it. The p is
  McNemar's exact test where the metric is the mean of a 0/1 value per item, every group has one item and there is one
  seed; else a Monte Carlo permutation test: under the null hypothesis a group's answers by a and by b, those of all
  seeds, may be swapped (add-one, so never 0).

  Args:
    a: one method's answers, a sample for each seed.
    b: the other's, to the same items in the same groups.
    metric: of all samples.
    seed: of the swaps.
    swaps: random patterns of swaps of the permutation test.
    level: confidence level of the interval.

  Raises:
    UserError: samples of different shapes or numbers.
  """
  shapes = {(sample.statistics.shape, sample.n) for sample in (*a, *b)}
  if len(shapes) != 1 or len(a) != len(b):
    raise UserError(
      f"{len(a)} samples of {sorted({sample.n for sample in a})} items and {len(b)} of "
      f"{sorted({sample.n for sample in b})} differ in items or groups; compare methods on the same rows"
    )
  measure, count, seeds = a[0].measures[metric], len(a[0].statistics), len(a)
  found_S = np.array([y.measures[metric].value - x.measures[metric].value for x, y in zip(a, b, strict=True)])
  left_out_2SG = np.array([[measure.of(s.statistics.sum(0) - s.statistics) for s in side] for side in (a, b)])
  left_out_SG = left_out_2SG[1] - left_out_2SG[0]
  plain = float(intervals.jackknife_error(left_out_SG.mean(0)))
  least = [np.mean([sample.measures[metric].least_error for sample in side]) for side in (a, b)]
  error = max(plain, _paired_error(left_out_2SG.mean(1), least))
  value = float(found_S.mean())
  if measure.zero_one and count == a[0].n and seeds == 1:
    test, effect = "mcnemar_exact", "cohens_g"
    pairs_2G = measure.of(a[0].statistics), measure.of(b[0].statistics)
    (p, p_mid), size = mcnemar(*pairs_2G), _cohens_g(*pairs_2G)
  else:
    test, effect, p_mid = "permutation", "cohens_dz", None
    p = _permutation_p(a, b, measure.of, seed, swaps)
    size = value / (plain * math.sqrt(count)) if plain > 0 else None
  low, high = intervals.t_interval(value, error, count, level)
  mdd = power.detectable(error, count, measure.span)
  seed_sd = _seed_sd(found_S, left_out_SG) if seeds > 1 else None
  return Comparison(value, low, high, error, p, p_mid, test, size, effect, mdd, seed_sd, a[0].n, count, seeds)


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
  """McNemar's exact two-sided p of paired 0/1 values [n], and its mid-p; both 1 where no pair differs.

  The p is a binomial test of the pairs that differ; the mid-p counts the table at hand half (Lancaster 1961; Fagerland,
  Lydersen, Laake 2013), for the exact p is often far from reaching its level.
  """
  only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
  fewer, differ = min(only_a, only_b), only_a + only_b
  if 2 * fewer == differ:
    return 1.0, 1.0
  below = special.bdtr(fewer - 1, differ, 0.5) if fewer else 0.0
  up_to = special.bdtr(fewer, differ, 0.5)
  return float(2 * up_to), float(below + up_to)


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
  p = np.asarray(p_values, np.float64)
  order = np.argsort(p, kind="stable")
  adjusted = np.empty_like(p)
  adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
  return adjusted.tolist()


def _cohens_g(a: np.ndarray, b: np.ndarray) -> float | None:
  only_a, only_b = np.sum(a > b), np.sum(b > a)
  return float(only_b / (only_a + only_b) - 0.5) if only_a + only_b else None


def _paired_error(left_out_2G: np.ndarray, least: Sequence[float]) -> float:
  """The error of a difference of two values whose errors are no less than `least`, correlated as the jackknife says."""
  spread_2G = left_out_2G - left_out_2G.mean(1, keepdims=True)
  errors = np.maximum(intervals.jackknife_error(left_out_2G), least)
  squares = (spread_2G**2).sum(1)
  correlation = (spread_2G[0] * spread_2G[1]).sum() / math.sqrt(squares.prod()) if squares.min() > 1e-24 else 0.0
  return math.sqrt(max((errors**2).sum() - 2 * correlation * errors.prod(), 0.0))


def _seed_sd(found_S: np.ndarray, left_out_SG: np.ndarray) -> float:
  """Standard deviation of differences between seeds, beyond what the patients' chance gives to each.

  Random effects by moments: the variance over seeds less the jackknife's variance, over patients, of the seeds'
  deviations from their mean (patients by seeds); 0 where that is all of it.
  """
  between = found_S.var(ddof=1)
  deviations_SG = left_out_SG - left_out_SG.mean(0)
  by_chance = (intervals.jackknife_error(deviations_SG) ** 2).sum() / (len(found_S) - 1)
  return math.sqrt(max(float(between - by_chance), 0.0))


def _permutation_p(
  a: Sequence[Sample], b: Sequence[Sample], of: Callable[[np.ndarray], np.ndarray], seed: int, swaps: int
) -> float:
  """Two-sided Monte Carlo p: how often swapping a and b in random groups gives a difference as large."""
  moves = [y.statistics - x.statistics for x, y in zip(a, b, strict=True)]
  moved_G = np.any([np.any(move != 0, axis=tuple(range(1, move.ndim))) for move in moves], 0)
  moves = [move[moved_G] for move in moves]
  whole = [(x.statistics.sum(0), y.statistics.sum(0)) for x, y in zip(a, b, strict=True)]

  def difference_R(changes):
    pairs = zip(whole, changes, strict=True)
    return np.mean([of(side_b - change) - of(side_a + change) for (side_a, side_b), change in pairs], 0)

  observed = abs(difference_R([np.zeros((1, *move.shape[1:])) for move in moves])[0])
  rng = np.random.default_rng([seed, 1])
  as_large, left = 0, swaps
  while left:
    batch = min(left, max(1, _BATCH_ENTRIES // max(1, moved_G.sum())))
    swapped_RG = rng.integers(0, 2, (batch, moved_G.sum()), np.uint8).astype(np.float64)
    differences = difference_R([np.tensordot(swapped_RG, move, 1) for move in moves])
    as_large += int(np.sum(np.abs(differences) >= observed - 1e-12))
    left -= batch
  return (as_large + 1) / (swaps + 1)


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
