"""Which figures a report has: methods with intervals, their differences, training curves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medjax.study import figures, names
from medjax.study.compare import ALPHA, p_text

_CURVES = (  # key of metrics.jsonl, title, dashed line, limits of the axis
  ("loss", "loss", None, None),
  ("rewards/margin", "reward margin", 0.0, None),
  ("rewards/accuracy", "reward accuracy", 0.5, (-0.03, 1.03)),
)


def dots(targets: Sequence[Mapping[str, Any]]) -> list[str]:
  """For each target its methods and baselines on the primary metric, with a line at the best baseline."""
  out = []
  for index, target in enumerate(targets):
    rows = [
      figures.Row(
        name,
        *(row["value"], row["low"], row["high"]),
        color=figures.color_of(row["method"]),
        filled=not row.get("baseline"),
      )
      for name, row in target["primary"]
    ]
    metric = names.metric(target["metric"])
    alt = f"Dot plot of {metric} for {target['title']} with 95 % intervals, {len(rows)} methods. Values: table above."
    limits = (-0.01, 1.01) if _bounded(target) else None
    out.append(
      figures.intervals(f"dots{index}", alt, [(target["title"], rows)], metric, limits=limits, mark=target["baseline"])
    )
  return out


def forests(targets: Sequence[Mapping[str, Any]], margin: float | None) -> list[str]:
  """Differences with intervals: one figure for all targets whose metrics can share an axis."""
  groups: dict[tuple, list] = {}
  for target in targets:
    if target["comparisons"]:
      own = None if _bounded(target) else target["metric"]
      groups.setdefault((target["lower"], own), []).append(target)
  out = []
  for index, ((lower, _), group) in enumerate(groups.items()):
    rows = [(f"{target['title']} · {names.metric(target['metric'])}", _differences(target)) for target in group]
    alt = f"Forest plot of the differences between methods, {len(group)} targets. Values: table of differences below."
    headers = ("difference [95 % interval]", "p (Holm)")
    xlabel = f"difference; {'left' if lower else 'right'} of 0 the method named first is better"
    out.append(figures.intervals(f"forest{index}", alt, rows, xlabel, headers, margin=margin or 0.0))
  return out


def curves(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
  """(task, figure) for each task that was trained: loss by step, and what preference training records."""
  for index, task in enumerate(dict.fromkeys(run["task"] for run in runs)):
    panels = []
    for method in dict.fromkeys(run["method"] for run in runs if run["task"] == task):
      own = [run["steps"] for run in runs if (run["task"], run["method"]) == (task, method)]
      for key, title, reference, limits in _CURVES:
        lines, points = _lines(own, key), _lines(own, f"validation/{key}")
        if lines:
          title = f"{names.method(method)}: {title}"
          panels.append(figures.Panel(title, figures.color_of(method), lines, points, reference, limits))
    if panels:
      shown = task.replace("_", " ")
      alt = f"Training curves of {shown}: {', '.join(panel.title for panel in panels)}, by optimizer step."
      yield shown, figures.curves(f"curves{index}", alt, panels)


def _bounded(target) -> bool:
  """Whether the primary metric's values lie between 0 and 1."""
  return all(0 <= row["low"] and row["high"] <= 1 for _, row in target["primary"])


def _differences(target) -> list[figures.Row]:
  return [
    figures.Row(
      f"{names.method(row['b'])} − {names.method(row['a'])}",
      *(row["difference"], row["low"], row["high"]),
      (f"{names.number(row['difference'], '+')} {names.interval(row, '+')}", p_text(row["p_holm"])),
      filled=row["p_holm"] < ALPHA,
    )
    for row in target["comparisons"]
  ]


def _lines(runs, key: str) -> tuple:
  """(steps, values) of each run that recorded `key`."""
  found = [[(step["step"], step[key]) for step in steps if key in step] for steps in runs]
  return tuple(tuple(zip(*pairs, strict=True)) for pairs in found if pairs)
