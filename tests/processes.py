"""Several processes that hold a mesh together, and processes that run `medjax` up to chosen points."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def run_together(script: pathlib.Path, each: list[list[str]], devices: int = 2, meanwhile=lambda: None) -> None:
  """Runs `script COORDINATOR PROCESSES PROCESS *words` for each list of words; AssertionError where one fails."""
  port = free_port()
  flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
  paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
  processes = [
    subprocess.Popen(
      [sys.executable, str(script), f"localhost:{port}", str(len(each)), str(index), *words],
      env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index, words in enumerate(each)
  ]
  try:
    meanwhile()
    for process in processes:
      printed, _ = process.communicate(timeout=600)
      assert process.returncode == 0, printed
  finally:
    for process in processes:
      process.kill()


class Forks:
  """Starts processes from one that has imported everything (`training/interrupted.py`), so that they start at once."""

  def __init__(self, parent: subprocess.Popen, compiled: pathlib.Path):
    self._parent, self._compiled = parent, compiled

  def run(
    self, words: list[str], *points: str, log: pathlib.Path, more: list[list[str]] | None = None, devices: int = 2
  ):
    """Runs a command of medjax up to a point, or as several processes, each up to its own.

    Args:
      words: of the command line.
      *points: one for each process, see `interrupted.py`.
      log: where to add what the processes say on stderr.
      more: further words of each process.
      devices: simulated, of each process.

    Returns:
      The exit code of one process, or those of several.
    """
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    environment = {"XLA_FLAGS": flags, "MEDJAX_CACHE": os.environ["MEDJAX_CACHE"]}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(self._compiled)}  # of all processes that this parent starts
    if len(points) > 1:
      environment |= {"MEDJAX_COORDINATOR": f"localhost:{free_port()}", "MEDJAX_PROCESSES": str(len(points))}
    words_of_each = [[*words, *own] for own in more or [[]] * len(points)]
    request = {"points": points, "words": words_of_each, "environment": environment, "log": str(log)}
    print(json.dumps(request), file=self._parent.stdin, flush=True)
    while (line := self._parent.stdout.readline()) and not line.startswith("ended "):
      pass  # what the command itself prints
    ended = json.loads(line.removeprefix("ended "))
    return ended if len(points) > 1 else ended[0]


@contextlib.contextmanager
def forks(compiled: pathlib.Path):
  """A process to start others from, which keep compiled programs in a folder."""
  command = [sys.executable, str(TESTS / "training" / "interrupted.py")]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
    try:
      yield Forks(parent, compiled)
    finally:
      parent.stdin.close()  # with which it ends


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(("localhost", 0))
    return listening.getsockname()[1]
