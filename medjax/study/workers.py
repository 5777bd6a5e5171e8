"""Who does the jobs of a study: processes side by side, each on its share of the devices, or this process itself."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import logging

from medjax import config as schema
from medjax import privacy
from medjax.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_UNUSABLE, RunError, Stopped, UserError
from medjax.study import jobs
from medjax.study.at_hand import Share
from medjax.study.jobs import Job, Study
from medjax.study.worker import LOG

_TRIES = 3  # of a job whose process dies
_LAST_LINES = 5  # of a log, in a message
_STOP_SECONDS = 55.0  # for trainings to save and end once they are asked to; then they are killed
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WORKER = (sys.executable, "-m", "medjax.study.worker")


@dataclasses.dataclass(frozen=True)
class Processes:
  """That jobs are done in processes of their own.

  Attributes:
    parallel: how many at a time; 0 for one an accelerator.
    config_file: `FILE[:ARGS]` of the config, which may register tasks.
    debug: whether their logs show tracebacks.
  """

  parallel: int = 1
  config_file: str = ""
  debug: bool = False


class Here:
  """Does one job after another in this process."""

  parallel = 1

  def __init__(self, study: Study):
    self._study, self._job = study, None

  @functools.cached_property
  def hardware(self) -> dict[str, Any]:
    """What this process runs on."""
    return jobs.hardware(self._study)

  def free(self) -> bool:
    return self._job is None

  def start(self, job: Job) -> None:
    self._job = job

  def running(self) -> Sequence[Job]:
    return [self._job] if self._job else []

  def wait(self) -> Iterator[tuple[Job, str]]:
    job, self._job = self._job, None
    try:
      for what in jobs.perform(self._study, job):
        yield job, what
    except RunError as error:
      yield job, f"failed: {error}"
      return
    yield job, "end"

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


@dataclasses.dataclass
class _Worker:
  """A process, what it was asked last, and how it reports."""

  share: Share
  process: subprocess.Popen | None = None
  job: Job | None = None
  why: str = ""
  code: int = 0


class Pool:
  """Does jobs in processes, one for each share of the devices.

  A process does many jobs, since it takes seconds to start and to load a model. Where one dies (killed for memory, say)
  its job is tried again in a new one, which goes on from the last checkpoint. The processes end with this one, however
  that ends.

  Args:
    study: the study.
    shares: of the devices.
    lock: a file that the processes hold open as long as they live.
    asked: what else they are told.
  """

  def __init__(self, study: Study, shares: Sequence[Share], lock: int, asked: Processes = Processes()):
    self._study, self._lock = study, lock
    self._asked = {
      "config": schema.as_dict(study.config),
      "options": dataclasses.asdict(study.options),
      "workdir": str(study.workdir),
      "allow": study.allow,
      "config_file": asked.config_file,
      "debug": asked.debug,
      "show_examples": privacy.allowed(),
    }
    self._events: queue.Queue[tuple[_Worker, subprocess.Popen, dict[str, Any] | None]] = queue.Queue()
    self._workers = [_Worker(share) for share in shares]
    self._tries: dict[Job, int] = {}
    self._starts = 0  # of processes that ended before they had a job
    self._stopping = False
    self.parallel = len(shares)
    self.hardware: dict[str, Any] = {}

  def free(self) -> bool:
    return any(worker.job is None for worker in self._workers)

  def running(self) -> Sequence[Job]:
    return [worker.job for worker in self._workers if worker.job is not None]

  def start(self, job: Job) -> None:
    idle = [worker for worker in self._workers if worker.job is None]
    worker = next((worker for worker in idle if worker.process is not None), idle[0])
    self._give(worker, job)

  def wait(self) -> Iterable[tuple[Job, str]]:
    try:
      event = self._events.get(timeout=1.0)
    except queue.Empty:
      event = None
    if self._stopping:
      self._stop()
    return [] if event is None else self._answered(*event)

  def __enter__(self):
    self._previous = {}
    if threading.current_thread() is threading.main_thread():  # no signal arrives elsewhere
      for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup has SIGHUP ignored
          self._previous[number] = signal.signal(number, self._note)
    try:
      for worker in self._workers:
        self._spawn(worker)
      while not self.hardware:
        for _ in self.wait():
          pass
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    for worker in self._workers:
      if worker.process is not None:
        worker.process.kill()
        worker.process.wait()

  def _note(self, number: int, _) -> None:
    if self._stopping and number == signal.SIGINT:
      raise KeyboardInterrupt  # the second one: whoever has this pool kills its processes
    self._stopping = True

  def _stop(self) -> None:
    """Asks every training for a checkpoint, waits for it, kills those that do not end, and raises Stopped."""
    busy = [worker for worker in self._workers if worker.process is not None and worker.job is not None]
    for worker in busy:
      worker.process.terminate()
    deadline, killed = time.monotonic() + _STOP_SECONDS, 0
    for worker in busy:
      try:
        worker.process.wait(max(0.0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()
        logging.warning("study: %s did not end within %g s and was killed", worker.job.run.named, _STOP_SECONDS)
        killed += 1
    if killed:
      raise Stopped(
        f"stopped; {killed} of {len(busy)} trainings go on from their checkpoints of before: run the same command "
        "to go on"
      )
    raise Stopped("stopped; trainings that were under way are saved: run the same command to go on")

  def _give(self, worker: _Worker, job: Job) -> None:
    worker.job, worker.why, worker.code = job, "", 0
    if worker.process is None:
      self._spawn(worker)
    self._write(worker, dataclasses.asdict(job))

  def _spawn(self, worker: _Worker) -> None:
    number = self._workers.index(worker)
    worker.process = subprocess.Popen(
      _WORKER,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      encoding="utf-8",
      env={**os.environ, **worker.share.environment},
      pass_fds=[self._lock],
      start_new_session=True,  # what the keyboard sends reaches this process alone, which ends them
    )
    log = self._study.workdir / f"worker{number}.txt"
    self._write(worker, {**self._asked, "cores": list(worker.share.cores), "log": str(log)})
    threading.Thread(target=self._read, args=(worker, worker.process), daemon=True).start()

  def _write(self, worker: _Worker, values: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has died, which its end will tell
      worker.process.stdin.write(json.dumps(values) + "\n")
      worker.process.stdin.flush()

  def _read(self, worker: _Worker, process: subprocess.Popen) -> None:
    for line in process.stdout:
      self._events.put((worker, process, json.loads(line)))
    self._events.put((worker, process, None))

  def _answered(
    self, worker: _Worker, process: subprocess.Popen, event: dict[str, Any] | None
  ) -> Iterable[tuple[Job, str]]:
    if process is not worker.process:  # the last words of a process that was replaced
      return []
    if event is None:
      return self._ended(worker)
    if event["what"] == "ready":
      self.hardware = event["hardware"]
      return []
    if event["what"] == "failed":
      worker.why, worker.code = event["why"], event["code"]  # it is about to end
      return []
    job = worker.job
    if event["what"] == "end":
      worker.job = None
    return [(job, event["what"])] if job is not None else []

  def _ended(self, worker: _Worker) -> Iterable[tuple[Job, str]]:
    """A process has ended, with or without a reason: its job is tried again, or has failed."""
    status, job = worker.process.wait(), worker.job
    worker.process = None
    if worker.code == EXIT_UNUSABLE:
      raise UserError(worker.why)
    if job is None:
      self._starts += 1
      if not self.hardware and (worker.why or self._starts >= _TRIES):
        raise RunError(f"a process of the study ended as it started: {worker.why or _last_lines(self._log(worker))}")
      if not self.hardware:
        self._spawn(worker)
      return []
    if worker.code == EXIT_FAILED:
      worker.job = None
      return [(job, f"failed: {worker.why} ({self._study.workdir / job.run.folder / LOG})")]
    if status != EXIT_STOPPED:
      self._tries[job] = self._tries.get(job, 0) + 1
    how = f"was ended by signal {-status}" if status < 0 else f"ended with code {status}"
    if self._tries.get(job, 0) >= _TRIES:
      worker.job = None
      log = self._study.workdir / job.run.folder / LOG
      return [(job, f"failed: its process {how}, {_TRIES} times ({log}: {_last_lines(log)})")]
    logging.warning("study: %s: its process %s; trying again from what is saved", job.run.named, how)
    self._give(worker, job)
    return []

  def _log(self, worker: _Worker) -> pathlib.Path:
    return self._study.workdir / f"worker{self._workers.index(worker)}.txt"


def _last_lines(log: pathlib.Path) -> str:
  """The end of a log on one line. Logs hold ids of rows and names, no texts of the data."""
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
  return " | ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip()) or "it says nothing"
