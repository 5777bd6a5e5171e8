"""Kills a run with SIGKILL at random moments until it is done, and compares it with one that nothing disturbed.

  python tests/training/kill_anywhere.py [KILLS [SEED]]

Each phase of the run is stretched, so that kills fall into all of them: the reference pass, steps, validation, and
saves. After each kill every checkpoint must be whole, and the run goes on from the last one. In the end metrics and
weights must be those of the undisturbed run, bit for bit. Prints a line for each kill, with what it fell into.
"""

import collections
import contextlib
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import conftest  # noqa: E402, F401

PHASES = ("reference", "step", "validation", "save")


@contextlib.contextmanager
def within(phases: mmap.mmap, name: str, seconds: float):
  """Marks that a phase goes on, and makes it longer."""
  place = PHASES.index(name)
  phases[place] = 1
  time.sleep(seconds)
  try:
    yield
  finally:
    time.sleep(seconds)
    phases[place] = 0


def stretch(phases: mmap.mmap) -> None:
  """Replaces what the phases of a run consist of by the same with waits around it."""
  from medjax.training import digests, loop, reference

  def stretched(function, name, seconds):
    def waiting(*arguments, **options):
      with within(phases, name, seconds):
        return function(*arguments, **options)

    return waiting

  jitted_step = loop.jitted_step
  loop.jitted_step = lambda *arguments: stretched(jitted_step(*arguments), "step", 0.03)
  loop.score = stretched(loop.score, "validation", 0.1)
  reference.score = stretched(reference.score, "reference", 0.3)
  digests.write = stretched(digests.write, "save", 0.15)  # all files are there, their folder has its temporary name


def fork(words: list[str], stretched: bool, phases: mmap.mmap, log: pathlib.Path) -> int:
  """A child that runs medjax."""
  from medjax.cli import main as cli

  child = os.fork()
  if child == 0:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if stretched:
      stretch(phases)
    status = cli.main(words)
    os._exit(status)
  return child


def kill_until_done(home: pathlib.Path, kills: int, seed: int, tell=print, **changes) -> collections.Counter:
  """The kills that fell into each phase; AssertionError where the run is not what an undisturbed one is.

  Args:
    home: a folder with a tiny model and rows, and place for the runs.
    kills: how many.
    seed: of the moments.
    tell: is given a line for each kill.
    **changes: of the run's settings.
  """
  from runs import curve, flags, overrides

  from medjax.training import digests

  os.environ["MEDJAX_CACHE"] = str(home / "cache")
  settings = {"train.steps": 12 * kills, "checkpoint.every": 2, "checkpoint.keep": 2, "evaluation.every": 3} | changes
  settings = overrides(home, "dpo") | settings
  phases, draw, log = mmap.mmap(-1, len(PHASES)), random.Random(seed), home / "stderr"
  run, whole, fell = home / "killed", home / "undisturbed", collections.Counter()

  def command(workdir):
    return ["train", f"--workdir={workdir}", *flags(settings)]

  started = time.monotonic()
  child = fork(command(whole), True, phases, log)
  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, log.read_text()
  seconds = time.monotonic() - started
  shutil.rmtree(home / "cache" / "reference")
  number, start = 0, 0.0
  while number < kills:
    phases[:] = bytes(len(PHASES))
    child, began = fork(command(run), True, phases, log), time.monotonic()
    # A moment after the start, at first in the reference pass, later in the loop, whose beginning each attempt shows.
    wait_for = draw.choice(PHASES) if number % 2 else PHASES[number // 2 % len(PHASES)]
    while not any(phases[:]) and os.waitpid(child, os.WNOHANG) == (0, 0):
      time.sleep(0.002)
    start = max(start, time.monotonic() - began)
    deadline = time.monotonic() + draw.uniform(0, 1.5)
    while time.monotonic() < deadline or (not phases[PHASES.index(wait_for)] and time.monotonic() < deadline + 2):
      time.sleep(0.002)
      if os.waitpid(child, os.WNOHANG) != (0, 0):
        break
    else:
      time.sleep(draw.uniform(0, 0.05))
      within_phases = [name for name, on in zip(PHASES, phases[:], strict=True) if on] or ["between"]
      os.kill(child, signal.SIGKILL)
      os.waitpid(child, 0)
      number += 1
      fell.update(within_phases)
      saved = [path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
      for path in saved:
        assert (path / digests.NAME).is_file(), f"{path} is not whole"
      newest = max(saved, key=lambda path: int(path.name), default=None)
      assert newest is None or digests.damage(newest) == "", f"{newest} is not whole"
      tell(f"kill {number}: in {', '.join(within_phases)}; saved {newest.name if newest else 'nothing'}")
      continue
    raise AssertionError(f"the run ended after {number} kills: {log.read_text()[-2000:]}")
  child = fork(command(run), False, phases, log)
  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, log.read_text()
  assert curve(run) == curve(whole), "the metrics differ"
  one, other = (digests_of(workdir) for workdir in (run, whole))
  assert one == other, "the weights differ"
  tell(f"{kills} kills, by phase {dict(fell)}; an undisturbed run takes {seconds:.0f} s; metrics and weights are equal")
  return fell


def digests_of(workdir: pathlib.Path) -> str:
  """A fingerprint of the last checkpoint's weights. In a process of its own, which starts JAX."""
  import subprocess

  code = "import sys; from medjax.training import checkpoints, reference as r; "
  code += "print(r.weights_fingerprint(checkpoints.load_params(sys.argv[1])[0]))"
  found = subprocess.run([sys.executable, "-c", code, str(workdir)], capture_output=True, text=True, check=True)
  return found.stdout.split()[-1]


def main() -> None:
  kills, seed = (int(word) for word in [*sys.argv[1:], *("20", "0")[len(sys.argv) - 1 :]])
  from medjax import runtime

  runtime.quiet()
  import make_home

  import medjax.training.loop  # noqa: F401, once for all processes

  with tempfile.TemporaryDirectory() as folder:
    home = pathlib.Path(folder)
    make_home.write(home)
    print(json.dumps(kill_until_done(home, kills, seed)))


if __name__ == "__main__":
  main()
