"""Answers of methods whose true quality is known, as the samples that statistics work on.

Whether an answer is right depends on the patient, the item, the method and chance, so that answers to one patient's
items resemble one another, as do the answers of two methods, and those of two training seeds of a method even more.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from medjax.evaluation import metrics, statistics
from medjax.tasks.task import Target

# Shares of variance of the latent normal variable: patient, item, item by method, and the rest.
_PATIENT, _ITEM, _METHOD = 0.3, 0.3, 0.2
_SAME_LABEL = 0.5  # probability that a further item of a patient has the first one's label
_SPREAD = {"mixed": 0.3, "ratio": 0.5}
SCORES = ("mixed", "zero_one", "ratio")
_GRID = special.ndtri((np.arange(20000) + 0.5) / 20000)


@dataclasses.dataclass(frozen=True)
class Design:
  """The patients of a test set: patient `i` has `sizes[i]` items."""

  sizes: tuple[int, ...]

  @property
  def group_of(self) -> np.ndarray:
    """The patient's number of each item, [N]."""
    return np.repeat(np.arange(len(self.sizes)), self.sizes)


def design(rows: int, groups: int | None = None) -> Design:
  """Rows spread over groups as evenly as they go; without `groups` 1, 2, 3, 4, 1, ... rows a group."""
  if groups is not None:
    return Design(tuple(rows // groups + (index < rows % groups) for index in range(groups)))
  sizes = []
  while sum(sizes) < rows:
    sizes.append(min(len(sizes) % 4 + 1, rows - sum(sizes)))
  return Design(tuple(sizes))


def label_samples(
  rng: np.random.Generator,
  of: Design,
  prior: Sequence[float],
  skills: Sequence[float],
  names: Sequence[str],
  seeds: int = 1,
  seed_spread: float = 0.0,
  in_turn: bool = False,
) -> list[list[statistics.Sample]]:
  """Samples [method][seed] of methods that are right with probability `skills[method]`, whatever the label.

  Wrong answers are drawn from the other labels' shares.

  Args:
    rng: of the draws.
    of: the patients.
    prior: share of each label; the labels are in an order.
    skills: of the methods.
    names: metrics.
    seeds: training seeds of each method.
    seed_spread: standard deviation of a seed's skill on the probit scale.
    in_turn: whether the labels of rows follow one another in turn, as in a test set with equal numbers of each, instead
      of being drawn.
  """
  labels, group_of = len(prior), of.group_of
  truth = np.arange(len(group_of)) % labels if in_turn else _labels(rng, of, prior)
  latent_MSN = _latent(rng, group_of, len(skills), seeds)
  shift_MS1 = seed_spread * rng.standard_normal((len(skills), seeds, 1)) if seed_spread else 0.0
  right_MSN = latent_MSN < special.ndtri(np.asarray(skills))[:, None, None] + shift_MS1
  others_KK = _others(prior).cumsum(1)
  wrong_MSN = (rng.random(latent_MSN.shape)[..., None] > others_KK[truth] + 1e-12).sum(-1)
  answers_MSN = np.where(right_MSN, truth, np.minimum(wrong_MSN, labels - 1))
  kind = target(labels)

  def sample(answers_N):
    counts_GKP = np.zeros((len(of.sizes), labels, labels + 1))
    np.add.at(counts_GKP, (group_of, truth, answers_N), 1)
    return statistics.count_sample(counts_GKP, names, kind)

  return [[sample(answers_N) for answers_N in answers_SN] for answers_SN in answers_MSN]


def label_values(prior: Sequence[float], skill: float, names: Sequence[str]) -> dict[str, float]:
  """What the metrics are over all patients there could be."""
  prior = np.asarray(prior)
  counts_KP = np.zeros((len(prior), len(prior) + 1))
  counts_KP[:, :-1] = skill * np.diag(prior) + (1 - skill) * prior[:, None] * _others(prior)
  return {name: float(metrics.METRICS[name].from_counts(counts_KP, target(len(prior)))) for name in names}


def score_samples(
  rng: np.random.Generator, of: Design, kind: str, means: Sequence[float], seeds: int = 1
) -> list[list[statistics.Sample]]:
  """Samples [method][seed] of one metric, `kind`.

  Args:
    rng: of the draws.
    of: the patients.
    kind: `mixed`, normal scores cut off at 0 and 1, as of facts; `zero_one`; or `ratio`, log-normal ones.
    means: of the normal variable (of `zero_one`: the share of ones) of each method.
    seeds: training seeds of each method.
  """
  group_of = of.group_of
  values_MSN = _score(kind, np.asarray(means)[:, None, None], _latent(rng, group_of, len(means), seeds))
  zero_one, bounded = (kind,) if kind == "zero_one" else (), (kind,) if kind == "mixed" else ()
  return [
    [statistics.score_sample({kind: values_N}, group_of, zero_one, bounded) for values_N in values_SN]
    for values_SN in values_MSN
  ]


def score_value(kind: str, mean: float) -> float:
  """The mean score over all patients there could be."""
  return float(mean if kind == "zero_one" else _score(kind, mean, _GRID).mean())


def target(labels: int) -> Target:
  """A target of so many labels that have an order."""
  return Target(tuple(f"label {index}" for index in range(labels)), ordinal=True)


def _labels(rng, of: Design, prior) -> np.ndarray:
  """Labels [N], alike within patients."""
  group_of = of.group_of
  first = rng.choice(len(prior), len(of.sizes), p=prior)[group_of]
  starts = np.append(True, group_of[1:] != group_of[:-1])
  fresh = rng.random(len(group_of)) >= _SAME_LABEL
  return np.where(~starts & fresh, rng.choice(len(prior), len(group_of), p=prior), first)


def _latent(rng, group_of, methods, seeds) -> np.ndarray:
  """Standard normal variables [M, S, N] that share parts."""
  items = len(group_of)
  parts = (
    (_PATIENT, rng.standard_normal(group_of[-1] + 1)[group_of]),
    (_ITEM, rng.standard_normal(items)),
    (_METHOD, rng.standard_normal((methods, 1, items))),
    (1 - _PATIENT - _ITEM - _METHOD, rng.standard_normal((methods, seeds, items))),
  )
  return sum(np.sqrt(share) * part for share, part in parts)


def _others(prior) -> np.ndarray:
  """Shares [K, K] of the wrong answers to each label."""
  shares = np.tile(np.asarray(prior, np.float64), (len(prior), 1))
  np.fill_diagonal(shares, 0)
  return shares / shares.sum(1, keepdims=True)


def _score(kind, mean, normal):
  if kind == "zero_one":
    return (normal < special.ndtri(mean)).astype(np.float64)
  moved = mean + _SPREAD[kind] * normal
  return np.clip(moved, 0, 1) if kind == "mixed" else np.exp(moved)
