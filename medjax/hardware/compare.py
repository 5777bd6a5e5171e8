"""Benchmark files of several machines side by side: a table, and a plot."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from medjax import files
from medjax.errors import UserError

# What makes two lines the same work: only their machines differ.
_WORK = ("model", "method", "workload", "layout", "reference", "dtype", "batch")


def read_lines(paths: Sequence[str]) -> list[dict[str, Any]]:
  """The lines of benchmark files, each with `file`, where it came from.

  Raises:
    UserError: a file that cannot be read, a line that is not of `medjax bench`, or no line at all.
  """
  lines = []
  for path in paths:
    try:
      text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
      raise UserError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), start=1):
      if not line.strip():
        continue
      try:
        found = json.loads(line)
        found["step_seconds"]["median"], found["tokens_per_second"], found["method"]  # noqa: B018
      except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} line {number} is no line of `medjax bench --json`") from None
      lines.append({**found, "file": pathlib.Path(path).name})
  if not lines:
    raise UserError("the files hold no line of `medjax bench --json`")
  return lines


def work_of(line: dict[str, Any]) -> str:
  """The work of a line in words, equal where lines compare."""
  return " ".join(str(line[key]) for key in _WORK if line.get(key) is not None)


def table(lines: Sequence[dict[str, Any]]) -> str:
  """A Markdown table: a block for each work, a row for each machine, the fastest first."""
  rows = ["| work | machine | real tokens/s | of the fastest | step s: median [min, max] | MFU | peak memory | file |"]
  rows.append("|---|---|---|---|---|---|---|---|")
  for work, group in _grouped(lines).items():
    fastest = max(line["tokens_per_second"] for line in group)
    for line in sorted(group, key=lambda line: -line["tokens_per_second"]):
      seconds, mfu = line["step_seconds"], line.get("mfu")
      rows.append(
        f"| {work} | {machine_of(line)} | {line['tokens_per_second']:,.0f} "
        f"| {line['tokens_per_second'] / fastest:.2f} "
        f"| {seconds['median']:.3g} [{seconds['min']:.3g}, {seconds['max']:.3g}] "
        f"| {'-' if mfu is None else f'{100 * mfu:.1f} %'} | {line['peak_bytes'] / 1e9:.2f} GB | {line['file']} |"
      )
  return "\n".join(rows)


def machine_of(line: dict[str, Any]) -> str:
  """How many of which device."""
  return f"{line['devices']} x {line['device_kind']}" if "devices" in line else line.get("library", "unknown")


def plot(lines: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Bars of real tokens a second, a panel for each work; written aside, then renamed."""
  grouped = _grouped(lines)
  heights = [0.8 + 0.4 * len(group) for group in grouped.values()]
  figure = Figure(figsize=(8, sum(heights) + 0.6), layout="constrained")
  axes = figure.subplots(len(grouped), 1, height_ratios=heights, squeeze=False)
  for axis, (work, group) in zip(axes[:, 0], grouped.items(), strict=True):
    group = sorted(group, key=lambda line: line["tokens_per_second"])
    names = [f"{machine_of(line)}\n{line['file']}" for line in group]
    bars = axis.barh(range(len(group)), [line["tokens_per_second"] for line in group], color="#3b6ea8")
    axis.bar_label(bars, fmt="{:,.0f}", padding=3)
    axis.set_yticks(range(len(group)), names, fontsize=8)
    axis.set_title(work, fontsize=9, loc="left")
    axis.set_xlabel("real tokens/s", fontsize=8)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
  with files.write_aside(path, binary=True) as file:
    figure.savefig(file, dpi=150, format=path.suffix[1:] or "png")


def _grouped(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
  grouped: dict[str, list[dict[str, Any]]] = {}
  for line in lines:
    grouped.setdefault(work_of(line), []).append(line)
  return grouped
