"""Ends of a run before its last step: signals that ask for one, and hangs. Of several processes all end together."""

import contextlib
import faulthandler
import os
import pathlib
import signal
import socket
import sys
import threading
import time

from medjax import processes
from medjax.errors import EXIT_FAILED, EXIT_STOPPED, Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GO_ON, _SAVE, _STOP = 0, 1, 2
STOP_SECONDS = 60.0  # from a signal to the end, however the process hangs; MEDJAX_STOP_SECONDS sets another limit
_PATIENCE = 6  # times the watchdog's limit, for what may take long: compilation, saving


class StopRequest:
  """Notes SIGTERM, SIGINT (Ctrl-C) and SIGHUP while its block runs, so that the run saves and ends.

  A thread sees to it that the process has ended 60 seconds after the first signal, and at once with a second Ctrl-C,
  since the main thread may hang outside of Python, where no handler runs.
  """

  def __init__(self):
    self._asked, self._vote, self._has_saved = False, None, False
    self._closing = contextlib.ExitStack()

  def end_here(self, done: int, steps: int) -> None:
    """Raises Stopped where a signal has come to any process and nothing is trained that is not saved.

    To be called by all processes at the same place.
    """
    if processes.vote(_STOP if self._asked else _GO_ON):
      raise Stopped(f"stopped before step {done + 1} of {steps}; run the same command to go on")

  def after_step(self, save: bool = False) -> tuple[bool, bool]:
    """Whether to save now, and whether to stop after that.

    Of several processes all get the same answer, a step after the first was asked. It is the answer to the call
    before, behind a step that has ended by now, so that nobody waits.

    Args:
      save: whether this process finds that a save is due.
    """
    mine = _STOP if self._asked else _SAVE if save else _GO_ON
    if processes.count() > 1:
      before, self._vote = self._vote, processes.vote(mine)
      mine = _GO_ON if before is None else int(before)
      if mine == _SAVE and self._has_saved:  # it was asked for while that save was under way
        mine = _GO_ON
      self._has_saved = False
    return mine >= _SAVE, mine == _STOP

  def saved(self) -> None:
    """Notes that a checkpoint was just saved."""
    self._has_saved = True

  def _note(self, *_) -> None:
    self._asked = True

  def __enter__(self) -> "StopRequest":
    if threading.current_thread() is not threading.main_thread():  # no signal arrives here
      return self
    for number in _SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and so does its run
        self._closing.callback(signal.signal, number, signal.signal(number, self._note) or signal.SIG_DFL)
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    self._closing.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False))
    thread = threading.Thread(target=_end_in_time, args=(woken,), name="stop-in-time", daemon=True)
    thread.start()
    self._closing.callback(lambda: (wakes.close(), thread.join(), woken.close()))
    return self

  def __exit__(self, *_) -> None:
    # Handlers and the descriptor go back before the socket is closed.
    self._closing.close()


def _end_in_time(woken: socket.socket) -> None:
  """Reads signals as they come, also while the main thread runs no Python; returns when the other end is closed."""
  limit, deadline, interrupts = float(os.environ.get("MEDJAX_STOP_SECONDS", STOP_SECONDS)), None, 0
  while True:
    woken.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
    try:
      numbers = woken.recv(64)
    except TimeoutError:
      _end(
        f"did not end within {limit:g} s of being asked to; run the same command to go on from the last checkpoint",
        EXIT_STOPPED,
      )
    if not numbers:
      return
    interrupts += numbers.count(signal.SIGINT)
    if interrupts > 1:
      _end("interrupted twice, ended at once; run the same command to go on from the last checkpoint")
    if deadline is None and any(number in numbers for number in _SIGNALS):
      deadline = time.monotonic() + limit
      if processes.is_first():
        print("medjax: stopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)


class Watchdog:
  """Ends a run that stands still: writes where each thread stopped, says so in one line, and has the others end, too.

  Args:
    workdir: gets `stalled-PROCESS.txt`.
    minutes: without a sign of life; 0 for no watchdog.
  """

  def __init__(self, workdir: pathlib.Path, minutes: float):
    self._workdir, self._limit = workdir, 60 * minutes
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
    self._still = self._longest = 0.0
    self.alive("the start", long=True)

  def alive(self, where: str, long: bool = False) -> None:
    """A sign of life.

    Args:
      where: what begins now, such as `step 3`.
      long: whether it may take six times as long, as compilation does.
    """
    self._longest = max(self._longest, self._still)
    limit = max(self._limit, 3 * self._longest)  # steps may be slow; they are not slower than the others
    self._where, self._allowed, self._still = where, limit * (_PATIENCE if long else 1), 0.0

  def _watch(self) -> None:
    """Counts its own ticks: a process that was suspended has not stood still in that time."""
    tick = min(self._limit / 10, 5.0)
    while not self._ended.wait(tick):
      self._still += tick
      if self._still > self._allowed:
        path = self._workdir / f"stalled-{processes.index()}.txt"
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
          faulthandler.dump_traceback(file)
        _end(
          f"process {processes.index()} stood still for {self._still:.0f} s at {self._where}; {path} says "
          "where it stopped"
        )

  def __enter__(self) -> "Watchdog":
    if self._limit:
      self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._ended.set()


def _end(reason: str, code: int = EXIT_FAILED) -> None:
  """Ends the process from a thread, whatever the main thread does."""
  print(f"medjax: {reason}", file=sys.stderr, flush=True)
  processes.leave(EXIT_FAILED, reason)  # the others wait for this one, and end, too
  os._exit(code)
