"""Ends what a test process started and left running, once that process is gone, however it went.

Everything that it starts inherits a mark in its environment, in sessions of their own and grandchildren, too.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import uuid

MARK = "MEDJAX_TEST_PROCESS"


def start() -> subprocess.Popen:
  """Marks what this process starts from now on; the reaper ends it when its standard input, held here, is closed."""
  os.environ[MARK] = uuid.uuid4().hex
  command = [sys.executable, "-S", "-E", __file__, os.environ[MARK]]
  return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def end(mark: str) -> None:
  """Kills every other process that carries the mark."""
  wanted = f"{MARK}={mark}".encode()
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
        os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
  sys.stdin.read()
  end(sys.argv[1])
