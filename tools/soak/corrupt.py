"""Damages one file at a time, and goes on: what follows is the same, is told, or is refused with path and remedy.

Usage: corrupt.py [CASES=1000] [SEED=0]

A training run that was stopped half way goes on, a finished one is evaluated, and a finished study is looked at again,
each after a file of its workdir, or of the cache, was changed: a bit flipped, a block zeroed, cut, emptied, lengthened
or removed. Prints a line for each case that went wrong, and at the end how the cases ended.
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import conftest  # noqa: E402, F401  (for its compiler flags, which save most of the time)

os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")

SECONDS = 300
REMEDY = re.compile(r"bring|copy|remove|move|use another|name another|name the|run |give |train |put |delete|set ")


def child(words: list[str], log: pathlib.Path, after: Callable[[], None] = lambda: None) -> int:
  """Exit code of `medjax WORDS` in a process of its own, followed by `after` where it ends well."""
  from medjax.cli import main as cli

  pid = os.fork()
  if pid == 0:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = cli.main(words)
    if status == 0:
      after()
    os._exit(status)
  deadline = time.monotonic() + SECONDS
  while time.monotonic() < deadline:
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.01)
  os.kill(pid, signal.SIGKILL)
  os.waitpid(pid, 0)
  return -signal.SIGALRM


def damage(path: pathlib.Path, draw: random.Random) -> str:
  """Changes a file; says how."""
  data = path.read_bytes()
  kinds = ["remove", "lengthen", *(["flip"] * 4 + ["zero", "cut", "cut", "empty"] if data else [])]
  kind = draw.choice(kinds)
  place = draw.randrange(len(data)) if data else 0
  if kind == "remove":
    path.unlink()
    return kind
  changed = {
    "lengthen": lambda: data + draw.randbytes(draw.randint(1, 100)),
    "flip": lambda: data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :],
    "zero": lambda: data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :],
    "cut": lambda: data[:place],
    "empty": lambda: b"",
  }[kind]()
  path.write_bytes(changed)
  return f"{kind} at {place} of {len(data)}"


class Scenario:
  """What a command leaves when nothing was damaged, and the command.

  Args:
    home: a folder that holds `workdir/` and `cache/` as they are before the command.
    words: of the command line, with HOME in the place of the folder.
    outcome: reads, after the command, what must be the same; it gets the folder.
    files: patterns of files that may be damaged.
  """

  def __init__(self, home: pathlib.Path, words: list[str], outcome: Callable[[pathlib.Path], object], *files: str):
    self.home, self.words, self.outcome = home, words, outcome
    self.files = [sorted(p.relative_to(home) for p in home.glob(pattern) if p.is_file()) for pattern in files]
    assert all(self.files), files
    code, self.whole, told = self.run(home.with_name(f"{home.name}-whole"), None)
    assert code == 0, told

  def run(self, copy: pathlib.Path, harm: Callable[[pathlib.Path], None] | None) -> tuple[int, object, str]:
    """Exit code, outcome and stderr of the command in a copy of the folder, once `harm` has been done to it."""
    shutil.copytree(self.home, copy, symlinks=True)
    if harm:
      harm(copy)
    os.environ["MEDJAX_CACHE"] = str(copy / "cache")
    log, result = copy / "stderr", copy / "outcome"
    log.touch()

    def note() -> None:
      result.write_text(json.dumps(self.outcome(copy), sort_keys=True).replace(str(copy), "HOME"))

    code = child([word.replace("HOME", str(copy)) for word in self.words], log, note)
    found = result.read_text() if result.exists() else None
    told = log.read_text(errors="replace")
    shutil.rmtree(copy)
    return code, found, told

  def case(self, copy: pathlib.Path, draw: random.Random) -> tuple[str, str]:
    """How one damaged file ends: `same`, `told`, `refused`, or what is wrong; and what was done."""
    name = draw.choice(draw.choice(self.files))
    done = []
    code, found, told = self.run(copy, lambda folder: done.append(damage(folder / name, draw)))
    what = f"{' '.join(self.words[:1])}: {name}: {done[0]}: exit code {code}: {told[-600:]!r}"
    places = [str(copy / part) for part in [name, *name.parents][:-2]]  # the file, or a folder that it is in
    names = any(place in told for place in places) or (name.name in told and str(copy / name.parent) in told)
    if code == 0:
      same = found == self.whole
      return "same" if same else "told" if names else "SILENT DIFFERENCE", what
    fine = code in (1, 2) and names and REMEDY.search(told) and "Traceback" not in told and "unexpected" not in told
    return "refused" if fine else "DEAD END", what


def weights(workdir: pathlib.Path) -> str:
  """A fingerprint of the last checkpoint's weights."""
  from medjax.training import checkpoints, reference

  return reference.weights_fingerprint(checkpoints.load_params(str(workdir))[0])


def scenarios(folder: pathlib.Path) -> list[Scenario]:
  """Makes the folders that are damaged later."""
  import make_home
  from runs import curve, flags, overrides

  log, base = folder / "log", folder / "base"
  base.mkdir()
  make_home.write(base)

  def prepared(words: list[str]) -> None:
    assert child(words, log) == 0, log.read_text()[-3000:]

  # A preference run, half way: what is behind step 4 is taken away again.
  settings = overrides(base, "dpo", train__steps=6, checkpoint__every=2, checkpoint__keep=3, evaluation__every=2)
  half, done = folder / "half", folder / "done"
  os.environ["MEDJAX_CACHE"] = str(half / "cache")
  prepared(["train", f"--workdir={half / 'workdir'}", *flags(settings)])
  shutil.copytree(half, done)
  shutil.rmtree(half / "workdir/checkpoints/6")
  found = [
    Scenario(
      half,
      ["train", "--workdir=HOME/workdir", *flags(settings)],
      lambda home: [curve(home / "workdir"), weights(home / "workdir")],
      *(
        "workdir/*.json*",
        "workdir/checkpoints/4/**/*",
        "workdir/checkpoints/2/**/*",
        "workdir/**/*",
        "cache/reference/*",
      ),
    )
  ]
  # A run that classifies, evaluated.
  task = {
    "model.path": str(base / "model"),
    "task": "numeric_classification",
    "data.train_rows": 8,
    "data.validation_rows": 6,
    "data.test_rows": 6,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.row_length": 512,
    "optimizer.warmup_steps": 1,
  }
  run = folder / "run"
  os.environ["MEDJAX_CACHE"] = str(run / "cache")
  prepared(["train", f"--workdir={run / 'workdir'}", *flags(task)])
  found.append(
    Scenario(
      run,
      ["eval", "--checkpoint=HOME/workdir", "--workdir=HOME/workdir", "--split=validation"],
      lambda home: (home / "workdir/eval/validation/predictions.jsonl").read_text(),
      *("workdir/config.json", "workdir/checkpoints/**/*", "workdir/**/*"),
    )
  )
  # A study that has ended, looked at again.
  config = base / "study.py"
  lines = [f"  config.{key} = {value!r}" for key, value in (task | {"train.steps": 3}).items() if key != "task"]
  config.write_text(
    "\n".join(
      ["from medjax.config import base_config", "", "", "def get_config():", "  config = base_config()", *lines]
      + ["  config.study.tasks = ('numeric_classification',)", "  config.study.methods = ('base', 'sft')"]
      + ["  config.study.grid = {'sft': ({'optimizer.learning_rate': 1e-3}, {'optimizer.learning_rate': 1e-2})}"]
      + ["  return config", ""]
    )
  )
  study = folder / "study"
  os.environ["MEDJAX_CACHE"] = str(study / "cache")
  words = ["study", f"--config={config}", "--workdir=HOME/workdir"]
  prepared([word.replace("HOME", str(study)) for word in words])

  def numbers(home: pathlib.Path) -> object:
    values = json.loads((home / "workdir/study.json").read_text())
    return {key: value for key, value in values.items() if key not in ("environment", "fingerprint")}

  found.append(
    Scenario(study, words, numbers, *("workdir/*.json*", "workdir/**/*.json*", "workdir/**/eval/**/*", "workdir/**/*"))
  )
  return found


def main(cases: int = 1000, seed: int = 0) -> int:
  """Tries so many cases; returns how many went wrong."""
  from medjax import runtime

  runtime.quiet()
  import medjax.evaluation.evaluate
  import medjax.study.run
  import medjax.training.loop  # noqa: F401, once for all processes

  ends: collections.Counter = collections.Counter()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla")
    each = scenarios(folder)
    for number in range(cases):
      draw = random.Random(f"{seed} {number}")
      scenario = draw.choices(each, weights=[5, 3, 2])[0]
      end, what = scenario.case(folder / f"case{number}", draw)
      ends[end] += 1
      if end.isupper():
        print(f"case {number}: {end}: {what}", flush=True)
  print(f"{cases} cases: {dict(ends)}")
  return sum(count for end, count in ends.items() if end.isupper())


if __name__ == "__main__":
  sys.exit(min(main(*map(int, sys.argv[1:])), 1))
