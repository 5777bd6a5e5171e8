"""Plants the faults of mutants.toml in a copy of the code, one at a time, and shows which ones the tests catch.

  python tools/mutants.py [--only=TEXT] [--least=0.95]

A mutant is caught where one of its tests fails. Ends with 1 where the share of those is below `--least`.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
_COPIED = ("medjax", "tests", "tools", "configs", "pyproject.toml")
_LIMIT_SECONDS = 300  # a mutant that hangs is caught


def listed() -> list[dict[str, Any]]:
  """The mutants: `file`, `old` and `new` text, and the `tests` that should catch it."""
  return tomllib.loads((ROOT / "tools" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


def planted(mutant: dict[str, Any], root: pathlib.Path = ROOT) -> str:
  """The mutant's file with the fault in it; ValueError where the old text is not there exactly once."""
  text = (root / mutant["file"]).read_text(encoding="utf-8")
  count = text.count(mutant["old"])
  if count != 1:
    raise ValueError(f"{mutant['file']}: the old text of {mutant['name']!r} is there {count} times, not once")
  return text.replace(mutant["old"], mutant["new"])


def fails(root: pathlib.Path, tests: list[str]) -> bool:
  """Whether the tests fail in a copy of the tree; ValueError where pytest finds none."""
  command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
  environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
  try:
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
  except subprocess.TimeoutExpired:
    return True
  if done.returncode in (4, 5):  # unusable arguments, or no test
    raise ValueError(f"pytest finds no tests for {' '.join(tests)}: {done.stderr.strip() or done.stdout.strip()}")
  return done.returncode != 0


def main() -> int:
  """Runs the mutants whose name or file holds `--only`; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", help="mutants whose name or file holds this text")
  parser.add_argument("--least", type=float, default=0.95, help="share of mutants that must be caught")
  options = parser.parse_args()
  mutants = [mutant for mutant in listed() if options.only in f"{mutant['file']} {mutant['name']}"]
  faults = [planted(mutant) for mutant in mutants]
  caught = 0
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for name in _COPIED:
      copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
      copy(ROOT / name, root / name)
    for tests in {tuple(mutant["tests"]) for mutant in mutants}:
      if fails(root, list(tests)):
        raise SystemExit(f"{' '.join(tests)} fails without a fault; mend that first")
    for mutant, fault in zip(mutants, faults, strict=True):
      path = root / mutant["file"]
      path.write_text(fault, encoding="utf-8")
      is_caught = fails(root, mutant["tests"])
      shutil.copy(ROOT / mutant["file"], path)
      caught += is_caught
      print(f"{'caught' if is_caught else 'SURVIVED':<10}{mutant['file']:<34}{mutant['name']}", flush=True)
  print(f"{caught} of {len(mutants)} mutants caught ({caught / max(len(mutants), 1):.0%})")
  return int(caught < options.least * len(mutants))


if __name__ == "__main__":
  sys.exit(main())
