"""SIGTERM, noted, so that what runs can end where nothing is lost; of several processes all end at the same step."""

import contextlib
import signal

from medjax import processes
from medjax.errors import Stopped


class StopRequest:
  """Notes SIGTERM while its block runs."""

  def __init__(self):
    self._asked, self._vote = False, None
    self._previous = None

  def end_here(self, done: int, steps: int) -> None:
    """Raises Stopped where SIGTERM has come to any process and nothing is trained that is not saved.

    To be called by all processes at the same place.
    """
    if processes.vote(self._asked):
      raise Stopped(f"stopped before step {done + 1} of {steps}; run the same command to go on")

  def after_step(self) -> bool:
    """Whether to save and stop now. Of several processes all get the same answer, a step after the first was asked.

    What is answered was asked for at the call before, behind a step that has ended by now, so that nobody waits.
    """
    if processes.count() == 1:
      return self._asked
    before, self._vote = self._vote, processes.vote(self._asked)
    return bool(before)

  def _note(self, *_) -> None:
    self._asked = True

  def __enter__(self) -> "StopRequest":
    with contextlib.suppress(ValueError):  # not in the main thread, where no signal arrives
      self._previous = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(self, *_) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
