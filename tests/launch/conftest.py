"""A stage on which launchers run; their modules import one another by name, as they do when run as scripts."""

import contextlib
import os
import pathlib
import signal
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "launch"), str(HERE)]

from stages import NAMES, PLAIN, Stage  # noqa: E402


@pytest.fixture
def stage(tmp_path):
  found = tmp_path / "bin"
  found.mkdir()
  (tmp_path / "user").mkdir()
  recorded = {name: f'exec "{sys.executable}" -S -E "{HERE / "stand_in.py"}" {name} "$@"' for name in NAMES}
  for name, line in {**recorded, **PLAIN}.items():
    program = found / name
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
  started = []
  yield Stage(tmp_path, started)
  for process in started:
    process.kill()
    process.communicate()
  for session in tmp_path.glob("worker*/medjax/run/session"):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(session.read_text()), signal.SIGKILL)
