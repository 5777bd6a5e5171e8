"""`report.html`: a study to look at, print and pass on, as one file that loads nothing."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from medjax import files
from medjax.study import checklist, limits, methods_text, names, published, report, report_figures, report_parts

VERDICTS = {  # id -> mark, plain words
  "sft_is_enough": ("✓", "SFT improves on the base model, and a further gain from DPO that would matter is ruled out."),
  "dpo_adds": ("+", "DPO after SFT improves on SFT, and on the base model."),
  "neither_helps": ("–", "For SFT and for DPO, a gain over the base model that would matter is ruled out."),
  "not_decidable": ("?", "This test set does not settle the question."),
}
MATRIX_LABELS = 8  # more labels than this make a list of confusions instead of a matrix
RUNS = 8  # more runs than this, and the figures of each target are folded
CONFUSIONS = 10  # length of that list
_BASELINES = {
  "majority": "the commonest label of the training rows, among a row's own options where it has some",
  "bag_of_words": "TF-IDF of words and word pairs with logistic regression, fitted to the training rows",
  "lead": "the first sentences of the message, as many as references have words",
}
_RUN = ("seed", "steps", "tokens")
_SETTINGS = {  # columns of the table of training runs, from the configs
  "rows": ("data", "train_rows"),
  "learning rate": ("optimizer", "learning_rate"),
  "warm-up": ("optimizer", "warmup_steps"),
  "batch": ("train", "batch_size"),
  "beta": ("preference", "beta"),
}


def write_html(
  study: Mapping[str, Any],
  path: str | os.PathLike,
  curves: Sequence[Mapping[str, Any]] = (),
  examples: Sequence[Mapping[str, Any]] = (),
) -> None:
  """Writes the report of a study as one HTML file: figures inline, no script, nothing loaded.

  Equal arguments give equal files.

  Args:
    study: what `study.json` holds; `confusion`, `training`, `protocol` and `environment` may be absent.
    path: where to write.
    curves: of the training runs, as `recorded.read_curves` gives them; `config` may be absent.
    examples: test rows to show, as `recorded.read_examples` gives them. Clinical text: the report holds none unless it
      is given here.

  Raises:
    UserError: `results`, `comparisons` or `recommendations` is missing, or `results` is empty.
  """
  report.check(study)
  targets, margin = _targets(study), study.get("protocol", {}).get("margin")
  paragraphs, references = methods_text.write(study, curves)
  several, groups = names.several_seeds(study), report_parts.subgroups(study, names.several_seeds(study))
  many = len(_methods(study)) > report_parts.COLUMNS
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals |= {"names": names}
  baselines = list(dict.fromkeys(row["method"] for row in study["results"] if row.get("baseline")))
  text = environment.get_template("report.html.j2").render(
    title=report.title(study),
    looks=len(study.get("protocol", {}).get("second_looks") or ()),
    study=study,
    margin=margin,
    facts=_facts(study, targets),
    colophon=list(_colophon(study)),
    summary=_summary(study["recommendations"]),
    targets=targets,
    methods=_methods(study),
    many=many,
    primary_tables=report_parts.primary_by_target(study) if many else (),
    metric_tables=report_parts.metrics_by_target(study) if many else (),
    folded=len(report_parts.runs(study)) > RUNS,
    several_seeds=several,
    baselines={names.method(name): _BASELINES.get(name, "") for name in baselines},
    dots=report_figures.dots(targets),
    published=report_parts.beside_published(study),
    published_citation=published.CITATION,
    forests=report_figures.forests(targets, margin),
    differences=report_parts.differences(study),
    subgroup_figures=report_figures.subgroups(groups, several),
    subgroup_tables=groups,
    calibration_figures=report_figures.reliability(study, several),
    calibration_tables=report_parts.calibration(study, several),
    curve_figures=list(report_figures.curves(curves)),
    confusions=_confusions(study),
    training=_training(study, curves),
    budgets=report_parts.budgets(study),
    tuning=report_parts.tuning(study),
    cost=report_parts.costs(study),
    data_cards=list(report_parts.data_cards(study)),
    limits=list(limits.write(study, curves)),
    paragraphs=paragraphs,
    references=references,
    checklist=checklist.fill(study),
    checklist_citation=checklist.CITATION,
    statement=report_parts.STATEMENT,
    examples=examples,
  )
  with files.write_aside(path, private=True) as file:
    file.write(text)


def _facts(study, targets) -> list[tuple[str, Any]]:
  """What the head of the page says of the study, as far as it is recorded."""
  protocol, split = study.get("protocol", {}), study["results"][0]["split"]
  sizes = sorted({target["n"] for target in targets})
  facts = {
    "Model": protocol.get("model"),
    "Targets": len(targets),
    f"Rows of the {split} split": " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))),
    "Training seeds": len(protocol.get("seeds", [])),
    "Smallest relevant difference": protocol.get("margin"),
  }
  return [(name, value) for name, value in facts.items() if value]


def _colophon(study) -> Iterator[str]:
  """Where the numbers come from, in the page's last lines."""
  environment = study.get("environment", {})
  if "medjax" in environment:
    yield f"medjax {environment['medjax']}, {environment.get('finished', 'time not recorded')}."
  if "config" in study.get("protocol", {}):
    yield f"Config {study['protocol']['config']}."
  for task, splits in environment.get("data", {}).items():
    prints = ", ".join(f"{split} {value}" for split, value in splits.items())
    yield f"Data of {task.replace('_', ' ')}: {prints}."


def _methods(study) -> list[dict[str, Any]]:
  """The columns of tables: methods in their order, then baselines."""
  found = {names.method(row["method"]): bool(row.get("baseline")) for row in study["results"]}
  return [{"name": name, "baseline": baseline} for name, baseline in sorted(found.items(), key=lambda item: item[1])]


def _targets(study) -> list[dict[str, Any]]:
  """Everything that belongs to one task and target, in the order of the results."""
  several, columns, out = names.several_seeds(study), _methods(study), []
  unread = report_parts.unread(study, several)
  for task, name in dict.fromkeys((row["task"], row["target"]) for row in study["results"]):
    own = {
      key: [row for row in study[key] if (row["task"], row["target"]) == (task, name)]
      for key in ("results", "comparisons", "recommendations")
    }
    values = {}
    for row in own["results"]:
      by_method = values.setdefault(row["metric"], {column["name"]: [] for column in columns})
      by_method[names.method(row["method"])].append({"baseline": False} | row)
    rows = [row for row in own["results"] if row["primary"]]
    metric, lower = rows[0]["metric"], rows[0]["metric"] in names.LOWER_IS_BETTER
    best = min if lower else max
    target = {"title": names.target(rows[0]), "metric": metric, "lower": lower, "values_by_metric": values}
    target |= {key: own[key] for key in ("comparisons", "recommendations")}
    rows.sort(key=lambda row: bool(row.get("baseline")))
    target["primary"] = [(names.run(row, several), row) for row in rows]
    target["best"] = best(row["value"] for row in rows)
    target["baseline"] = best((row["value"] for row in rows if row.get("baseline")), default=None)
    target["n"], target["groups"] = rows[0]["n"], rows[0].get("groups")
    target["caution"] = _caution(target)
    target["unread"] = unread.get(target["title"], "")
    for row in target["recommendations"]:
      row_mark, row_plain = VERDICTS[row["verdict"]]
      if row.get("more_examples"):
        row_plain += f" About {row['more_examples']:,} more test examples are needed."
      target["verdict"] = {"id": row["verdict"], "mark": row_mark, "plain": row_plain, "why": _spoken(row["why"])}
      target["verdict"]["label"] = report.VERDICTS[row["verdict"]]
    out.append(target)
  return out


def _spoken(why: str) -> str:
  return re.sub(r"-(?=\d)", "−", why.replace("->", "→"))


def _caution(target) -> str:
  """A sentence where no trained run is ahead of the best baseline, else nothing."""
  sign = -1 if target["lower"] else 1
  sides = {False: [], True: []}
  for name, row in target["primary"]:
    if row.get("baseline") or row["method"] != "base":
      sides[bool(row.get("baseline"))].append((sign * row["value"], name))
  if not all(sides.values()):
    return ""
  (trained, run), (simple, baseline) = max(sides[False]), max(sides[True])
  if trained > simple:
    return ""
  return (
    f"Not ahead of a baseline: {baseline} reaches {names.number(sign * simple)}, "
    f"the best trained run ({run}) {names.number(sign * trained)}."
  )


def _summary(recommendations) -> str:
  """All verdicts in one sentence."""
  if len(recommendations) < 2:
    return "".join(f"{names.target(row).capitalize()}: {report.VERDICTS[row['verdict']]}." for row in recommendations)
  counts = {verdict: sum(row["verdict"] == verdict for row in recommendations) for verdict in VERDICTS}
  parts = [f"{report.VERDICTS[verdict]} for\N{NO-BREAK SPACE}{count}" for verdict, count in counts.items() if count]
  return f"Of {len(recommendations)} targets: {'; '.join(parts)}."


def _confusions(study) -> list[dict[str, Any]]:
  """Per target its matrices, or for many labels the commonest confusions of each method."""
  several, out = names.several_seeds(study), {}
  for matrix in study.get("confusion", []):
    counts = matrix["matrix"]
    view = {"run": names.run(matrix, several), "labels": matrix["labels"], "predicted": matrix["predicted"]}
    if len(matrix["labels"]) <= MATRIX_LABELS:
      view["cells"] = [[(count, count / max(sum(row), 1)) for count in row] for row in counts]
    else:
      wrong = [
        (count, truth, guess)
        for truth, row in zip(matrix["labels"], counts, strict=True)
        for guess, count in zip(matrix["predicted"], row, strict=True)
        if count and guess != truth
      ]
      view["commonest"] = sorted(wrong, key=lambda item: -item[0])[:CONFUSIONS]
    out.setdefault(names.target(matrix), []).append(view)
  return [{"title": title, "matrices": matrices} for title, matrices in out.items()]


def _training(study, curves) -> tuple[list[str], list[list[str]]]:
  """Header and rows of the table of training runs."""
  configs = {(run["task"], run["method"], run["seed"]): run.get("config", {}) for run in curves}
  settings = _SETTINGS if any(configs.values()) else {}
  rows = []
  for row in study.get("training", []):
    cells = [row["task"].replace("_", " "), names.method(row["method"]), *(row.get(key, "") for key in _RUN)]
    cells.append(f"{row['first_loss']:.3g} → {row['last_loss']:.3g}" if "first_loss" in row else "")
    config = configs.get((row["task"], row["method"], row.get("seed")), {})
    for name, (part, key) in settings.items():
      value = config.get(part, {}).get(key, "")
      if name == "rows":
        value = value or "all"
      cells.append("" if name == "beta" and row["method"] == "sft" else value)
    rows.append([_cell(cell) for cell in cells])
  return ["task", "method", *_RUN, "loss", *settings], rows


def _cell(value) -> str:
  if isinstance(value, float):
    return f"{value:.4g}"
  return f"{value:,}" if isinstance(value, int) else value
