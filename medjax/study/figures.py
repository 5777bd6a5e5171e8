"""The figures of a report, by matplotlib: inline SVG whose colours are the page's variables, the same for same data."""

import dataclasses
import html
import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from medjax.console import visible

WIDTH = 10.0  # inches; 960 pixels of a page
HALF = 4.1  # inches; half of a page, or all of a phone
PANEL = 3.1  # inches; a third of a page
SMALL = 2.45  # inches; a quarter of a page
LABELS = 1.45  # inches left of the axes, for the labels of rows
COLUMNS = (2.05, 0.85, 0.95)  # inches of each text column right of the axes
POINTS = 300  # most points of a curve

# Placeholders in the drawing, each replaced by the CSS variable of its name, so that a figure follows the page's theme.
_MARKERS = {
  **{"base": "o", "few_shot": "v", "sft": "s", "dpo": "D"},
  **{"dpo_from_base": "d", "orpo": "P", "simpo": "X", "kto": "p"},
}
_COLORS = {
  name: f"#0102{index:02x}"
  for index, name in enumerate(("ink", "muted", "line", "band", "paper", "baseline", *_MARKERS), start=16)
}
_RULE = {"color": _COLORS["line"], "linewidth": 0.8}
_DASHED = (0, (4, 3))
_TENTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_STYLE = {
  "svg.fonttype": "none",
  "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
  "font.size": 9.0,
  "text.parse_math": False,
  "text.color": _COLORS["ink"],
  "axes.edgecolor": _COLORS["muted"],
  "axes.facecolor": "none",
  "axes.labelcolor": _COLORS["muted"],
  "axes.titlesize": 9.0,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titlecolor": _COLORS["ink"],
  "axes.linewidth": 0.8,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": _COLORS["line"],
  "grid.linewidth": 0.7,
  "xtick.color": _COLORS["muted"],
  "ytick.color": _COLORS["muted"],
  "figure.facecolor": "none",
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A point with its interval: label at the left, `columns` as text at the right; hollow unless `filled`."""

  label: str
  value: float
  low: float
  high: float
  columns: tuple[str, ...] = ()
  color: str = "ink"
  filled: bool = True


@dataclasses.dataclass(frozen=True)
class Panel:
  """Curves of one method by optimizer step, as (steps, values) pairs; `reference` is a dashed line across."""

  title: str
  color: str
  lines: tuple[tuple[Sequence[int], Sequence[float]], ...]
  points: tuple[tuple[Sequence[int], Sequence[float]], ...] = ()
  reference: float | None = None
  limits: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Bin:
  """Answers of like confidence: how many, their mean confidence, the share that is right and its interval."""

  n: int
  confidence: float
  right: float
  low: float
  high: float


def color_of(method: str, baseline: bool = False) -> str:
  """The name of a method's colour; all baselines share one, and so do methods that are not known here."""
  return "baseline" if baseline else method if method in _MARKERS else "ink"


def intervals(
  name: str,
  alt: str,
  groups: Sequence[tuple[str, Sequence[Row]]],
  xlabel: str,
  headers: Sequence[str] = (),
  limits: tuple[float, float] | None = None,
  margin: float | None = None,
  mark: float | None = None,
  labels: float = LABELS,
) -> str:
  """Points with intervals, one under the other in titled groups.

  Args:
    name: prefix of the ids in the SVG, unique on its page.
    alt: what a screen reader says.
    groups: (title, rows) from top to bottom.
    xlabel: of the axis.
    headers: of the text columns at the right; without them the figure takes half the page's width.
    limits: of the axis; None: what the intervals need.
    margin: of a forest plot: draws the line at 0 and the band of differences smaller than this.
    mark: draws a dashed line here.
    labels: inches for the labels of rows.

  Returns:
    An `<svg>` element.
  """
  width = WIDTH if headers else HALF
  lines = sum(len(rows) + 1.35 for _, rows in groups)
  height = 0.245 * lines + (0.85 if headers else 0.55)
  room = width - labels - sum(COLUMNS[: len(headers)]) - (0.0 if headers else 0.1)
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((labels / width, 0.53 / height, room / width, 0.245 * lines / height))
    axes.set_ylim(lines - 0.35, -0.35)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="x", length=0)
    if margin is not None:
      axes.axvspan(-margin, margin, color=_COLORS["band"], linewidth=0, zorder=0)
      axes.axvline(0, color=_COLORS["muted"], linewidth=1.1, zorder=1)
    if mark is not None:
      axes.axvline(mark, color=_COLORS["baseline"], linewidth=1, linestyle=_DASHED, zorder=1)

    def write(inches: float, y: float, text: str, **style) -> None:
      """Text that begins so many inches right of the axes' left end."""
      axes.text(inches / room, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left", **style)

    columns = [room + 0.2 + sum(COLUMNS[:index]) for index in range(len(headers))]
    for inches, header in zip(columns, headers, strict=True):
      write(inches, -0.75, header, color=_COLORS["muted"])
    y = 0.0
    for index, (title, rows) in enumerate(groups):
      if index:
        axes.axhline(y - 0.35, -labels / room, (width - labels) / room, clip_on=False, **_RULE)
      write(-labels, y + 0.2, _shortened(title, width), weight="bold")
      for row in rows:
        y += 1
        write(0.1 - labels, y + 0.15, row.label)
        for inches, text in zip(columns, row.columns, strict=False):  # a narrow figure leaves them out
          write(inches, y + 0.15, text)
        _point(axes, y + 0.15, row)
      y += 1.35
    axes.set_xlim(*(limits or _limits([row for _, rows in groups for row in rows], margin)))
    return _svg(figure, name, alt)


def curves(name: str, alt: str, panel: Panel) -> str:
  """Training curves of one quantity; see `intervals` for `name` and `alt`.

  A curve of more than `POINTS` steps is shown by means of neighbouring steps; points are drawn as they are.
  """
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
    figure = Figure(figsize=(SMALL, 1.95))
    axes = figure.add_axes((0.19, 0.21, 0.78, 0.64))
    axes.set_title(panel.title, pad=7, x=-0.22)  # from the figure's edge, since titles may be as long as it is wide
    axes.set_xlabel("step", labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.tick_params(length=0)
    if panel.reference is not None:
      axes.axhline(panel.reference, color=_COLORS["muted"], linewidth=1, linestyle=_DASHED, zorder=1)
    color = _COLORS[panel.color]
    for steps, values in panel.lines:
      axes.plot(*thin(steps, values), color=color, linewidth=1.4, alpha=1 if len(panel.lines) == 1 else 0.75)
    for steps, values in panel.points:
      axes.plot(steps, values, "o", color=color, markerfacecolor=_COLORS["paper"], markersize=5, markeredgewidth=1.4)
    axes.margins(x=0.03, y=0.08)
    if panel.limits is not None:
      axes.set_ylim(*panel.limits)
    return _svg(figure, name, alt)


def reliability(name: str, alt: str, title: str, color: str, bins: Sequence[Bin]) -> str:
  """A reliability diagram: share of right answers by confidence, with the diagonal and how many answers each bin holds.

  See `intervals` for `name` and `alt`.
  """
  with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
    figure = Figure(figsize=(PANEL, 2.75))
    axes = figure.add_axes((0.125, 0.16, 0.83, 0.74))
    axes.set_title(title, pad=7)
    axes.set_xlabel("confidence of the answer", labelpad=2)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(_TENTHS)
    axes.set_yticks(_TENTHS)
    axes.tick_params(length=0)
    axes.plot([0, 1], [0, 1], color=_COLORS["muted"], linewidth=1, linestyle=_DASHED, zorder=1)
    most = max(part.n for part in bins)
    for part in bins:
      place, drawn = part.confidence, _COLORS[color]
      axes.bar([place], [0.16 * part.n / most], width=0.04, bottom=-0.03, color=_COLORS["line"], zorder=0)
      axes.plot([place, place], [part.low, part.high], color=drawn, linewidth=1.5, solid_capstyle="butt")
      _mark(axes, place, part.right, color, drawn)
    return _svg(figure, name, alt)


def thin(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  """At most `POINTS` points of a curve: means of equally long stretches of it."""
  parts = min(len(steps), POINTS)
  return tuple(np.array([part.mean() for part in np.array_split(np.asarray(x, float), parts)]) for x in (steps, values))


def _point(axes, y: float, row: Row) -> None:
  color = _COLORS[row.color]
  axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.7, solid_capstyle="butt")
  _mark(axes, row.value, y, row.color, color if row.filled else _COLORS["paper"])


def _mark(axes, x: float, y: float, name: str, face: str) -> None:
  """A point in the marker and colour of a method."""
  marker = _MARKERS.get(name, "s" if name == "ink" else "^")
  size = 5.2 if marker == "D" else 6
  axes.plot([x], [y], marker, color=_COLORS[name], markerfacecolor=face, markersize=size, markeredgewidth=1.4)


def _shortened(title: str, inches: float) -> str:
  """The title, cut in its middle where a line of this length would not hold it."""
  most = int(inches * 11.5)
  return title if len(title) <= most else f"{title[: most // 2]} … {title[-most // 2 + 3 :]}"


def _limits(rows: Sequence[Row], margin: float | None) -> tuple[float, float]:
  ends = [end for row in rows for end in (row.low, row.high, row.value)] + ([-margin, margin] if margin else [])
  room = 0.04 * (max(ends) - min(ends)) or 0.1
  return min(ends) - room, max(ends) + room


def _svg(figure: Figure, name: str, alt: str) -> str:
  """The figure as an element of a page: no prologue, no metadata, ids of its own, colours as variables."""
  for text in figure.findobj(Text):
    text.set_text(visible(text.get_text()))
  file = io.StringIO()
  figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
  text = file.getvalue()
  text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(visible(alt))}" ', 1)
  text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
  text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
  text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
  for variable, placeholder in _COLORS.items():
    text = text.replace(placeholder, f"var(--{variable})")
  return text
