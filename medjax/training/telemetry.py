"""What a run tells: metrics.jsonl, TensorBoard events, and a progress bar."""

import json
import os
import pathlib
from collections.abc import Callable

from tensorboardX import SummaryWriter
from tqdm import tqdm

from medjax import files


class Telemetry:
  """Writes one object a step to `metrics.jsonl`, the same to TensorBoard, and the newest to the progress bar.

  Args:
    workdir: the run's folder.
    start: steps already done; later lines of an earlier attempt are cut away.
    steps: steps of the run.
    title: the progress bar's.
  """

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, title: str):
    self._path = workdir / "metrics.jsonl"
    kept = []
    if self._path.exists():
      lines = self._path.read_text(encoding="utf-8").splitlines()
      kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
    with files.write_aside(self._path) as file:
      file.writelines(line + "\n" for line in kept)
    self._file = open(self._path, "a", encoding="utf-8")
    self._board = SummaryWriter(str(workdir), purge_step=start + 1)
    self._bar = progress(steps, title, start)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Records a step's metrics; `step` counts from 1."""
    self._file.write(json.dumps({"step": step, **values}) + "\n")
    self._file.flush()
    for key, value in values.items():
      self._board.add_scalar(key, value, step)
    shown = {"loss": f"{values['loss']:.4f}"} if "loss" in values else {}
    if "tokens_per_second" in values:
      shown["tokens/s"] = f"{values['tokens_per_second']:.0f}"
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update(1)

  def close(self) -> None:
    """Closes files and bar."""
    self._file.close()
    self._board.close()
    self._bar.close()


def advancing(bar: tqdm) -> Callable[[int, int], None]:
  """A function of (done, total) that moves the bar there, for work that finds out on the way how much it is."""

  def advance(done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)

  return advance


def progress(total: int, title: str, done: int = 0) -> tqdm:
  """A progress bar on stderr with time left; silent where stderr is no terminal and MEDJAX_PROGRESS is not set."""
  quiet = None if os.environ.get("MEDJAX_PROGRESS") is None else False
  return tqdm(total=total, initial=done, desc=title, disable=quiet, dynamic_ncols=True, mininterval=0.5)
