"""The small report of a study: `report.md` for reading and a table for the console, both from `study.json` alone."""

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2

from medjax import files
from medjax.errors import UserError
from medjax.study import names
from medjax.study.compare import detectable, p_text

WIDTH = 100
VERDICTS = {
  "sft_is_enough": "SFT is enough",
  "dpo_adds": "DPO adds to SFT",
  "neither_helps": "neither SFT nor DPO helps",
  "not_decidable": "not decidable from this study",
}

_TEMPLATE = """\
# Base, SFT and DPO compared

## Verdict
{% for row in study.recommendations %}
**{{ row.task }} / {{ row.target }}: {{ verdicts[row.verdict] }}** (`{{ row.verdict }}`).
{{ row.why }}

{% endfor %}
## Primary metrics
Value [95 % interval] on the {{ study.results[0].split }} split, over patients (docs/statistics.md).

{{ table(["task / target", "metric", "n"] + runs, primary) }}
{% if baselines %}

Baselines without a language model, not in the verdict: {{ baselines | join(", ") }}.
{% endif %}

## Differences
Difference b - a of the primary metric [95 % paired interval over patients]; p by McNemar's exact test or a
permutation test, then by Holm over the {{ study.comparisons | length }} comparisons of this study. Effect size: Cohen's
g with McNemar's test, else Cohen's d of paired values. Detectable: where no difference is shown, the one that these
rows would show with 80 % power.
{% if several_seeds %}
Seed SD: between training seeds, which no interval covers.
{% endif %}

{{ table(difference_columns, differences) }}

## All metrics
Described, not tested.
{% for block in blocks %}

### {{ block.name }}
{{ table(["metric"] + runs, block.cells) }}
{% endfor %}
{% if study.confusion %}

## Confusion matrices
Rows are the truth, columns the prediction.
{% for matrix in study.confusion %}

**{{ matrix.task }} / {{ matrix.target }}, {{ name_run(matrix) }}**

{{ table([""] + matrix.predicted, prepend(matrix.labels, matrix.matrix)) }}
{% endfor %}
{% endif %}
{% if study.training %}

## Training
{{ table(columns, training) }}
{% endif %}
{% for title in ("protocol", "environment") if study[title] %}

## {{ title | capitalize }}
{{ bullets(study[title]) }}
{% endfor %}
"""


def write_report(study: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Writes the report of a study as Markdown: the verdict first, then tables, protocol and environment.

  Args:
    study: what `study.json` holds. Optional keys: `confusion` (rows of `compare.confusions`), `training` (a list of
      flat rows such as task, method, seed, tokens, seconds), `protocol` and `environment`
      (nested values).
    path: where to write.

  Raises:
    UserError: `results`, `comparisons` or `recommendations` is missing, or `results` is empty.
  """
  check(study)
  study = {"confusion": [], "training": [], "protocol": {}, "environment": {}} | dict(study)
  runs, blocks, name_run = _runs(study), _blocks(study), _run_namer(study)
  for block in blocks:
    block["cells"] = [
      [_metric(metric), *(values.get(run, "") for run in runs)] for metric, values in block["values"].items()
    ]
  primary = [
    [block["name"], _metric(name), block["n"], *(block["values"][name].get(run, "") for run in runs)]
    for block in blocks
    for name in [block["primary"]]
  ]
  differences = [
    [
      f"{row['task']} / {row['target']}",
      *(row["a"], row["b"], _metric(row["metric"])),
      f"{row['difference']:+.3f} {_interval(row, '+')}",
      *(p_text(row["p"]), p_text(row["p_holm"]), _number(row.get("effect_size"), "+"), _number(detectable(row))),
      *([_number(row.get("seed_sd"))] if several_seeds(study) else []),
    ]
    for row in study["comparisons"]
  ]
  columns = list(dict.fromkeys(key for row in study["training"] for key in row))
  environment = jinja2.Environment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
  )
  text = environment.from_string(_TEMPLATE).render(
    study=study,
    verdicts=VERDICTS,
    blocks=blocks,
    runs=runs,
    baselines=list(dict.fromkeys(row["method"] for row in study["results"] if row.get("baseline"))),
    primary=primary,
    differences=differences,
    difference_columns=[
      *("task / target", "a", "b", "metric", "difference", "p", "p (Holm)", "effect size", "detectable"),
      *(["seed SD"] if several_seeds(study) else []),
    ],
    several_seeds=several_seeds(study),
    columns=columns,
    training=[[row.get(column, "") for column in columns] for row in study["training"]],
    name_run=name_run,
    table=_table,
    prepend=lambda names, rows: [[name, *row] for name, row in zip(names, rows, strict=True)],
    bullets=lambda value: "\n".join(_bullets(value)),
  )
  with files.write_aside(path) as file:
    file.write(text)


def console_table(study: Mapping[str, Any]) -> str:
  """The study at a glance, at most 100 columns wide: each target's methods, differences and verdict.

  Raises:
    UserError: see `write_report`.
  """
  check(study)
  name_run = _run_namer(study)
  lines = [_line("", "metric", "value", "95 % interval", "n", "p (Holm)")]
  for block in _blocks(study):
    lines += ["-" * WIDTH, *textwrap.wrap(block["name"], WIDTH)]
    for row in block["rows"]:
      if row["primary"]:
        lines.append(_line(name_run(row), _metric(row["metric"]), f"{row['value']:.3f}", _interval(row), row["n"], ""))
    for row in block["comparisons"]:
      name, p = f"{row['b']} - {row['a']}", p_text(row["p_holm"])
      lines.append(_line(name, _metric(row["metric"]), f"{row['difference']:+.3f}", _interval(row, "+"), "", p))
    for row in block["recommendations"]:
      verdict = f"verdict: {row['verdict']}. {row['why']}"
      lines += textwrap.wrap(verdict, WIDTH, initial_indent="  ", subsequent_indent="    ")
  return "\n".join(line.rstrip() for line in lines)


def check(study: Mapping[str, Any]) -> None:
  """Raises UserError where a study lacks what every report shows."""
  for key in ("results", "comparisons", "recommendations"):
    if key not in study:
      raise UserError(f"the study has no `{key}`; give the study.json that `medjax study` wrote")
  if not study["results"]:
    raise UserError("the study has no results; run it again to finish it")


def _line(name, metric, value, interval, n, p) -> str:
  return f"  {name:<18} {metric:<30} {value:>7}  {interval:<18} {n:>6}  {p:>8}"


def _metric(name: str) -> str:
  return f"{name} (lower is better)" if name in names.LOWER_IS_BETTER else name


def _table(header, rows) -> str:
  """A Markdown table; bars and line breaks in cells are escaped."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value) -> str:
  text = f"{value:,.4g}" if isinstance(value, float) else str(value)
  return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, sign: str = "") -> str:
  return "" if value is None else f"{value:{sign}.3f}"


def _interval(row, sign: str = "") -> str:
  return f"[{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def _run_namer(study) -> Callable[[Mapping], str]:
  """How a row's method is named: with its seed where the study has several; baselines have none."""
  several = several_seeds(study)
  return lambda row: f"{row['method']} (seed {row['seed']})" if several and not row.get("baseline") else row["method"]


def several_seeds(study: Mapping[str, Any]) -> bool:
  """Whether methods were trained with more than one seed."""
  return len({row["seed"] for row in study["results"] if not row.get("baseline")}) > 1


def _runs(study) -> list[str]:
  return list(dict.fromkeys(map(_run_namer(study), study["results"])))


def _blocks(study) -> list[dict]:
  """One block per task and target, in the order of the results, with everything that belongs to it."""
  blocks, name_run = [], _run_namer(study)
  for task, target in dict.fromkeys((row["task"], row["target"]) for row in study["results"]):
    rows = [row for row in study["results"] if (row["task"], row["target"]) == (task, target)]
    values = {row["metric"]: {} for row in rows}
    for row in rows:
      values[row["metric"]][name_run(row)] = f"{row['value']:.3f} {_interval(row)}"
    primary = next(row for row in rows if row["primary"])
    block = {"name": f"{task} / {target}", "rows": rows, "values": values}
    block |= {"primary": primary["metric"], "n": primary["n"]}
    for key in ("comparisons", "recommendations"):
      block[key] = [row for row in study[key] if (row["task"], row["target"]) == (task, target)]
    blocks.append(block)
  return blocks


def _bullets(value: Any, depth: int = 0) -> Iterator[str]:
  """A nested value as Markdown bullets; lists of plain values on one line."""
  for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value, 1):
    indent = "  " * depth
    if isinstance(inner, Mapping) or (isinstance(inner, list | tuple) and any(isinstance(x, Mapping) for x in inner)):
      yield f"{indent}- {key}:"
      yield from _bullets(inner, depth + 1)
    else:
      shown = ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else inner
      yield f"{indent}- {key}: {shown}"
