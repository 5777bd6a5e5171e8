"""The process around a run: where caches lie, compiled programs kept on disk, quiet libraries."""

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from medjax import console


def cache_directory() -> pathlib.Path:
  """Where medjax keeps what can be computed again: `$MEDJAX_CACHE`, else `~/.cache/medjax`."""
  return pathlib.Path(os.environ.get("MEDJAX_CACHE") or "~/.cache/medjax").expanduser()


def quiet() -> None:
  """Leaves on stderr what medjax logs, and of libraries the errors only; call it before they are imported."""
  import absl.logging  # noqa: F401  (its logger knows which line logged; made before it, the logger would be a plain one)

  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  os.environ.setdefault("DATASETS_VERBOSITY", "error")
  search_no_tpu()
  for name in ("jax", "orbax", "grain"):
    logging.getLogger(name).setLevel(logging.ERROR)
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of Orbax's writes: what failed, once more
  # medjax, Orbax and others share absl's logger; the file that logs tells them apart.
  home = str(pathlib.Path(__file__).parent)
  handler = logging.StreamHandler()
  # What fails in Orbax's threads is raised to medjax as well, which says it in one line.
  handler.addFilter(
    lambda record: (
      record.pathname.startswith(home)
      or (record.levelno >= logging.ERROR and f"{os.sep}orbax{os.sep}" not in record.pathname)
    )
  )
  handler.setFormatter(_Visible())
  shared = logging.getLogger("absl")
  shared.handlers, shared.propagate = [handler], False
  shared.setLevel(logging.INFO)
  sys.unraisablehook = _without_late_callbacks


def _without_late_callbacks(unraisable: Any) -> None:
  """Leaves out what writes say that fail after Orbax has given up on them: that nobody waits any more."""
  if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
    sys.__unraisablehook__(unraisable)


class _Visible(logging.Formatter):
  """Log lines whose labels, names and paths cannot act on the terminal."""

  def format(self, record: logging.LogRecord) -> str:
    return console.visible_lines(super().format(record))


def search_no_tpu() -> None:
  """Without a TPU, keeps its compiler from searching for the machine that it is on, and from complaining.

  Call it before JAX looks for devices.
  """
  if not [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev").glob("vfio/*")]:
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")


@contextlib.contextmanager
def torch_hidden() -> Iterator[None]:
  """Has libraries imported as where torch is not installed; importing it takes seconds."""
  if "torch" in sys.modules:
    yield
    return
  sys.modules["torch"] = None
  try:
    yield
  finally:
    del sys.modules["torch"]


def errors_only() -> None:
  """Leaves of medjax's own lines on stderr the errors, too: of several processes one speaks."""
  logging.getLogger("absl").setLevel(logging.ERROR)


def keep_compiled_programs() -> None:
  """Turns on JAX's persistent compilation cache, unless `JAX_COMPILATION_CACHE_DIR` already names one."""
  import jax

  if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
  # Small programs too: a command has dozens, which take longer to compile than to read.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
