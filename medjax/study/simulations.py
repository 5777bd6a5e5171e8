"""How intervals, tests and verdicts behave where the truth is known: studies of simulated answers, many times over.

Every function is a loop over studies with random numbers that follow from its arguments alone.
"""

import collections
import zlib
from collections.abc import Sequence

import numpy as np
from scipy import stats

from medjax.evaluation import intervals, statistics
from medjax.evaluation.simulated import (
  Design,
  label_samples,
  label_values,
  score_samples,
  score_value,
)
from medjax.study import compare

LEVEL = 0.95
SWAPS = 999  # of permutation tests; any number keeps their level, and half of the default halves the time
METHODS = ("base", "sft", "dpo")
PRIORS = {  # shares of the labels
  "2 even": (0.5, 0.5),
  "2 uneven": (0.85, 0.15),
  "3 even": (1 / 3, 1 / 3, 1 / 3),
  "3 uneven": (0.65, 0.2, 0.15),
  "4 even": (0.25, 0.25, 0.25, 0.25),
  "4 uneven": (0.5, 0.25, 0.15, 0.1),
  "4, one rare": (0.5, 0.3, 0.15, 0.05),
}
# Right verdicts, and those that are errors, for the accuracy of base, sft and dpo. At the edges a relevant gain is as
# small as it can be (the margin), or a gain is none: there only errors are counted.
TRUTHS = {
  (0.4, 0.7, 0.7): ("sft_is_enough", {"neither_helps", "dpo_adds"}),
  (0.4, 0.55, 0.75): ("dpo_adds", {"sft_is_enough", "neither_helps"}),
  (0.6, 0.6, 0.6): ("neither_helps", {"sft_is_enough", "dpo_adds"}),
  (0.7, 0.5, 0.7): ("neither_helps", {"sft_is_enough", "dpo_adds"}),
  (0.6, 0.65, 0.65): (None, {"neither_helps"}),
  (0.4, 0.7, 0.75): (None, {"sft_is_enough"}),
}


def label_coverage(
  of: Design,
  prior: Sequence[float],
  skills: tuple[float, float],
  names: Sequence[str],
  studies: int,
  in_turn: bool = False,
) -> dict[tuple[str, str], float]:
  """How often intervals hold the truth: (`value` or `difference`, metric) -> share of studies."""
  rng, truths = _rng("coverage", of, prior, skills), [label_values(prior, skill, names) for skill in skills]
  hits = collections.Counter()
  for _ in range(studies):
    _count_hits(hits, label_samples(rng, of, prior, skills, names, in_turn=in_turn), truths, names)
  return {key: count / studies for key, count in hits.items()}


def score_coverage(of: Design, kind: str, means: tuple[float, float], studies: int) -> dict[tuple[str, str], float]:
  """As `label_coverage`, of a metric of scores."""
  rng, truths = _rng("coverage", of, kind, means), [{kind: score_value(kind, mean)} for mean in means]
  hits = collections.Counter()
  for _ in range(studies):
    _count_hits(hits, score_samples(rng, of, kind, means), truths, [kind])
  return {key: count / studies for key, count in hits.items()}


def _count_hits(hits, samples, truths, names) -> None:
  (a,), (b,) = samples
  for name, found in statistics.estimate(b, resamples=1000).items():
    hits["value", name] += found.low <= truths[1][name] <= found.high
  for name in names:
    found = statistics.difference([a], [b], name, swaps=1)
    hits["difference", name] += found.low <= truths[1][name] - truths[0][name] <= found.high


def bootstrap_coverage(
  of: Design, prior: Sequence[float], skills: tuple[float, float], names: Sequence[str], studies: int
) -> dict[tuple[str, str, str], float]:
  """What bootstrap intervals cover, of the studies of `label_coverage`.

  Returns:
    (`percentile` or `bca`, `value` or `difference`, metric) -> share of studies.
  """
  rng, truths = _rng("coverage", of, prior, skills), [label_values(prior, skill, names) for skill in skills]
  hits, groups, z = collections.Counter(), len(of.sizes), stats.norm.isf((1 - LEVEL) / 2)
  for study in range(studies):
    a, b = (sides[0] for sides in label_samples(rng, of, prior, skills, names))
    measures = [b.measures[name].of for name in names]

    def values(weights_RG, a=a, b=b, measures=measures):
      ours, others = (np.tensordot(weights_RG, side.statistics, 1) for side in (b, a))
      return np.stack([[measure(ours), measure(ours) - measure(others)] for measure in measures])

    drawn_M2R = intervals.resample(values, groups, study, 1000)
    whole_M2 = values(np.ones((1, groups)))[..., 0]
    left_out_M2G = values(1 - np.eye(groups))
    for place, name in enumerate(names):
      for kind, what in enumerate(("value", "difference")):
        truth = truths[1][name] - (truths[0][name] if what == "difference" else 0)
        drawn, whole, left_out = drawn_M2R[place, kind], whole_M2[place, kind], left_out_M2G[place, kind]
        ends = {
          "bca": intervals.bca_interval(whole, drawn, left_out, z),
          "percentile": np.quantile(drawn, [0.025, 0.975]),
        }
        for way, (low, high) in ends.items():
          hits[way, what, name] += low <= truth <= high
  return {key: count / studies for key, count in hits.items()}


def null_label_p(
  of: Design, prior: Sequence[float], skill: float, names: Sequence[str], studies: int, seeds: int = 1
) -> dict[str, np.ndarray]:
  """p-values [studies] of two equally good methods: metric -> p, and `METRIC mid-p` where the test is exact."""
  rng, found = _rng("null", of, prior, skill, seeds), collections.defaultdict(list)
  for study in range(studies):
    a, b = label_samples(rng, of, prior, (skill, skill), names, seeds)
    for name in names:
      _add_p(found, name, statistics.difference(a, b, name, study, SWAPS))
  return {name: np.array(values) for name, values in found.items()}


def null_score_p(of: Design, kind: str, mean: float, studies: int, seeds: int = 1) -> dict[str, np.ndarray]:
  """As `null_label_p`, of a metric of scores."""
  rng, found = _rng("null", of, kind, mean, seeds), collections.defaultdict(list)
  for study in range(studies):
    a, b = score_samples(rng, of, kind, (mean, mean), seeds)
    _add_p(found, kind, statistics.difference(a, b, kind, study, SWAPS))
  return {name: np.array(values) for name, values in found.items()}


def _add_p(found, name, comparison) -> None:
  found[name].append(comparison.p)
  if comparison.p_mid is not None:
    found[f"{name} mid-p"].append(comparison.p_mid)


def family_wise(of: Design, skills: Sequence[float], studies: int) -> dict[str, float]:
  """Studies of five targets in which base, sft and dpo have these skills, as to the pairs that are equally good.

  Returns:
    `any`: share of studies in which Holm's p of at least one such pair is below 0.05; `unadjusted`: the same of the p;
    `comparisons` and `equal`: of a study, how many there are and how many of equally good methods.
  """
  rng, any_holm, any_plain = _rng("holm", of, skills), 0, 0
  for study in range(studies):
    rows = []
    for prior, metric in _STUDY_TARGETS:
      rows += _rows(label_samples(rng, of, prior, skills, [metric]), metric, study)
    rows += _rows(score_samples(rng, of, "mixed", skills), "mixed", study)
    compare.adjust(rows)
    skill = dict(zip(METHODS, skills, strict=True))
    equal = [row for row in rows if skill[row["a"]] == skill[row["b"]]]
    any_holm += any(row["p_holm"] < compare.ALPHA for row in equal)
    any_plain += any(row["p"] < compare.ALPHA for row in equal)
  return {
    "any": any_holm / studies,
    "unadjusted": any_plain / studies,
    "comparisons": len(rows),
    "equal": len(equal),
  }


_STUDY_TARGETS = (
  (PRIORS["2 even"], "macro_f1"),
  (PRIORS["3 even"], "macro_f1"),
  (PRIORS["3 uneven"], "macro_f1"),
  (PRIORS["4 even"], "accuracy"),
)


def verdicts(of: Design, skills: Sequence[float], studies: int) -> tuple[dict[str, float], list[int]]:
  """Verdicts in studies of two targets, one by accuracy and one by macro-F1, of methods with these skills.

  Returns:
    Verdict -> share of all targets, and `more_examples` of those that were not decidable.
  """
  rng, found, more = _rng("verdict", of, skills), collections.Counter(), []
  targets = ((PRIORS["4 even"], "accuracy"), (PRIORS["3 even"], "macro_f1"))
  for study in range(studies):
    by_target = [_rows(label_samples(rng, of, prior, skills, [metric]), metric, study) for prior, metric in targets]
    rows = [row for own in by_target for row in own]
    compare.adjust(rows)
    for own in by_target:
      verdict = compare.recommend(own, True, family=len(rows))
      found[verdict["verdict"]] += 1
      if verdict["more_examples"] is not None:
        more.append(verdict["more_examples"])
  return {verdict: count / studies / len(targets) for verdict, count in found.items()}, more


def power_at_detectable(
  of: Design, prior: Sequence[float], skill: float, metric: str, studies: int
) -> dict[str, float]:
  """How often a difference is found that is as large as equally good methods' answers said would be found.

  Returns:
    `mdd`: the median over such answers; `power`: the share of studies with that difference whose p is below 0.05.
  """
  rng = _rng("power", of, prior, skill, metric)

  def compared(skills, study):
    a, b = label_samples(rng, of, prior, skills, [metric])
    return statistics.difference(a, b, metric, study, SWAPS)

  mdd = float(np.median([compared((skill, skill), study).mdd for study in range(max(studies // 10, 2))]))
  low, high = skill, 1.0
  truth = label_values(prior, skill, [metric])[metric]
  for _ in range(40):  # the better skill, by bisection
    middle = (low + high) / 2
    reached = label_values(prior, middle, [metric])[metric] - truth >= mdd
    low, high = (low, middle) if reached else (middle, high)
  found = [compared((skill, high), study).p < compare.ALPHA for study in range(studies)]
  return {"mdd": mdd, "power": float(np.mean(found))}


def seed_spread(of: Design, spread: float, seeds: int, studies: int) -> dict[str, float]:
  """The standard deviation between seeds as it is and as estimated, of the accuracy of methods whose skill varies.

  Returns:
    `true`: of the difference over seeds and all patients; `estimated`: root mean square of `seed_sd`; `naive`: that of
    the standard deviation of the seeds' differences on the test set.
  """
  rng = _rng("seeds", of, spread, seeds)
  skills = stats.norm.cdf(stats.norm.ppf(0.7) + spread * rng.standard_normal((2, 200_000)))
  estimated, naive = [], []
  for study in range(studies):
    a, b = label_samples(rng, of, PRIORS["3 even"], (0.7, 0.7), ["accuracy"], seeds, spread)
    estimated.append(statistics.difference(a, b, "accuracy", study, swaps=1).seed_sd)
    values = [y.measures["accuracy"].value - x.measures["accuracy"].value for x, y in zip(a, b, strict=True)]
    naive.append(np.std(values, ddof=1))
  return {
    "true": float(np.std(skills[1] - skills[0])),
    "estimated": float(np.sqrt(np.mean(np.square(estimated)))),
    "naive": float(np.sqrt(np.mean(np.square(naive)))),
  }


def _rows(samples, metric: str, study: int) -> list[dict]:
  """Comparisons of all pairs of methods."""
  by_method = dict(zip(METHODS, samples, strict=True))
  return [
    compare.row_of(statistics.difference(by_method[a], by_method[b], metric, study, SWAPS), a, b, metric)
    for a, b in (("base", "sft"), ("base", "dpo"), ("sft", "dpo"))
  ]


def upper_bound(found: int, of: int, level: float = 0.95) -> float:
  """The one-sided upper bound of a share (Clopper & Pearson 1934)."""
  return float(stats.beta.ppf(level, found + 1, of - found)) if found < of else 1.0


def _rng(*cell) -> np.random.Generator:
  """Random numbers of a cell of a simulation, from its name."""
  return np.random.default_rng(zlib.crc32(repr(cell).encode()))
