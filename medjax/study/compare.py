"""From the predictions of several methods to results, comparisons and a verdict per target (docs/statistics.md)."""

import itertools
import math
from collections.abc import Mapping, Sequence

from medjax.errors import RunError, UserError
from medjax.evaluation import metrics, statistics
from medjax.evaluation.text_metrics import TEXT_METRICS, text_metrics
from medjax.tasks.task import Target, TextTarget

MARGIN = 0.05  # smallest relevant difference of the primary metric
ALPHA = 0.05

# ids, groups, references and predictions, lists of one length; with a text target also scores, a mapping for each item
Answers = Mapping[str, Sequence]
Key = tuple[str, str, str, int]  # task, target, method, seed


def compare(
  answers: Mapping[Key, Answers],
  targets: Mapping[tuple[str, str], Target | TextTarget],
  methods: Sequence[str],
  split: str = "test",
  seed: int = 0,
  resamples: int = 2000,
  margin: float = MARGIN,
  baselines: Mapping[Key, Answers] | None = None,
) -> tuple[list[dict], list[dict], list[dict]]:
  """Evaluates every method and compares each pair of methods on the primary metric of each target.

  Several training seeds of a method give one result each; a comparison pools them, item by item, with the patient as
  the unit of resampling. Holm's adjustment covers all comparisons of the study. Items may be in any order.

  Args:
    answers: (task, target, method, seed) -> `ids`, `groups` (patients), `references`, `predictions`, and for texts
      `scores` (metric -> score, for each item).
    targets: (task, target) -> Target or TextTarget, in the order to report.
    methods: in the order to report; a comparison's `a` comes before its `b`.
    split: name of the split the answers are on.
    seed: of the resampling.
    resamples: bootstrap resamples, and exchanges of a test.
    margin: smallest relevant difference of the primary metric, in its own unit.
    baselines: as `answers`, of methods that are described beside the others and not compared with them.

  Returns:
    results, comparisons and recommendations: lists of rows of `study.json`.

  Raises:
    RunError: a method lacks answers, or methods were evaluated on different items or with different seeds.
    UserError: references outside the label set, fewer than two patients, or a margin that is not above 0.
  """
  if margin <= 0:
    raise UserError(f"the smallest relevant difference is {margin:g}; give one above 0")
  results, comparisons = [], []
  beside = baselines or {}
  for (task, name), target in targets.items():
    metrics.check_primary(target)
    by_method = {method: _by_seed(answers, task, name, method, target) for method in methods}
    _check_same_items(by_method, f"{task} / {name}")
    described = dict(by_method)
    for method in dict.fromkeys(key[2] for key in beside if key[:2] == (task, name)):
      described[method] = _by_seed(beside, task, name, method, target)
      same_seeds = {seed: by_method[methods[0]][seed] for seed in described[method]}
      _check_same_items({methods[0]: same_seeds, method: described[method]}, f"{task} / {name}")
    where = {"task": task, "target": name}
    for method, runs in described.items():
      for run_seed, run in runs.items():
        results += [
          {**where, "method": method, "seed": run_seed, "split": split, "baseline": method not in by_method, **row}
          for row in _results(run, target, seed, resamples)
        ]
    pooled = {method: _sample(_pool(runs), target, [target.primary]) for method, runs in by_method.items()}
    for a, b in itertools.combinations(methods, 2):
      found = statistics.difference(pooled[a], pooled[b], target.primary, seed, resamples)
      comparisons.append(
        {
          **where,
          "a": a,
          "b": b,
          "metric": target.primary,
          "difference": found.difference,
          "low": found.low,
          "high": found.high,
          "p": found.p,
          "test": found.method,
          "n": found.n,
          "groups": found.groups,
        }
      )
  for row, p_holm in zip(comparisons, statistics.holm([row["p"] for row in comparisons]), strict=True):
    row["p_holm"] = p_holm
  recommendations = []
  for (task, name), target in targets.items():
    rows = [row for row in comparisons if (row["task"], row["target"]) == (task, name)]
    verdict, why = recommend(rows, metrics.higher_is_better(target.primary), margin)
    recommendations.append({"task": task, "target": name, "verdict": verdict, "why": why})
  return results, comparisons, recommendations


def confusions(answers: Mapping[Key, Answers], targets: Mapping[tuple[str, str], Target | TextTarget]) -> list[dict]:
  """Confusion matrices of label targets: task, target, method, seed, labels, predicted, matrix."""
  return [
    {
      "task": task,
      "target": name,
      "method": method,
      "seed": seed,
      **metrics.summarize(run["references"], run["predictions"], targets[task, name])["confusion"],
    }
    for (task, name, method, seed), run in answers.items()
    if not isinstance(targets[task, name], TextTarget)
  ]


def recommend(comparisons: Sequence[dict], higher_is_better: bool, margin: float = MARGIN) -> tuple[str, str]:
  """The verdict of one target and why, from its comparisons of base, sft and dpo.

  Each comparison is a *gain* (interval wholly on the better side of 0, Holm p below 0.05, and not wholly inside the
  margin), *no relevant gain* (the interval's better end at most `margin`, from enough patients), *loss* (interval
  wholly on the worse side of 0, Holm p below 0.05; no gain either) or *open*:

  - `neither_helps`: no relevant gain of sft nor of dpo over base;
  - `dpo_adds`: dpo gains over sft and over base;
  - `sft_is_enough`: sft gains over base, and dpo has no relevant gain over sft;
  - `not_decidable`: everything else.
  """
  rows = {(row["a"], row["b"]): row for row in comparisons}
  pairs = [("base", "sft"), ("sft", "dpo"), ("base", "dpo")]
  missing = [f"{a} -> {b}" for a, b in pairs if (a, b) not in rows]
  if missing:
    return "not_decidable", f"The verdict needs base, sft and dpo; this study lacks {', '.join(missing)}."
  states = {pair: _state(rows[pair], higher_is_better, margin) for pair in pairs}
  text = {pair: describe(rows[pair]) for pair in pairs}
  sft, step, dpo = pairs
  metric = rows[sft]["metric"] + ("" if higher_is_better else " (lower is better)")
  no_gain = ("no relevant gain", "loss")
  harm = "".join(f"{pair[1].upper()} does harm: {text[pair]}. " for pair in pairs if states[pair] == "loss")
  if states[sft] in no_gain and states[dpo] in no_gain:
    return (
      "neither_helps",
      f"{harm}a gain over base in {metric} of more than {margin:g} is ruled out: {text[sft]}; {text[dpo]}.",
    )
  if states[step] == states[dpo] == "gain":
    return "dpo_adds", f"DPO after SFT improves {metric} over SFT and over base: {text[step]}; {text[dpo]}."
  if states[sft] == "gain" and states[step] in no_gain:
    return (
      "sft_is_enough",
      f"{harm}SFT improves {metric} over base: {text[sft]}; a gain from DPO of more than {margin:g} is ruled out: "
      f"{text[step]}.",
    )
  found = "; ".join(f"{text[pair]}: {states[pair]}" for pair in pairs)
  return (
    "not_decidable",
    f"{harm}By {metric}, {found}. {_advice([rows[p] for p in pairs if states[p] == 'open'], margin)}",
  )


def describe(row: dict) -> str:
  """One comparison in words: `sft -> dpo +0.020 [-0.010, +0.050], Holm p 0.21`."""
  interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
  return f"{row['a']} -> {row['b']} {interval}, Holm p {p_text(row['p_holm'])}"


def p_text(p: float) -> str:
  """A p-value for reading: three digits, `<0.001` below."""
  return "<0.001" if p < 0.001 else f"{p:.3f}"


def _fields(target: Target | TextTarget) -> tuple[str, ...]:
  return ("ids", "groups", "references", "predictions", *(("scores",) if isinstance(target, TextTarget) else ()))


def _by_seed(answers, task, name, method, target) -> dict[int, Answers]:
  """Seed -> answers in the order of their ids, seeds ascending."""
  runs = {key[3]: run for key, run in answers.items() if key[:3] == (task, name, method)}
  if not runs:
    raise RunError(f"{task} / {name}: no predictions of {method}; run the study again to finish it")
  what = f"{task} / {name}, {method}, seed"
  return {seed: _sorted(runs[seed], _fields(target), f"{what} {seed}") for seed in sorted(runs)}


def _sorted(run: Answers, fields: Sequence[str], what: str) -> dict[str, list]:
  if len({len(run[field]) for field in fields}) > 1:
    sizes = ", ".join(f"{len(run[field])} {field}" for field in fields)
    raise RunError(f"{what}: {sizes}; evaluate it again")
  if len(set(run["ids"])) < len(run["ids"]):
    raise RunError(f"{what}: an id occurs twice; evaluate it again on a split with unique ids")
  order = sorted(range(len(run["ids"])), key=lambda index: run["ids"][index])
  return {field: [run[field][index] for index in order] for field in fields}


def _check_same_items(by_method: dict[str, dict[int, dict]], what: str) -> None:
  first, *others = by_method
  for method in others:
    if by_method[method].keys() != by_method[first].keys():
      seeds = {name: sorted(by_method[name]) for name in (first, method)}
      raise RunError(f"{what}: {first} has seeds {seeds[first]} but {method} has {seeds[method]}; run the missing ones")
    for seed, run in by_method[method].items():
      for field in ("ids", "groups", "references"):
        if run[field] != by_method[first][seed][field]:
          raise RunError(
            f"{what}, seed {seed}: {first} and {method} were evaluated on different items ({field} differ); "
            "evaluate both on the same split"
          )


def _sample(run: Mapping[str, list], target: Target | TextTarget, names: Sequence[str]) -> statistics.Sample:
  """What metrics are read off: confusion counts of labels, sums of the scores of texts."""
  if isinstance(target, TextTarget):
    zero_one = {name for name in names if TEXT_METRICS[name].per_item}
    scores = {name: [score[name] for score in run["scores"]] for name in names}
    return statistics.score_sample(scores, run["groups"], zero_one)
  return statistics.label_sample(run["references"], run["predictions"], names, target, run["groups"])


def _results(run, target, seed, resamples) -> list[dict]:
  names = list(text_metrics(target)) if isinstance(target, TextTarget) else metrics.applicable(target)
  return [
    {
      "metric": name,
      "primary": name == target.primary,
      "value": found.value,
      "low": found.low,
      "high": found.high,
      "n": found.n,
      "groups": found.groups,
    }
    for name, found in statistics.intervals(_sample(run, target, names), seed, resamples).items()
  ]


def _pool(runs: dict[int, dict]) -> dict[str, list]:
  fields = next(iter(runs.values()))
  return {field: [value for run in runs.values() for value in run[field]] for field in fields}


def enough_groups(margin: float) -> int:
  """Fewest patients from which `no relevant gain` may follow.

  With fewer, even not one changed answer is compatible, at 95 %, with changes in more than `margin` of all patients
  (Hanley & Lippman-Hand 1983): (1 - margin)^n <= 0.05. Margins above 0.5, which costs may have, count as 0.5.
  """
  return math.ceil(math.log(ALPHA) / math.log1p(-min(margin, 0.5)))


def _state(row: dict, higher_is_better: bool, margin: float) -> str:
  low, high = (row["low"], row["high"]) if higher_is_better else (-row["high"], -row["low"])
  if high < 0 and row["p_holm"] < ALPHA:
    return "loss"
  if high <= margin:
    return "no relevant gain" if row["groups"] >= enough_groups(margin) else "open"
  return "gain" if low > 0 and row["p_holm"] < ALPHA else "open"


def _advice(open_rows: Sequence[dict], margin: float) -> str:
  if not open_rows:
    return "The comparisons contradict one another; more training seeds would help."
  groups = open_rows[0]["groups"]
  needed = max(statistics.groups_needed(row["low"], row["high"], groups, margin) for row in open_rows)
  if needed <= groups < enough_groups(margin):
    return (
      f"A gain of more than {margin:g} can be ruled out from {enough_groups(margin)} test patients on, not {groups}."
    )
  if needed > groups:
    unit = 10 ** max(0, len(str(needed)) - 2)
    needed = math.ceil(needed / unit) * unit
    return f"About {needed} test patients, not {groups}, would show a difference of {margin:g} with 80 % power."
  return (
    f"The {groups} test patients suffice for a difference of {margin:g}, but the truth seems to lie near 0 or near it."
  )
