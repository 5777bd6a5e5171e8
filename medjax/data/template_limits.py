"""Limits on rendering a chat template, which comes with a model and may loop or grow without end."""

import contextlib
import ctypes
import os
import pathlib
import threading
import time
from collections.abc import Iterator

SECONDS = 10.0  # templates take less than a millisecond
BYTES = 2**30  # that the process may grow by while one is rendered
_TICK_SECONDS = 0.1


class TemplateLimit(Exception):
  """The template took longer, or more memory, than any real one does."""


class _Watch:
  """A thread that raises TemplateLimit in threads that render for too long; it sleeps while none does."""

  def __init__(self):
    self._lock, self._wake = threading.Lock(), threading.Event()
    self._rendering: dict[int, tuple[float, int]] = {}  # thread -> when it began, and the process's size then
    self._thread: threading.Thread | None = None

  def begin(self, thread: int) -> None:
    with self._lock:
      self._rendering[thread] = time.monotonic(), _resident_bytes()
      if self._thread is None:
        self._thread = threading.Thread(target=self._watch, name="template-limits", daemon=True)
        self._thread.start()
    self._wake.set()

  def end(self, thread: int) -> None:
    with self._lock:
      del self._rendering[thread]
      _raise_in(thread, None)  # what was raised a moment too late is taken back

  def _watch(self) -> None:
    while self._wake.wait():
      time.sleep(_TICK_SECONDS)
      with self._lock:
        if not self._rendering:
          self._wake.clear()
        for thread, (since, size) in self._rendering.items():
          if time.monotonic() - since > SECONDS or _resident_bytes() - size > BYTES:
            _raise_in(thread, TemplateLimit)


_watch = _Watch()


@contextlib.contextmanager
def limited() -> Iterator[None]:
  """Raises TemplateLimit in a block that renders for more than 10 s or grows the process by more than 1 GiB."""
  thread = threading.get_ident()
  _watch.begin(thread)
  try:
    yield
  finally:
    _watch.end(thread)


def _raise_in(thread: int, error: type[Exception] | None) -> None:
  """Has an exception raised in a thread at its next step of Python; None takes one back."""
  raised = ctypes.py_object(error) if error is not None else None
  ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _resident_bytes() -> int:
  """Memory of this process; 0 where the system does not tell."""
  try:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except OSError:
    return 0
