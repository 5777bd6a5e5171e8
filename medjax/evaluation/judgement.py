"""What judges said of texts, in numbers: scores, wins, what the order of answers did, and how far judges agree."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score

from medjax.evaluation import statistics
from medjax.evaluation.judge import SWAPPED

SCHEMA_VERSION = 1
SCORES = (1, 2, 3, 4, 5)
OUTCOMES = (-1, 0, 1)  # loss, tie, win
Opinion = dict[str, Any]  # criterion -> score, or `outcome` and `verdicts`; criteria are absent where it is invalid


@dataclasses.dataclass(frozen=True)
class Answer:
  """A line of `predictions.jsonl`: a row's answer, empty where there is none, and its reference."""

  id: str
  group: str
  answer: str
  reference: str


def scale_of(rubric: Mapping[str, str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
  """Criteria, and the values that they may have, of a rubric, or where answers are compared."""
  return (("outcome",), OUTCOMES) if rubric is None else (tuple(rubric), SCORES)


def report_on(
  judges: Sequence[str],
  answers: Sequence[Answer],
  asked: Sequence[int],
  opinions: Sequence[Sequence[Sequence[Opinion]]],
  rubric: Mapping[str, str] | None,
  human: Sequence[Opinion] | None,
) -> dict[str, Any]:
  """What judges said of answers, in numbers.

  Args:
    judges: their names.
    answers: n answers.
    asked: places of the answers that were asked about.
    opinions: of each judge, at each time that it was asked, of each answer.
    rubric: criterion -> what it asks for; None where answers were compared.
    human: n opinions of people, {} where there is none; None without.

  Returns:
    What `judgement.json` holds, see docs/statistics.md.
  """
  pairs, criteria, labels = rubric is None, *scale_of(rubric)
  report = {
    "schema_version": SCHEMA_VERSION,
    "kind": "pairs" if pairs else "rubric",
    "rows": len(answers),
    "patients": len({each.group for each in answers}),
    "asked": len(asked),
    "repeats": len(opinions[0]),
  }
  if not pairs:
    report |= {"rubric": dict(rubric), "unanswered": len(answers) - len(asked)}
  of_judge = functools.partial(_of_pairs if pairs else _of_rubric, answers, asked, criteria=criteria)
  report["judges"] = [
    {"judge": name, "invalid": _invalid(answers, asked, times, criteria), **of_judge(times)}
    for name, times in zip(judges, opinions, strict=True)
  ]
  agree = functools.partial(_agreement, asked, criteria, labels)
  agreement: dict[str, Any] = {}
  if len(opinions[0]) > 1:
    agreement["repeats"] = [agree(list(itertools.combinations(times, 2))) for times in opinions]
  if len(opinions) > 1:
    agreement["judges"] = agree([(opinions[0][0], opinions[1][0])])
  if human is not None:
    agreement["human"] = [agree([(times[0], human)]) for times in opinions]
  report["agreement"] = agreement
  return report


def _invalid(
  answers: Sequence[Answer], asked: Sequence[int], times: Sequence[Sequence[Opinion]], criteria: Sequence[str]
) -> dict[str, Any]:
  """Opinions that cannot be used: how many, and of which rows."""
  counts = {place: sum(criteria[0] not in at_a_time[place] for at_a_time in times) for place in asked}
  rows = [answers[place].id for place, count in counts.items() if count]
  return {"opinions": sum(counts.values()), "rows": rows}


def _mean(times: Sequence[Sequence[Opinion]], place: int, name: str) -> float | None:
  """The mean of a row's usable opinions; None where it has none."""
  said = [at_a_time[place][name] for at_a_time in times if name in at_a_time[place]]
  return float(np.mean(said)) if said else None


def _of_rubric(
  answers: Sequence[Answer], asked: Sequence[int], times: Sequence[Sequence[Opinion]], criteria: Sequence[str]
) -> dict[str, Any]:
  """Mean scores of a judge with intervals over patients; `overall` is the mean of the criteria."""
  del asked
  places = [place for place in range(len(answers)) if _mean(times, place, criteria[0]) is not None]
  groups = [answers[place].group for place in places]
  scores = {name: [_mean(times, place, name) for place in places] for name in criteria}
  scores = {"overall": np.mean(list(scores.values()), 0).tolist(), **scores}
  return {"scores": {name: _interval(values, groups, SCORES[0], SCORES[-1]) for name, values in scores.items()}}


def _of_pairs(
  answers: Sequence[Answer], asked: Sequence[int], times: Sequence[Sequence[Opinion]], criteria: Sequence[str]
) -> dict[str, Any]:
  """Wins, ties and losses by a judge, the win rate, and what the order of the answers did."""
  means = {place: _mean(times, place, criteria[0]) for place in range(len(answers))}
  means = {place: mean for place, mean in means.items() if mean is not None}
  signs = collections.Counter(int(np.sign(mean)) for mean in means.values())
  groups = [answers[place].group for place in means]
  both = [at_a_time[place]["verdicts"] for at_a_time in times for place in asked if "outcome" in at_a_time[place]]
  changed = [(first, second) for first, second in both if second != SWAPPED[first]]
  return {
    "win": signs[1],
    "tie": signs[0],
    "loss": signs[-1],
    "win_rate": _interval([(mean + 1) / 2 for mean in means.values()], groups, 0, 1),
    "swapped": {
      "pairs": len(both),
      "changed": len(changed),
      "share": len(changed) / len(both) if both else None,
      "first": changed.count(("a", "a")),
      "second": changed.count(("b", "b")),
    },
  }


def _interval(values: Sequence[float], groups: Sequence[str], low: int, high: int) -> dict[str, Any]:
  """A mean with its 95 % interval over patients; without one where there are fewer than two."""
  known = {"value": float(np.mean(values)), "n": len(values), "groups": len(set(groups))}
  if known["groups"] < 2:
    return {**known, "low": None, "high": None}
  sample = statistics.score_sample({"x": (np.asarray(values) - low) / (high - low)}, groups, bounded=("x",))
  found = statistics.estimate(sample)["x"]
  return {**known, "low": low + (high - low) * found.low, "high": low + (high - low) * found.high}


def _agreement(
  asked: Sequence[int],
  criteria: Sequence[str],
  labels: Sequence[int],
  sides: Sequence[tuple[Sequence[Opinion], Sequence[Opinion]]],
) -> dict[str, Any]:
  """By criterion `kappa` with quadratic weights (Cohen 1968), over several comparisons their mean, and `n` rows.

  It is None where both sides say one and the same of all rows.
  """
  found = {}
  for name in criteria:
    kappas, sizes = [], []
    for one, other in sides:
      both = [(one[place][name], other[place][name]) for place in asked if name in one[place] and name in other[place]]
      sizes.append(len(both))
      if len({value for pair in both for value in pair}) > 1:
        kappas.append(cohen_kappa_score(*zip(*both, strict=True), labels=list(labels), weights="quadratic"))
    found[name] = {"kappa": float(np.mean(kappas)) if kappas else None, "n": min(sizes)}
  return found


def summary(report: Mapping[str, Any]) -> list[str]:
  """The report in lines for the console."""
  lines = [f"{report['rows']} rows of {report['patients']} patients, {report['asked']} asked about"]
  for one in report["judges"]:
    lines.append(f"judge {one['judge']}")
    for name, value in one.get("scores", {}).items():
      lines.append(f"  {name:<22}{_shown(value)}")
    if "win" in one:
      lines.append(f"  win / tie / loss      {one['win']} / {one['tie']} / {one['loss']}")
      lines.append(f"  win rate              {_shown(one['win_rate'])}")
      swapped = one["swapped"]
      lines.append(
        f"  changed by the order  {swapped['changed']} of {swapped['pairs']} pairs ({swapped['first']} times the first "
        f"answer both times, {swapped['second']} the second)"
      )
    lines.append(f"  invalid opinions      {one['invalid']['opinions']}, of {len(one['invalid']['rows'])} rows")
  for kind, found in report["agreement"].items():
    for place, by_name in enumerate(found if isinstance(found, list) else [found]):
      of = f" {report['judges'][place]['judge']}" if isinstance(found, list) else ""
      kappas = ", ".join(
        f"{name} {value['kappa']:.2f}" if value["kappa"] is not None else f"{name} -" for name, value in by_name.items()
      )
      lines.append(f"weighted kappa, {kind}{of}: {kappas}")
  return lines


def _shown(value: Mapping[str, Any]) -> str:
  interval = "" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]"
  return f"{value['value']:.2f}{interval}"
