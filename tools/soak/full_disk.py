"""Trains on disks of rising sizes: each run that does not fit ends with one line, and with room goes on bit for bit.

Usage, as root: full_disk.py [SIZES=50]. Sizes rise in equal steps from 20 KiB to what the run takes.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import make_home  # noqa: E402
from runs import curve, flags, overrides  # noqa: E402


@contextlib.contextmanager
def disk(path: pathlib.Path, kib: int):
  """A file system in memory of so many KiB, mounted at `path`; gives a function that sets another size."""
  path.mkdir()
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], check=True)
  try:
    yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}k", str(path)], check=True)
  finally:
    subprocess.run(["umount", str(path)], check=True)


def train(home: pathlib.Path, workdir: pathlib.Path) -> tuple[int, list[str]]:
  """Exit code and lines on stderr of a short run."""
  settings = overrides(home, checkpoint__every=2, evaluation__every=3)
  command = [sys.executable, "-m", "medjax", "train", f"--workdir={workdir}", *flags(settings)]
  own = {**os.environ, "PYTHONPATH": str(ROOT), "MEDJAX_CACHE": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)
  return done.returncode, done.stderr.splitlines()


def main(sizes: int = 50) -> int:
  """Tries each size; returns how many went wrong, each with a line."""
  wrong = full = 0
  with tempfile.TemporaryDirectory() as folder:
    home = pathlib.Path(folder)
    make_home.write(home)
    assert train(home, home / "whole")[0] == 0
    whole = curve(home / "whole")
    taken = sum(path.stat().st_blocks // 2 for path in (home / "whole").rglob("*"))
    for number in range(sizes):
      kib = 20 + taken * number // sizes
      with disk(home / f"disk{number}", kib) as resize:
        workdir = home / f"disk{number}" / "run"
        code, lines = train(home, workdir)
        full += code != 0
        fine = code == 0 or (code in (1, 2) and len(lines) <= 3 and lines[-1].startswith("medjax train: "))
        resize(100_000)
        again, more = train(home, workdir)
        if not (fine and again == 0 and curve(workdir) == whole):
          wrong += 1
          print(
            json.dumps({"kib": kib, "code": code, "lines": lines[-3:], "again": again, "more": more[-3:]}), flush=True
          )
  print(f"{sizes} sizes, {full} too small, {wrong} went wrong")
  return wrong


if __name__ == "__main__":
  sys.exit(min(main(*map(int, sys.argv[1:])), 1))
