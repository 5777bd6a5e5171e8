"""Several processes that hold a mesh together, and processes that are ended at chosen points."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(("localhost", 0))
    return listening.getsockname()[1]


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
      printed, _ = process.communicate(timeout=240)
      assert process.returncode == 0, printed
  finally:
    for process in processes:
      process.kill()


@contextlib.contextmanager
def interruptions(words: list[str], log: pathlib.Path):
  """A function that runs a command of medjax up to a point, or as a group of processes, and tells how that ended.

  The processes come from one (`training/interrupted.py`, which says what they take) that has imported everything, so
  that they start at once.

  Args:
    words: of the command line.
    log: what the processes say on stderr.
  """
  command = [sys.executable, str(TESTS / "training" / "interrupted.py"), *words]
  pipe = subprocess.PIPE
  with open(log, "w") as stderr, subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as parent:

    def ended_at(point: str, *others: str, **request):
      """The exit code of one process, or those of several that have `devices` each."""
      if others:
        request |= {"port": free_port()}
      print(json.dumps({"points": [point, *others], **request}), file=parent.stdin, flush=True)
      while (line := parent.stdout.readline()) and not line.startswith("ended "):
        pass  # what the command itself prints
      ended = json.loads(line.removeprefix("ended "))
      return ended if others else ended[0]

    yield ended_at
