"""Intervals of a metric on few patients, from its values with each patient left out or drawn again.

Which is used where was decided by simulation (docs/statistics.md). `G` is the number of groups (patients), the unit of
everything here.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

_BATCH_ENTRIES = 4_000_000  # resampled group indices held at once
_STEP = 1e-3  # of a count, in numerical derivatives


def jackknife_error(left_out: np.ndarray) -> np.ndarray:
  """Standard errors [...] from the values [..., G] with each group left out (Efron & Tibshirani 1993, eq. 11.5)."""
  groups = left_out.shape[-1]
  spread = left_out - left_out.mean(-1, keepdims=True)
  return np.sqrt((spread**2).sum(-1) * (groups - 1) / groups)


def smoothed_error(counts: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> float:
  """The standard error of a metric of confusion counts after one more item of each label, half of it answered rightly.

  The counts are taken as multinomial and the metric as linear around them (delta method). Where all answers to a label
  are right, or nearly no item has it, the data show no variance; as for a proportion in the interval of Agresti and
  Coull (1998), the added items say how little that means. It is a lower bound of the error in use, never the value.

  Args:
    counts: [K, P], rows the truth, columns the answers, the first K of them the labels.
    of: counts [..., K, P] -> values [...].
  """
  labels, answers = counts.shape
  added = np.zeros(counts.shape)
  added[:, :labels] = 0.5 * np.eye(labels) + 0.5 * (1 - np.eye(labels)) / max(labels - 1, 1)
  counts = counts + added
  value, slope = of(counts), np.empty(counts.shape)
  for truth in range(labels):  # a row at a time: all cells at once are large where labels are many
    moved = np.repeat(counts[None], answers, 0)
    moved[:, truth] += _STEP * np.eye(answers)
    slope[truth] = (of(moved) - value) / _STEP
  mean = (counts * slope).sum() / counts.sum()
  return math.sqrt((counts * (slope - mean) ** 2).sum())


def smoothed_share_error(ones: float, items: int) -> float:
  """The standard error of a share after one more item, half of it a one; of 0/1 scores what `smoothed_error` is."""
  share = (ones + 0.5) / (items + 1)
  return math.sqrt(share * (1 - share) / (items + 1))


def t_quantile(groups: int, level: float) -> float:
  """The two-sided quantile of Student's t that goes with an error estimated from so many groups."""
  return float(special.stdtrit(groups - 1, (1 + level) / 2))


def t_interval(value: float, error: float, groups: int, level: float) -> tuple[float, float]:
  """Value -+ t errors (the jackknife's interval; Efron & Tibshirani 1993, section 11.5)."""
  half = t_quantile(groups, level) * error
  return value - half, value + half


def score_interval(
  value: float, error: float, span: tuple[float, float], groups: int, level: float
) -> tuple[float, float]:
  """Wilson's interval (Wilson 1927) for a value in `span`, with the number of items that its error stands for.

  That number is the effective size of survey statistics (Kish 1965), v (1 - v) / error^2 with v the place of the value
  in its span; for a proportion of independent items it is about their number. At an end of the span, where no error
  can be seen, it is the number of groups. The interval never leaves the span.
  """
  low, high = span
  place = (value - low) / (high - low)
  seen = 0 < place < 1 and error > 0
  size = place * (1 - place) * ((high - low) / error) ** 2 if seen else groups
  z = t_quantile(groups, level)
  middle = (place + z * z / 2 / size) / (1 + z * z / size)
  half = z / (1 + z * z / size) * math.sqrt(max(place * (1 - place), 0.0) / size + (z / 2 / size) ** 2)
  ends = (min(max(end, 0.0), 1.0) for end in (middle - half, middle + half))
  return tuple(low + (high - low) * end for end in ends)


def expanded_quantile(groups: int, level: float) -> float:
  """The quantile with which bootstrap intervals of few groups are no longer too narrow (Hesterberg 2015, section 4)."""
  return math.sqrt(groups / (groups - 1)) * t_quantile(groups, level)


def bca_interval(value: float, resampled: np.ndarray, left_out: np.ndarray, z: float) -> tuple[float, float]:
  """The bias-corrected and accelerated bootstrap interval (Efron 1987).

  Args:
    value: on all groups.
    resampled: values [R] of resampled groups.
    left_out: values [G] with each group left out.
    z: quantile of the level; that of the normal distribution gives Efron's interval.

  Returns:
    Its ends; both are the value where no resample differs from it.
  """
  resamples = len(resampled)
  if np.ptp(resampled) == 0:
    return value, value
  share = (np.mean(resampled < value) + np.mean(resampled <= value)) / 2
  bias = special.ndtri(np.clip(share, 0.5 / resamples, 1 - 0.5 / resamples))
  spread = left_out.mean() - left_out
  cubes = (spread**2).sum() ** 1.5
  acceleration = (spread**3).sum() / (6 * cubes) if cubes > 0 else 0.0
  ends = np.array([bias - z, bias + z])
  low, high = np.quantile(resampled, special.ndtr(bias + ends / (1 - acceleration * ends)))
  return float(low), float(high)


def resample(values: Callable[[np.ndarray], np.ndarray], groups: int, seed: int, resamples: int) -> np.ndarray:
  """Values of resampled groups.

  Args:
    values: weights [R, G], how often each group was drawn -> values [..., R].
    groups: their number.
    seed: of the draws.
    resamples: their number.
  """
  rng, found, left = np.random.default_rng([seed, 0]), [], resamples
  while left:
    rows = min(left, max(1, _BATCH_ENTRIES // groups))
    drawn = rng.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
    found.append(values(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)))
    left -= rows
  return np.concatenate(found, -1)
