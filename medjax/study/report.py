"""The report of a study as text: `report.md` for reading and a table for the console."""

import collections
import os
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from medjax import files
from medjax.console import visible
from medjax.errors import UserError
from medjax.study import checklist, limits, methods_text, names, published, report_parts
from medjax.study.compare import p_text

WIDTH = 100
# What would become a link, an image, HTML, code or the end of a cell; other marks stay as they are to be read.
_MARKDOWN = re.compile(r"\\(?=[!-/:-@\[-`{-~])|\](?=[(\[:])|[`|]")
_HTML = re.compile(r"<(?=[a-zA-Z/!?])|&(?=#|\w)")
VERDICTS = {
  "sft_is_enough": "SFT is enough",
  "dpo_adds": "DPO adds to SFT",
  "neither_helps": "neither SFT nor DPO helps",
  "not_decidable": "not decidable with this test set",
}


def title(study: Mapping[str, Any]) -> str:
  """What was compared, as a heading."""
  methods = {row["method"] for row in study["results"] if not row.get("baseline")}
  return "Base, SFT and DPO compared" if methods <= {"base", "sft", "dpo"} else "Ways to adapt a model compared"


def write_report(study: Mapping[str, Any], path: str | os.PathLike, curves: Sequence[Mapping[str, Any]] = ()) -> None:
  """Writes the report of a study as Markdown: the verdict first, then tables, data, methods, checklist and protocol.

  Args:
    study: what `study.json` holds. Of its keys only `results`, `comparisons` and `recommendations` must be there;
      `training` is a list of flat rows such as task, method, seed, tokens, seconds.
    path: where to write.
    curves: of the training runs, as `recorded.read_curves` gives them, for the words on methods.

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
  several = names.several_seeds(study)
  many = len(runs) > report_parts.COLUMNS
  paragraphs, references = methods_text.write(study, curves)
  columns = list(dict.fromkeys(key for row in study["training"] for key in row))
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    finalize=_escaped,
  )
  text = environment.get_template("report.md.j2").render(
    title=title(study),
    study=study,
    names=names,
    verdicts=VERDICTS,
    blocks=blocks,
    runs=runs,
    baselines=list(dict.fromkeys(row["method"] for row in study["results"] if row.get("baseline"))),
    primary=primary,
    primary_tables=report_parts.primary_by_target(study) if many else (),
    metric_tables=report_parts.metrics_by_target(study) if many else (),
    unread=collections.defaultdict(str, report_parts.unread(study, several)),
    published=report_parts.beside_published(study),
    published_citation=published.CITATION,
    differences=report_parts.differences(study),
    subgroups=report_parts.subgroups(study, several),
    calibration=report_parts.calibration(study, several),
    budgets=report_parts.budgets(study),
    tuning=report_parts.tuning(study),
    cost=report_parts.costs(study),
    data_cards=list(report_parts.data_cards(study)),
    paragraphs=paragraphs,
    references=references,
    limits=list(limits.write(study, curves)),
    checklist=[
      [item[key] for key in ("number", "section", "topic", "found", "left")] for item in checklist.fill(study)
    ],
    checklist_citation=checklist.CITATION,
    statement=report_parts.STATEMENT,
    block=lambda found: Markup(f"{_escaped(found.caption)}\n\n{_table(found.header, found.rows)}"),
    columns=columns,
    training=[[row.get(column, "") for column in columns] for row in study["training"]],
    name_run=name_run,
    table=_table,
    prepend=lambda names, rows: [[name, *row] for name, row in zip(names, rows, strict=True)],
    bullets=lambda value: Markup("\n".join(_bullets(value))),
  )
  with files.write_aside(path, private=True) as file:
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
  return "\n".join(visible(line).rstrip() for line in lines)


def check(study: Mapping[str, Any]) -> None:
  """Raises UserError where a study lacks what every report shows."""
  for key in ("results", "comparisons", "recommendations"):
    if key not in study:
      raise UserError(f"the study has no `{key}`; give the study.json that `medjax study` wrote")
  if not study["results"]:
    raise UserError("the study has no results; run it again to finish it")


def _line(name, metric, value, interval, n, p) -> str:
  return f"  {name:<24} {metric:<29} {value:>7}  {interval:<18} {n:>6} {p:>8}"


def _metric(name: str) -> str:
  return f"{name} (lower is better)" if name in names.LOWER_IS_BETTER else name


def _table(header, rows) -> Markup:
  """A Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  return Markup("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))


def _cell(value: Any) -> str:
  return _escaped(f"{value:,.4g}" if isinstance(value, float) else value)


def _escaped(value: Any) -> str:
  """A value on one line of Markdown as its own text: no markup, link or control character of a name takes effect."""
  if isinstance(value, Markup):
    return value
  text = _MARKDOWN.sub(r"\\\g<0>", visible(str(value).replace("\n", " ")))
  return _HTML.sub(lambda match: {"<": "&lt;", "&": "&amp;"}[match[0]], text)


def _interval(row, sign: str = "") -> str:
  return f"[{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def _run_namer(study) -> Callable[[Mapping], str]:
  """How a row's method is named: with its seed where the study has several; baselines have none."""
  several = names.several_seeds(study)
  return lambda row: f"{row['method']} (seed {row['seed']})" if several and not row.get("baseline") else row["method"]


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
      yield f"{indent}- {_escaped(key)}:"
      yield from _bullets(inner, depth + 1)
    else:
      shown = ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else inner
      yield f"{indent}- {_escaped(key)}: {_escaped(shown)}"
