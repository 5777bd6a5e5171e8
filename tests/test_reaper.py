"""Nothing that a test started outlives the test process."""

import os
import pathlib
import subprocess
import sys

LEAVE = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import reaper
reaping = reaper.start()
left = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, start_new_session=True)
print(reaping.pid, left.pid, flush=True)
os._exit(1)
"""


def ended(pid: int) -> bool:
  """Whether the process is gone, or a zombie that nobody waits for."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
  except OSError:
    return True


def test_a_session_of_its_own_ends_with_the_process_that_started_it():
  here = str(pathlib.Path(__file__).parent)
  # The reaper holds standard output: the call returns once it has ended, too.
  done = subprocess.run([sys.executable, "-c", LEAVE, here], stdout=subprocess.PIPE, text=True, timeout=300)
  reaping, left = map(int, done.stdout.split())
  assert ended(left), os.kill(left, 9)
  assert done.returncode == 1
