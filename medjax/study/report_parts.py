"""What both reports show beside the results, as titles, headers and rows of text: costs, data, subgroups and more."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medjax.study import compare, names, published
from medjax.study.compare import p_text

Study = Mapping[str, Any]

STATEMENT = (
  "This report is of an experiment on language models. Neither medjax nor a model that was trained or tested here is a "
  "medical device, and none has been assessed or cleared by a regulator.",
  "Nothing here may be used for the diagnosis, triage or treatment of a patient, and no figure shows that a model is "
  "safe: rare and grave errors need not occur in a test set of this size. Use in care needs prospective evaluation in "
  "its own setting, oversight by clinicians, and the approval that its place requires.",
)
SPLIT_BY = {
  "task": "the task’s own splits",
  "source": "splits named in the source",
  "hash": "70/10/20 by a hash of each patient",
  "stratified": "70/10/20 of each label",
}
TESTS = {
  "mcnemar_exact": "McNemar, exact",
  "permutation": "permutation over patients",
}
COLUMNS = 6  # more methods than this are rows of a table for each target
LONG = 30  # more rows than this make a table for each target
_EFFECTS = {"cohens_g": "Cohen’s g", "cohens_dz": "Cohen’s d"}
_SCORES = {"ece": "ECE", "brier": "Brier score", "log_loss": "log loss"}
_AREAS = {"auroc": "AUROC", "auprc": "AUPRC"}


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text; the first cell of a row names it, `numbers` are the columns to align right."""

  caption: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  numbers: frozenset[int] = frozenset()


def runs(study: Study) -> list[str]:
  """The names of all runs and baselines, in the order of the results."""
  several = names.several_seeds(study)
  return list(dict.fromkeys(names.run(row, several) for row in study["results"]))


def primary_by_target(study: Study) -> list[Table]:
  """For each target its primary metric: a row for each method and baseline, a column for each seed."""
  several, out = names.several_seeds(study), []
  for rows in _by_target(row for row in study["results"] if row["primary"]):
    metric = rows[0]["metric"]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    best = (min if metric in names.LOWER_IS_BETTER else max)(row["value"] for row in rows)
    cells: dict[str, dict] = {}
    for row in rows:
      mark = " ▲" if row["value"] == best else ""
      cells.setdefault(names.method(row["method"]), {})[row["seed"]] = f"{_value(row)}{mark}"
    body = tuple((name, *(own.get(seed, "–") for seed in seeds)) for name, own in cells.items())
    header = ("Method", *(f"seed {seed}" for seed in seeds)) if several else ("Method", "value")
    caption = f"{names.target(rows[0])}: {names.metric(metric)} with its 95 % interval, n = {rows[0]['n']}"
    out.append(Table(caption, header, body))
  return out


def metrics_by_target(study: Study) -> list[Table]:
  """For each target all its metrics: a row for each run, a column for each metric."""
  several, out = names.several_seeds(study), []
  for rows in _by_target(study["results"]):
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells: dict[str, dict] = {}
    for row in rows:
      cells.setdefault(names.run(row, several), {})[row["metric"]] = _value(row)
    body = tuple((name, *(own.get(metric, "–") for metric in metrics)) for name, own in cells.items())
    header = ("Method", *map(names.metric, metrics))
    out.append(Table(f"{names.target(rows[0])}: all metrics, n = {rows[0]['n']}", header, body))
  return out


def _by_target(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
  found: dict[tuple[str, str], list] = {}
  for row in rows:
    found.setdefault((row["task"], row["target"]), []).append(row)
  return list(found.values())


def differences(study: Study) -> list[Table]:
  """All comparisons, with what was recorded of each: one table, or where it would be long one for each target."""
  rows = study["comparisons"]
  if len(rows) <= LONG:
    return [_differences(rows)] if rows else []
  return [_differences(own, f"{names.target(own[0])}: ") for own in _by_target(rows)]


def _differences(rows: list[Mapping[str, Any]], title: str = "") -> Table:
  columns = {
    "Comparison": lambda row: f"{names.method(row['b'])} − {names.method(row['a'])}",
    "Metric": lambda row: names.metric(row["metric"]),
    "Difference": lambda row: names.number(row["difference"], "+"),
    "95 % interval": lambda row: names.interval(row, "+"),
    "p": lambda row: p_text(row["p"]),
    "mid-p": lambda row: "" if row.get("p_mid") is None else p_text(row["p_mid"]),
    "p (Holm)": lambda row: p_text(row["p_holm"]),
    "Test": lambda row: TESTS.get(row.get("test", ""), row.get("test", "")),
    "Effect size": _effect,
    "Detectable": detectable,
    "Between seeds": lambda row: "" if row.get("seed_sd") is None else names.number(row["seed_sd"]),
  }
  cells = {name: [of(row) for row in rows] for name, of in columns.items()}
  kept = [name for name, values in cells.items() if any(values)]
  body = tuple(zip(*(cells[name] for name in kept), strict=True))
  if not title:
    body = tuple((names.target(row), *values) for row, values in zip(rows, body, strict=True))
  notes = {
    "Detectable": "Detectable: where no difference is shown, the one that these rows would show with 80 % power.",
    "Between seeds": "Between seeds: standard deviation of the difference that is owed to the training seed.",
  }
  caption = " ".join(
    [
      f"{title}Difference in the primary metric, first method named minus second.",
      *(notes[name] for name in notes if name in kept),
    ]
  )
  return Table(caption, tuple(kept) if title else ("Target", *kept), body)


def costs(study: Study) -> Table | None:
  """Tokens, hours and FLOPs of each tested run, and the FLOPs of all candidates that it was chosen from."""
  found = study.get("cost", [])
  if not found:
    return None
  seconds = study.get("environment", {}).get("training_seconds", {})
  rows, sums = [], [0, 0, 0.0, 0, 0]
  timed = True
  for row in found:
    if not row["chosen"]:
      continue
    same = [other for other in found if all(other[key] == row[key] for key in ("task", "method", "seed"))]
    flops, total = _flops(row), sum(map(_flops, same))
    took = seconds.get(f"{row['task']} {row['method']} seed{row['seed']}")
    timed &= took is not None
    cells = (row["steps"], row["tokens"], took or 0.0, flops, total)
    sums = [one + other for one, other in zip(sums, cells, strict=True)]
    rows.append((*_where(row), str(row["seed"]), *_cost_cells(*cells, took is not None)))
  rows.append(("all runs", "", "", *_cost_cells(*sums, timed)))
  caption = (
    "What training took. Tokens: real ones, a prompt counted with each of its answers. FLOPs: what the mathematics of "
    "forward, backward and reference passes needs, without padding and recomputation. Hours: train steps only, without "
    "compilation, validation and tests."
  )
  header = ["Task", "Method", "Seed", "Steps", "Tokens", "Hours", "FLOPs", "FLOP/s"]
  if all(row["chosen"] for row in found):
    rows = [row[:-1] for row in rows]
  else:
    header.append("FLOPs of all candidates")
  return Table(caption, tuple(header), tuple(rows), frozenset(range(2, len(header))))


def data_cards(study: Study) -> Iterator[dict[str, Any]]:
  """For each task its splits, labels, repeated prompts and warnings."""
  for task, card in study.get("data", {}).items():
    splits = card["splits"]
    header = ("Split", "Rows", "Patients", "Fingerprint")
    body = [(split, f"{of['rows']:,}", f"{of['groups']:,}", of["data"]) for split, of in splits.items()]
    labels = {
      name: Table(
        f"Rows by {name.replace('_', ' ')}",
        ("Label", *splits),
        tuple(
          (label, *(f"{of['labels'][name][label]:,} ({_percent(of['labels'][name][label], of['rows'])})" for of in own))
          for label in next(iter(own))["labels"][name]
        ),
        frozenset(range(1, 1 + len(splits))),
      )
      for own in [list(splits.values())]
      for name in own[0]["labels"]
    }
    yield {
      "title": task.replace("_", " "),
      "facts": list(_data_facts(card)),
      "splits": Table("Rows by split", header, tuple(body), frozenset({1, 2})),
      "labels": labels,
      "repeated": list(_repeated(card)),
      "warnings": card["warnings"],
    }


def calibration(study: Study, several_seeds: bool) -> dict[str, Table]:
  """Title of a target -> ECE, Brier score and log loss of each run, and how well its probabilities rank the rows."""

  def shown(of: Mapping[str, Any] | None) -> str:
    return f"{names.number(of['value'])} {names.interval(of)}" if of else "-"

  by_target: dict[str, list] = {}
  for row in study.get("calibration", []):
    cells = [shown(row["scores"][key]) for key in _SCORES] + [shown(row.get("ranking", {}).get(key)) for key in _AREAS]
    by_target.setdefault(names.target(row), []).append((names.run(row, several_seeds), *cells))
  header = ("Method", *_SCORES.values(), *_AREAS.values())
  caption = "value [95 % interval]; of AUROC and AUPRC higher is better, of the others lower"
  return {title: Table(f"{title}: {caption}", header, tuple(rows)) for title, rows in by_target.items()}


def subgroups(study: Study, several_seeds: bool) -> list[dict[str, Any]]:
  """For each target and column the rows of its subgroups, and a table of them."""
  found: dict[tuple[str, str], list] = {}
  for row in study.get("subgroups", []):
    found.setdefault((names.target(row), row["column"]), []).append(row)
  out = []
  for (title, column), rows in found.items():
    levels = dict.fromkeys(row["level"] for row in rows)
    runs = dict.fromkeys(names.run(row, several_seeds) for row in rows)
    values = {(row["level"], names.run(row, several_seeds)): row for row in rows}
    body = []
    for level in levels:
      own = [values.get((level, run)) for run in runs]
      first = next(row for row in own if row)
      body.append((level, f"{first['n']} ({first['groups']})", *(_value(row) for row in own)))
    metric = names.metric(rows[0]["metric"])
    caption = f"{title} by {column.replace('_', ' ')}: {metric} with its 95 % interval"
    header = (column.replace("_", " "), "Rows (patients)", *runs)
    table = Table(caption, header, tuple(body), frozenset({1}))
    out.append({"title": title, "column": column.replace("_", " "), "metric": metric, "rows": rows, "table": table})
  return out


def unread(study: Study, several_seeds: bool) -> dict[str, str]:
  """Title of a target -> a sentence on answers that could not be read, where there are any."""
  by_target: dict[str, list] = {}
  for row in study.get("unparseable", []):
    by_target.setdefault(names.target(row), []).append(row)
  out = {}
  for title, rows in by_target.items():
    if any(row["unparseable"] for row in rows):
      counts = ", ".join(f"{names.run(row, several_seeds)} {row['unparseable']}" for row in rows)
      out[title] = f"Answers that could not be read, of {rows[0]['n']}, counted as wrong: {counts}."
  return out


def beside_published(study: Study) -> Table | None:
  """The published figures and this study's, one row each; None where kinds and models differ."""
  rows = []
  for found in published.beside(study):
    where = (found["task"], found["target"])
    own = {
      row["method"]: row
      for row in study["results"]
      if row["primary"] and (row["task"], row["target"]) == where and not row.get("baseline")
    }
    shown = [("–" if value is None else f"{value:g}") for value in found["values"].values()]
    rows.append((names.target(found), f"published, {found['model']}", found["metric"], *shown))
    metric = names.metric(next(iter(own.values()))["metric"])
    rows.append((names.target(found), "this study", metric, *(_value(own.get(method)) for method in published.METHODS)))
  if not rows:
    return None
  header = ("Target", "Study", "Metric", *map(names.method, published.METHODS))
  return Table(f"Beside the published study. {published.CAVEAT}", header, tuple(rows))


def detectable(row: Mapping[str, Any]) -> str:
  """The difference that the test set would find, of a comparison that shows none."""
  found = compare.detectable(row)
  return "" if found is None else names.number(found)


def budgets(study: Study) -> Table | None:
  """What each method spent on tuning."""
  budget = study.get("protocol", {}).get("budget", {})
  if not budget.get("spent"):
    return None
  rows = tuple(
    (*_where(row), f"{row['settings']:,}", f"{row['steps']:,}", f"{row['tokens']:,}") for row in budget["spent"]
  )
  equal = "Tuning budgets were equal." if budget["equal"] else "Tuning budgets were not equal."
  caption = f"Tuning budget: {budget['unit']}. {equal}"
  header = ("Task", "Method", "Settings", "Steps", "Tokens")
  return Table(caption, header, rows, frozenset(range(2, 5)))


def tuning(study: Study) -> Table | None:
  """Every candidate where there was a choice, with its metric on validation after each rung."""
  rows = []
  for row in study.get("tuning", []):
    settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
    values = "; ".join(f"{names.number(part['value'])} after {part['steps']:,}" for part in row["validation"])
    rows.append((*_where(row), str(row["seed"]), settings, values, "chosen" if row["chosen"] else ""))
  if not rows:
    return None
  caption = "Candidates, and their mean primary metric on validation after so many steps (negative: lower is better)."
  return Table(caption, ("Task", "Method", "Seed", "Settings", "Validation", ""), tuple(rows))


def scaled(value: float) -> str:
  """A count of operations with its prefix: `9.05 T`."""
  for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
    if value >= 10**power:
      return f"{value / 10**power:.3g} {prefix}"
  return f"{value:.3g}"


def _where(row) -> tuple[str, str]:
  return row["task"].replace("_", " "), names.method(row["method"])


def _flops(row) -> int:
  return row["flops"] + row["reference_flops"]


def _cost_cells(steps: int, tokens: int, seconds: float, flops: int, total: int, timed: bool) -> tuple[str, ...]:
  hours = f"{seconds / 3600:.2g}" if timed else "–"
  rate = scaled(flops / seconds) if timed and seconds else "–"
  return f"{steps:,}", f"{tokens:,}", hours, scaled(flops), rate, scaled(total)


def _effect(row) -> str:
  if row.get("effect_size") is None:
    return ""
  return f"{_EFFECTS.get(row['effect'], row['effect'])} {names.number(row['effect_size'], '+')}"


def _percent(part: int, whole: int) -> str:
  return f"{part / whole:.0%}" if whole else "–"


def _value(row: Mapping[str, Any] | None) -> str:
  if row is None:
    return "–"
  interval = "" if row["low"] is None else f" {names.interval(row)}"
  return f"{names.number(row['value'])}{interval}"


def _data_facts(card) -> Iterator[tuple[str, str]]:
  yield "Source", str(card["source"])
  yield "Splits", SPLIT_BY.get(card["split_by"], card["split_by"])
  if card["left_out"]:
    yield "Left out, without a label", f"{card['left_out']:,}"


def _repeated(card) -> Iterator[str]:
  """What repeats within and across splits, in sentences."""
  across = [row for row in card["repeated"] if row["first"] != row["second"]]
  shared = [row for row in across if row["exact_rows"] or row["near_rows"]]
  for row in shared:
    yield (
      f"{row['exact_rows']:,} rows of {row['second']} have a prompt that stands in {row['first']} too, and "
      f"{row['near_rows']:,} nearly so."
    )
  if across and not shared:
    yield "No prompt of one split stands in another, exactly or nearly."
  for row in card["repeated"]:
    if row["first"] == row["second"] and (row["exact_rows"] or row["near_rows"]):
      yield f"Within {row['first']}, {row['exact_rows']:,} rows repeat a prompt, and {row['near_rows']:,} nearly do."
  if card["conflict_rows"]:
    yield f"{card['conflict_rows']:,} rows share their prompt with a row of another label."
