"""How far a study is and how long it will take, on stderr."""

import pathlib
import sys
import time
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from medjax.console import visible
from medjax.study.plan import Key
from medjax.study.stages import Stage, duration, expected
from medjax.training.telemetry import progress


def tell(line: str) -> None:
  """Writes a line on stderr, clear of the bars there."""
  tqdm.write(visible(line), file=sys.stderr)


class Progress:
  """A bar for the whole study, or a line a stage where stderr is no terminal.

  Args:
    found: all stages.
    done: those of them that are done already and take no time.
    seconds: what a token of a forward pass is likely to take.
    parallel: how many runs there are at a time.
  """

  def __init__(self, found: Sequence[Stage], done: Sequence[Stage], seconds: float, parallel: int = 1):
    self._left: dict[tuple[Key, str, int], list[float]] = {}
    self._total, self._parallel = 0.0, parallel
    settled = list(done)
    for stage in found:
      cost = expected(stage, seconds)
      self._total += cost
      if stage in settled:
        settled.remove(stage)
      else:
        self._left.setdefault((stage.group, stage.kind, stage.rung), []).append(cost)
    self._to_do = self._sum()
    self._started = time.monotonic()
    self._bar = progress(round(self._total), "study", round(self._total - self._to_do))
    self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    self._bar.refresh()

  def finish(self, group: Key, kind: str, rung: int = 0) -> None:
    """Notes that a stage of a group has ended."""
    costs = self._left.get((group, kind, rung))
    if costs:
      costs.pop(0)
      self._tell()

  def settle(self, group: Key) -> None:
    """Notes that nothing more is to be done for a group: a failed candidate leaves stages that are never run."""
    left = [self._left.pop(place) for place in list(self._left) if place[0] == group]
    if any(left):
      self._tell()

  def at(self, trainings: Iterable[tuple[Key, int, pathlib.Path, int]]) -> None:
    """Shows how far trainings are that are under way: group, rung, folder of the run, the step that they lead to."""
    if self._bar.disable:
      return
    share = 0.0
    for group, rung, folder, until in trainings:
      lines, costs = folder / "metrics.jsonl", self._left.get((group, "train", rung))
      if costs and lines.exists():
        share += min(1.0, lines.read_bytes().count(b"\n") / until) * costs[0]
    self._show(share)

  def seconds_left(self) -> float:
    """What is left: by the speed so far, before anything has ended as expected."""
    left = self._sum()
    done = self._to_do - left
    return (time.monotonic() - self._started) * left / done if done else left / self._parallel

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

  def _sum(self) -> float:
    return sum(map(sum, self._left.values()))

  def _show(self, more: float = 0.0) -> None:
    self._bar.update(round(self._total - self._sum() + more) - self._bar.n)
    self._bar.refresh()

  def _tell(self) -> None:
    told = f"about {duration(self.seconds_left())} left" if self._sum() else "done"
    self._bar.set_postfix_str(told, refresh=False)
    self._show()
    if self._bar.disable:
      share = 1 - self._sum() / self._total
      tell(f"study: {100 * share:.0f} %, {told} after {duration(time.monotonic() - self._started)}")
