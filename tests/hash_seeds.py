"""Whether an expression has one value in every process: sets and dicts are met in another order under another seed."""

import subprocess
import sys


def values(code: str) -> set[str]:
  """What a program prints under two hash seeds."""
  return {
    subprocess.run(
      [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    ).stdout
    for seed in ("1", "2")
  }
