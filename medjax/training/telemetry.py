"""What a run tells: metrics.jsonl, TensorBoard events, and a progress bar."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence

from absl import logging
from tqdm import tqdm

from medjax import files, processes, runtime
from medjax.errors import RunError

with runtime.torch_hidden():
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  from tensorboardX.summary import scalar

_FLUSH_SECONDS = 30.0


class Telemetry:
  """Writes one object a step to `metrics.jsonl`, the same to TensorBoard, and the newest to the progress bar.

  Of several processes the first writes. What is not finite is left out: JSON has no word for it.

  Args:
    workdir: the run's folder.
    start: steps already done; later lines of an earlier attempt are cut away.
    steps: steps of the run.
    title: the progress bar's.
    digest: of the lines of the steps already done, as `digest` was then; a file with other lines is kept beside the
      new one, with a warning. Empty: not known.

  Raises:
    RunError: a file cannot be written, here and in the methods.
  """

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, title: str, digest: str = ""):
    self._workdir, self._bar = workdir, progress(steps, title, start)
    self._file = self._board = self._lines = None
    if not processes.is_first():
      return
    with self._telling():
      path = workdir / "metrics.jsonl"
      kept = _lines_until(path, start)
      self._lines = hashlib.sha256("".join(kept).encode())
      if digest and digest != self.digest:
        _keep_damaged(path, [json.loads(line)["step"] for line in kept], start)
      with files.write_aside(path) as file:
        file.writelines(kept)
      self._file = open(path, "a", encoding="utf-8")
      # Not the writer of a thread of its own, which waits for ever once the disk is full.
      self._board = EventsWriter(str(workdir / "events"), f".{os.getpid()}.{start}")
      self._flushed = time.monotonic()
      self._board.write_event(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

  def write(self, step: int, values: dict[str, float]) -> None:
    """Records a step's metrics; `step` counts from 1."""
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    if self._file:
      with self._telling():
        line = json.dumps({"step": step, **finite}) + "\n"
        self._lines.update(line.encode())
        self._file.write(line)
        self._file.flush()
        for key, value in finite.items():
          self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(key, value)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
          self._board.flush()
          self._flushed = time.monotonic()
    shown = {"loss": f"{values['loss']:.4f}"} if "loss" in values else {}
    if "tokens_per_second" in values:
      shown["tokens/s"] = f"{values['tokens_per_second']:.0f}"
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update(1)

  @property
  def digest(self) -> str:
    """Names all lines so far; empty in a process that writes none."""
    return self._lines.hexdigest() if self._lines else ""

  def close(self) -> None:
    """Closes files and bar."""
    self._bar.close()
    with self._telling():
      if self._file:
        self._file.close()
      if self._board:
        self._board.close()

  @contextlib.contextmanager
  def _telling(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise RunError(
        f"metrics cannot be written in {self._workdir} ({error.strerror}); make room, or see to the disk, and run the "
        "same command again"
      ) from error


def _lines_until(path: pathlib.Path, step: int) -> list[str]:
  """The lines of a file of metrics up to a step, without those that cannot be read."""
  if not path.exists():
    return []
  kept = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
    with contextlib.suppress(ValueError, KeyError, TypeError):
      if json.loads(line)["step"] <= step:
        kept.append(f"{line}\n")
  return kept


def _keep_damaged(path: pathlib.Path, found: Sequence[int], start: int) -> None:
  """Says which steps a file of metrics lacks or has changed, and keeps it as it was found."""
  missing = sorted(set(range(1, start + 1)) - set(found))
  what = (
    f"lacks {len(missing)} of {start} steps, the first is {missing[0]}" if missing else "has a line that was changed"
  )
  aside = path.with_name(f"{path.name}.damaged")
  if path.exists():
    shutil.copyfile(path, aside)
  logging.warning(
    "%s %s; training goes on, and the file as it was found is %s: bring it back from a copy where the curve matters",
    *(path, what, aside),
  )


def advancing(bar: tqdm) -> Callable[[int, int], None]:
  """A function of (done, total) that moves the bar there, for work that finds out on the way how much it is."""

  def advance(done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)

  return advance


def progress(total: int, title: str, done: int = 0) -> tqdm:
  """A progress bar on stderr with time left; silent where stderr is no terminal and MEDJAX_PROGRESS is not set.

  Of several processes the first has one.
  """
  quiet = None if os.environ.get("MEDJAX_PROGRESS") is None else False
  quiet = quiet if processes.is_first() else True
  return tqdm(total=total, initial=done, desc=title, disable=quiet, dynamic_ncols=True, mininterval=0.5)
