"""Which figures a report has: methods with intervals, differences, subgroups, calibration, training curves."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medjax.study import figures, names, report_parts
from medjax.study.compare import ALPHA, DECIDING, p_text

_CURVES = (  # key of metrics.jsonl, title, dashed line, limits of the axis
  ("loss", "loss", None, None),
  ("rewards/margin", "reward margin", 0.0, None),
  ("rewards/accuracy", "reward accuracy", 0.5, (-0.03, 1.03)),
)
_NARROW = 1.75  # inches for labels beside a column of two names
TOGETHER = 6  # most comparisons of a target that are drawn with those that decide


@dataclasses.dataclass(frozen=True)
class Forest:
  """A forest plot: wide with its numbers, narrow without, the side of 0 on which the first method is better.

  `title` is the target's where the figure holds comparisons beside those that decide, else empty.
  """

  title: str
  wide: str
  narrow: str
  side: str


def dots(targets: Sequence[Mapping[str, Any]]) -> list[str]:
  """For each target its methods and baselines on the primary metric, with a line at the best baseline."""
  out = []
  for index, target in enumerate(targets):
    rows = [_row(name, row) for name, row in target["primary"]]
    metric = names.metric(target["metric"])
    alt = f"Dot plot of {metric} for {target['title']} with 95 % intervals: {_spoken(rows)}."
    limits = (-0.01, 1.01) if _bounded(row for _, row in target["primary"]) else None
    out.append(
      figures.intervals(
        f"dots{index}",
        alt,
        [(target["title"], rows)],
        metric,
        limits=limits,
        mark=target["baseline"],
        labels=_room(figures.LABELS, rows),
      )
    )
  return out


def forests(targets: Sequence[Mapping[str, Any]], margin: float | None) -> list[Forest]:
  """Differences with intervals: those that decide, for all targets that can share an axis; then the others.

  Where no target has more than `TOGETHER` comparisons all are in the first figures, else the others have a figure for
  each target.
  """
  apart = any(len(target["comparisons"]) > TOGETHER for target in targets)
  groups: dict[tuple, list] = {}
  for target in targets:
    own = None if _bounded(row for _, row in target["primary"]) else target["metric"]
    rows = [row for row in target["comparisons"] if not apart or (row["a"], row["b"]) in DECIDING]
    if rows:
      groups.setdefault((target["lower"], own), []).append((target, rows))
  shown = [("", lower, group) for (lower, _), group in groups.items()]
  for target in targets if apart else ():
    rows = [row for row in target["comparisons"] if (row["a"], row["b"]) not in DECIDING]
    if rows:
      shown.append((target["title"], target["lower"], [(target, rows)]))
  return [_forest(index, *of_figure, margin) for index, of_figure in enumerate(shown)]


def _forest(index: int, title: str, lower: bool, group: Sequence[tuple[Mapping, list]], margin: float | None) -> Forest:
  detectable = any(report_parts.detectable(row) for _, rows in group for row in rows)
  drawn = [
    (f"{target['title']} · {names.metric(target['metric'])}", _differences(rows, detectable)) for target, rows in group
  ]
  found = "; ".join(
    f"{name}: " + ", ".join(f"{row.label} {row.columns[0]}{' shown' if row.filled else ''}" for row in rows)
    for name, rows in drawn
  )
  alt = f"Forest plot of differences with 95 % intervals, “shown” where p is below 0.05 after Holm. {found}."
  headers = ("difference [95 % interval]", "p (Holm)", *(("detectable",) if detectable else ()))
  settings = {"margin": margin or 0.0, "labels": _room(_NARROW, [row for _, rows in drawn for row in rows])}
  return Forest(
    title,
    figures.intervals(f"forest{index}", alt, drawn, "difference, first − second", headers, **settings),
    figures.intervals(f"narrow{index}", alt, drawn, "difference, first − second", **settings),
    "left" if lower else "right",
  )


def subgroups(found: Sequence[Mapping[str, Any]], several_seeds: bool) -> list[tuple[str, str]]:
  """(title, figure) for each target and column: its subgroups, one under the other with every method."""
  out = []
  for index, group in enumerate(found):
    levels: dict[str, list] = {}
    for row in group["rows"]:
      if row["low"] is not None:
        levels.setdefault(f"{row['level']} · {row['n']} rows", []).append(_row(names.run(row, several_seeds), row))
    if levels:
      title = f"{group['title']} by {group['column']}"
      alt = f"Dot plot of {group['metric']} for {title} with 95 % intervals. {_ends(levels)}"
      limits = (-0.01, 1.01) if _bounded(row for row in group["rows"] if row["low"] is not None) else None
      own = list(levels.items())
      labels = _room(figures.LABELS, [row for rows in levels.values() for row in rows])
      drawn = figures.intervals(f"subgroup{index}", alt, own, group["metric"], limits=limits, labels=labels)
      out.append((title, drawn))
  return out


def reliability(study: Mapping[str, Any], several_seeds: bool) -> dict[str, list[str]]:
  """Title of a target -> a reliability diagram for each run."""
  out: dict[str, list[str]] = {}
  for index, row in enumerate(study.get("calibration", [])):
    bins = [figures.Bin(*(part[key] for key in ("n", "confidence", "right", "low", "high"))) for part in row["bins"]]
    run, target = names.run(row, several_seeds), names.target(row)
    points = "; ".join(f"{part.confidence:.2f}: {part.right:.2f}" for part in bins)
    alt = f"Reliability diagram of {run} for {target}; mean confidence and share of right answers by bin: {points}."
    drawn = figures.reliability(f"reliability{index}", alt, run, figures.color_of(row["method"]), bins)
    out.setdefault(target, []).append(drawn)
  return out


def curves(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
  """(task, figures) for each task that was trained: loss by step, and what preference training records."""
  number = 0
  for task in dict.fromkeys(run["task"] for run in runs):
    drawn = []
    for method in dict.fromkeys(run["method"] for run in runs if run["task"] == task):
      own = [run["steps"] for run in runs if (run["task"], run["method"]) == (task, method)]
      for key, title, reference, limits in _CURVES:
        lines, points = _lines(own, key), _lines(own, f"validation/{key}")
        if lines:
          title = f"{names.method(method)}: {title}"
          panel = figures.Panel(title, figures.color_of(method), lines, points, reference, limits)
          ends = "; ".join(f"{values[0]:.3g} to {values[-1]:.3g}" for _, values in lines)
          alt = f"Training curve, {task.replace('_', ' ')}, {title} by optimizer step, first to last: {ends}."
          drawn.append(figures.curves(f"curves{number}", alt, panel))
          number += 1
    if drawn:
      yield task.replace("_", " "), drawn


def _row(name: str, row: Mapping[str, Any]) -> figures.Row:
  """A method's value with its interval."""
  baseline = bool(row.get("baseline"))
  color = figures.color_of(row["method"], baseline)
  return figures.Row(name, row["value"], row["low"], row["high"], color=color, filled=not baseline)


def _bounded(rows) -> bool:
  """Whether the values lie between 0 and 1."""
  return all(0 <= row["low"] and row["high"] <= 1 for row in rows)


def _room(least: float, rows: Sequence[figures.Row]) -> float:
  """Inches that the labels of rows need."""
  return max(least, 0.2 + 0.072 * max(len(row.label) for row in rows))


def _spoken(rows: Sequence[figures.Row]) -> str:
  """Rows in words: each with its value and interval."""
  return "; ".join(f"{row.label} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in rows)


def _ends(levels: Mapping[str, Sequence[figures.Row]]) -> str:
  """The lowest and the highest value of a figure in words."""
  found = [(row.value, f"{row.label}, {level}") for level, rows in levels.items() for row in rows]
  (low, lowest), (high, highest) = min(found), max(found)
  return f"Lowest: {low:.3f} ({lowest}); highest: {high:.3f} ({highest}). All values: table of subgroups below."


def _differences(rows, detectable: bool) -> list[figures.Row]:
  return [
    figures.Row(
      f"{names.method(row['b'])} − {names.method(row['a'])}",
      *(row["difference"], row["low"], row["high"]),
      (
        f"{names.number(row['difference'], '+')} {names.interval(row, '+')}",
        p_text(row["p_holm"]),
        *((report_parts.detectable(row) or "–",) if detectable else ()),
      ),
      filled=row["p_holm"] < ALPHA,
    )
    for row in rows
  ]


def _lines(runs, key: str) -> tuple:
  """(steps, values) of each run that recorded `key`."""
  found = [[(step["step"], step[key]) for step in steps if key in step] for steps in runs]
  return tuple(tuple(zip(*pairs, strict=True)) for pairs in found if pairs)
