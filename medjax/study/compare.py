"""From the predictions of several methods to results, comparisons and a verdict per target (docs/statistics.md)."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from medjax.errors import RunError, UserError
from medjax.evaluation import metrics, power, statistics
from medjax.evaluation.text_metrics import TEXT_METRICS, text_metrics
from medjax.tasks.task import Target, TextTarget

MARGIN = 0.05  # smallest relevant difference of the primary metric
ALPHA = 0.05
SWAPS_A_COMPARISON = 200  # so that the smallest p of a permutation test, adjusted by Holm, is at most a tenth of ALPHA
DECIDING = (("base", "sft"), ("sft", "dpo"), ("base", "dpo"))

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

  Several training seeds of a method give one result each; a comparison is of their means, with the patient as the
  unit. Holm's adjustment covers all comparisons of the study. Items may be in any order.

  Args:
    answers: (task, target, method, seed) -> `ids`, `groups` (patients), `references`, `predictions`, and for texts
      `scores` (metric -> score, for each item).
    targets: (task, target) -> Target or TextTarget, in the order to report.
    methods: in the order to report; a comparison's `a` comes before its `b`.
    split: name of the split the answers are on.
    seed: of the resampling.
    resamples: bootstrap resamples; a permutation test has as many swaps, and more where Holm's family is so large that
      its smallest p could not reach the level.
    margin: smallest relevant difference of the primary metric, in its own unit.
    baselines: as `answers`, of methods that are described beside the others and not compared with them.

  Returns:
    results, comparisons and recommendations: lists of rows of `study.json`.

  Raises:
    RunError: a method lacks answers, methods were evaluated on different items or with different seeds, or one of
      several seeds on other items than the first.
    UserError: references outside the label set, fewer than two patients, or a margin that is not above 0.
  """
  if margin <= 0:
    raise UserError(f"the smallest relevant difference is {margin:g}; give one above 0")
  results, comparisons = [], []
  beside = baselines or {}
  pairs = list(itertools.combinations(methods, 2))
  swaps = max(resamples, SWAPS_A_COMPARISON * len(pairs) * len(targets))
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
    samples = {
      method: [sample_of(run, target, [target.primary]) for run in runs.values()] for method, runs in by_method.items()
    }
    for a, b in pairs:
      found = statistics.difference(samples[a], samples[b], target.primary, seed, swaps)
      comparisons.append({**where, **row_of(found, a, b, target.primary)})
  adjust(comparisons)
  recommendations = []
  for (task, name), target in targets.items():
    rows = [row for row in comparisons if (row["task"], row["target"]) == (task, name)]
    found = recommend(rows, metrics.higher_is_better(target.primary), margin, len(comparisons))
    recommendations.append({"task": task, "target": name, **found})
  return results, comparisons, recommendations


def row_of(found: statistics.Comparison, a: str, b: str, metric: str) -> dict:
  """A row of `comparisons`, without task, target and what is known of all comparisons together only."""
  row = {"a": a, "b": b, "metric": metric, **dataclasses.asdict(found)}
  return {**row, "effect": row["effect"] if row["effect_size"] is not None else None}


def adjust(comparisons: Sequence[dict]) -> None:
  """Adds `p_holm` to all comparisons of a study."""
  for row, p_holm in zip(comparisons, statistics.holm([row["p"] for row in comparisons]), strict=True):
    row["p_holm"] = p_holm


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


def recommend(
  comparisons: Sequence[dict], higher_is_better: bool, margin: float = MARGIN, family: int | None = None
) -> dict[str, str | int | None]:
  """The verdict of one target, from its comparisons of base, sft and dpo; those of other methods take no part.

  Each comparison is a *gain* (interval wholly on the better side of 0, Holm p below 0.05, and not wholly inside the
  margin), *no relevant gain* (the interval's better end at most `margin`, from enough patients), *loss* (interval
  wholly on the worse side of 0, Holm p below 0.05; no gain either) or *open*:

  - `neither_helps`: no relevant gain of sft nor of dpo over base;
  - `dpo_adds`: dpo gains over sft and over base;
  - `sft_is_enough`: sft gains over base, and dpo has no relevant gain over sft;
  - `not_decidable`: everything else.

  Args:
    comparisons: rows of one target; a row may compare two methods in either order.
    higher_is_better: of their metric.
    margin: smallest relevant difference.
    family: comparisons that Holm's adjustment covered; None: those given.

  Returns:
    `verdict`, `why` in words, and `more_examples`: how many more test rows would decide with 80 % power, were the true
    differences those found; None where the verdict is another, or more rows would not help.
  """
  rows = {(row["a"], row["b"]): row for row in comparisons}
  rows |= {(b, a): _reversed(row) for (a, b), row in rows.items() if (b, a) not in rows}
  missing = [f"{a} -> {b}" for a, b in DECIDING if (a, b) not in rows]
  if missing:
    lacks = f"The verdict needs base, sft and dpo; this study lacks {', '.join(missing)}."
    return {"verdict": "not_decidable", "why": lacks, "more_examples": None}
  states = {pair: _state(rows[pair], higher_is_better, margin) for pair in DECIDING}
  text = {pair: describe(rows[pair]) for pair in DECIDING}
  sft, step, dpo = DECIDING
  metric = rows[sft]["metric"] + ("" if higher_is_better else " (lower is better)")
  no_gain = ("no relevant gain", "loss")
  harm = "".join(f"{pair[1].upper()} does harm: {text[pair]}. " for pair in DECIDING if states[pair] == "loss")
  if states[sft] in no_gain and states[dpo] in no_gain:
    verdict = "neither_helps"
    why = f"{harm}a gain over base in {metric} of more than {margin:g} is ruled out: {text[sft]}; {text[dpo]}."
  elif states[step] == states[dpo] == "gain":
    verdict = "dpo_adds"
    why = f"DPO after SFT improves {metric} over SFT and over base: {text[step]}; {text[dpo]}."
  elif states[sft] == "gain" and states[step] in no_gain:
    verdict = "sft_is_enough"
    why = (
      f"{harm}SFT improves {metric} over base: {text[sft]}; a gain from DPO of more than {margin:g} is ruled out: "
      f"{text[step]}."
    )
  else:
    found = "; ".join(f"{text[pair]}: {states[pair]}" for pair in DECIDING)
    open_rows = [rows[pair] for pair in DECIDING if states[pair] == "open"]
    more = _more_examples(open_rows, higher_is_better, margin, family or len(comparisons))
    why = f"{harm}By {metric}, {found}. {_advice(more, open_rows, margin)}"
    return {"verdict": "not_decidable", "why": why, "more_examples": more}
  return {"verdict": verdict, "why": why, "more_examples": None}


def describe(row: dict) -> str:
  """One comparison in words: `sft -> dpo +0.020 [-0.010, +0.050], Holm p 0.21, detectable 0.043`."""
  interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
  shown = detectable(row)
  could = f", detectable {shown:.3f}" if shown is not None else ""
  return f"{row['a']} -> {row['b']} {interval}, Holm p {p_text(row['p_holm'])}{could}"


def detectable(row: Mapping) -> float | None:
  """The minimum detectable difference beside a comparison that shows none, else None."""
  return row.get("mdd") if row["p_holm"] >= ALPHA else None


def p_text(p: float) -> str:
  """A p-value for reading: three digits, `<0.001` below."""
  return "<0.001" if p < 0.001 else f"{p:.3f}"


def _fields(target: Target | TextTarget) -> tuple[str, ...]:
  return ("ids", "groups", "references", "predictions", *(("scores",) if isinstance(target, TextTarget) else ()))


def _by_seed(answers, task, name, method, target) -> dict[int, Answers]:
  """Seed -> answers in the order of their ids, seeds ascending; the same items for all."""
  runs = {key[3]: run for key, run in answers.items() if key[:3] == (task, name, method)}
  if not runs:
    raise RunError(f"{task} / {name}: no predictions of {method}; run the study again to finish it")
  what = f"{task} / {name}, {method}, seed"
  found = {seed: _sorted(runs[seed], _fields(target), f"{what} {seed}") for seed in sorted(runs)}
  first, *others = found
  for seed in others:
    if any(found[seed][field] != found[first][field] for field in ("ids", "groups", "references")):
      raise RunError(f"{what} {seed}: evaluated on other items than seed {first}; evaluate both on the same split")
  return found


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


def sample_of(run: Mapping[str, list], target: Target | TextTarget, names: Sequence[str]) -> statistics.Sample:
  """What metrics are read off: confusion counts of labels, sums of the scores of texts."""
  if isinstance(target, TextTarget):
    zero_one = {name for name in names if TEXT_METRICS[name].per_item}
    bounded = {name for name in names if TEXT_METRICS[name].bounded}
    scores = {name: [score[name] for score in run["scores"]] for name in names}
    return statistics.score_sample(scores, run["groups"], zero_one, bounded)
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
      "interval": found.method,
    }
    for name, found in statistics.estimate(sample_of(run, target, names), seed, resamples).items()
  ]


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


def _reversed(row: dict) -> dict:
  """The same comparison, of b with a."""
  ends = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
  return {**row, "a": row["b"], "b": row["a"], **ends}


def _more_examples(open_rows: Sequence[dict], higher_is_better: bool, margin: float, family: int) -> int | None:
  """Test rows beyond those at hand that would leave no comparison open, with 80 % power each.

  Were the true difference the one found, d, an open comparison would be decided from either side: as a gain once 0 is
  far enough from d, as no relevant gain once the margin is. The farther of the two is reached first.
  """
  more = []
  for row in open_rows:
    gain = row["difference"] if higher_is_better else -row["difference"]
    above = gain > margin - gain
    distance = gain if above else margin - gain
    needed = power.groups_needed(row["error"], row["groups"], distance, family if above else 1)
    needed = max(needed, enough_groups(margin), row["groups"] + 1)
    more.append(math.ceil((needed - row["groups"]) * row["n"] / row["groups"]))
  if not more:
    return None
  unit = 10 ** max(0, len(str(max(more))) - 2)
  return math.ceil(max(more) / unit) * unit


def _advice(more: int | None, open_rows: Sequence[dict], margin: float) -> str:
  if more is None:
    return "The comparisons contradict one another; more training seeds would help."
  groups, enough = open_rows[0]["groups"], enough_groups(margin)
  few = (
    f" A gain of more than {margin:g} can be ruled out from {enough} test patients on, not {groups}."
    if groups < enough
    else ""
  )
  return f"About {more} more test examples are needed, were the true differences those found.{few}"
