"""One picture of a run's data: tokens of prompts and answers by split, and how often each label occurs."""

import os
from collections.abc import Mapping
from typing import Any

from medjax import files
from medjax.console import visible

_COLORS = {"train": "#3b6ea5", "validation": "#c98a1b", "test": "#4d8f4d"}
MOST_LABELS = 30  # bars of one target; the commonest


def draw(seen: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Writes the picture of what `describe` gave, as PNG."""
  import matplotlib

  with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a label is no formula
    _draw(seen, path)


def _draw(seen: Mapping[str, Any], path: str | os.PathLike) -> None:
  from matplotlib.figure import Figure

  labels = _labels(seen)
  figure = Figure(figsize=(11, 3.2 + 0.24 * sum(len(counts) + 3 for counts in labels.values())), layout="constrained")
  heights = [3.0, *(0.24 * (len(counts) + 3) for counts in labels.values())]
  grid = figure.add_gridspec(1 + len(labels), 2, height_ratios=heights)
  for column, part in enumerate(("prompt", "completion")):
    axes = figure.add_subplot(grid[0, column])
    for split, lengths in seen["lengths"].items():
      counts, edges = lengths[part]["histogram"]["counts"], lengths[part]["histogram"]["edges"]
      share = [count / max(sum(counts), 1) for count in counts]
      axes.stairs(
        share, edges, color=_COLORS[split], label=f"{split} (median {lengths[part]['median']:g})", linewidth=1.4
      )
    limit = seen["training"]["limits"]["context"]
    if limit and limit <= 1.5 * axes.get_xlim()[1]:
      axes.axvline(limit, color="#b03030", linestyle="--", linewidth=1)
      axes.annotate(f"limit {limit}", (limit, axes.get_ylim()[1]), ha="right", va="top", fontsize=8, color="#b03030")
    axes.set(title=f"Tokens of a {part}", xlabel="tokens", ylabel="share of rows")
    axes.legend(frameon=False, fontsize=8)
  for row, (name, counts) in enumerate(labels.items(), start=1):
    _bars(figure.add_subplot(grid[row, :]), name, counts)
  for axes in figure.axes:
    axes.spines[["top", "right"]].set_visible(False)
  with files.write_aside(path, binary=True) as file:
    figure.savefig(file, format="png", dpi=120)


def _labels(seen: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
  """Target -> label -> split -> rows, the commonest labels of each target."""
  found: dict[str, dict[str, dict[str, int]]] = {}
  for split, counts in seen["splits"].items():
    for name, labels in counts.get("labels", {}).items():
      for label, count in labels.items():
        found.setdefault(name, {}).setdefault(label, {})[split] = count
  return {
    name: dict(sorted(labels.items(), key=lambda item: -sum(item[1].values()))[:MOST_LABELS])
    for name, labels in found.items()
  }


def _bars(axes: Any, name: str, counts: Mapping[str, Mapping[str, int]]) -> None:
  """Bars of a target's labels, the splits behind one another."""
  labels = list(counts)
  left = [0] * len(labels)
  for split in _COLORS:
    widths = [counts[label].get(split, 0) for label in labels]
    axes.barh(range(len(labels)), widths, left=left, color=_COLORS[split], label=split, height=0.7)
    left = [start + width for start, width in zip(left, widths, strict=True)]
  for place, total in enumerate(left):
    axes.annotate(f" {total}", (total, place), va="center", fontsize=8)
  axes.set_yticks(range(len(labels)), list(map(visible, labels)), fontsize=8)
  axes.invert_yaxis()
  axes.set(title=f"Rows by {visible(name)}, in the colours of the splits", xlabel="rows")
