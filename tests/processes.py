"""Several processes that hold a mesh together."""

import os
import pathlib
import re
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def run_together(script: pathlib.Path, each: list[list[str]], devices: int = 2, meanwhile=lambda: None) -> None:
  """Runs `script COORDINATOR PROCESSES PROCESS *words` for each list of words; AssertionError where one fails."""
  with socket.socket() as listening:
    listening.bind(("localhost", 0))
    port = listening.getsockname()[1]
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
