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


class Seen:
  """Memory that a run and who watches it share: which phases go on, and how many have begun."""

  def __init__(self):
    self._memory = mmap.mmap(-1, 8 * (len(PHASES) + 1))

  def _at(self, place: int) -> int:
    return int.from_bytes(self._memory[8 * place : 8 * place + 8])

  def _set(self, place: int, value: int) -> None:
    self._memory[8 * place : 8 * place + 8] = value.to_bytes(8)

  @property
  def begun(self) -> int:
    return self._at(len(PHASES))

  @property
  def going_on(self) -> list[str]:
    return [name for place, name in enumerate(PHASES) if self._at(place)]

  def clear(self) -> None:
    self._memory[:] = bytes(len(self._memory))

  @contextlib.contextmanager
  def within(self, name: str, seconds: float):
    """Marks that a phase goes on, and makes it longer."""
    self._set(PHASES.index(name), 1)
    self._set(len(PHASES), self.begun + 1)
    time.sleep(seconds)
    try:
      yield
    finally:
      time.sleep(seconds)
      self._set(PHASES.index(name), 0)


def stretch(seen: Seen) -> None:
  """Replaces what the phases of a run consist of by the same with waits around it."""
  from medjax.training import digests, loop, reference

  def stretched(function, name, seconds):
    def waiting(*arguments, **options):
      with seen.within(name, seconds):
        return function(*arguments, **options)

    return waiting

  jitted_step = loop.jitted_step
  loop.jitted_step = lambda *arguments: stretched(jitted_step(*arguments), "step", 0.03)
  loop.score = stretched(loop.score, "validation", 0.1)
  reference.score = stretched(reference.score, "reference", 0.3)
  digests.write = stretched(digests.write, "save", 0.15)  # all files are there, their folder has its temporary name


def fork(words: list[str], seen: Seen | None, log: pathlib.Path) -> int:
  """A child that runs medjax."""
  from medjax.cli import main as cli

  child = os.fork()
  if child == 0:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if seen:
      stretch(seen)
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

  os.environ["MEDJAX_CACHE"] = str(home / "cache")
  settings = {"train.steps": 8 * kills, "checkpoint.every": 2, "checkpoint.keep": 2, "evaluation.every": 3} | changes
  settings = overrides(home, "dpo") | settings
  seen, draw, log = Seen(), random.Random(seed), home / "stderr"
  run, whole, fell = home / "killed", home / "undisturbed", collections.Counter()

  def started(workdir, watched):
    return fork(["train", f"--workdir={workdir}", *flags(settings)], watched, log)

  def ended(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, log.read_text()[-2000:]

  ended(started(whole, None))
  shutil.rmtree(home / "cache" / "reference")
  for number in range(kills):
    seen.clear()
    child = started(run, seen)
    moment = 1 if number < 2 else draw.randint(1, 30)  # the reference pass comes first, and once it is done never again
    while seen.begun < moment:
      time.sleep(0.001)
      assert os.waitpid(child, os.WNOHANG) == (0, 0), f"ended before kill {number + 1}: {log.read_text()[-2000:]}"
    time.sleep(draw.uniform(0, 0.1))
    phases = seen.going_on or ["between"]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    fell.update(phases)
    newest = check_saved(run)
    tell(f"kill {number + 1}: in {', '.join(phases)}; the last checkpoint is that of step {newest}")
  ended(started(run, None))
  assert curve(run) == curve(whole), "the metrics differ"
  one, other = (weights_of(workdir) for workdir in (run, whole))
  assert one == other, "the weights differ"
  tell(f"{kills} kills, by phase {dict(fell)}; metrics and weights are those of an undisturbed run")
  return fell


def check_saved(workdir: pathlib.Path) -> int | None:
  """The last checkpoint that has its name; AssertionError where it is not whole."""
  from medjax.training import digests

  steps = [int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
  if not steps:
    return None
  reason = digests.damage(workdir / "checkpoints" / str(max(steps)))
  assert not reason, f"step {max(steps)} of {workdir} is not whole: {reason}"
  return max(steps)


def weights_of(workdir: pathlib.Path) -> str:
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
