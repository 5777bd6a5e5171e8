"""`medjax eval`: a model or checkpoint on a split of a task."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from medjax import processes
from medjax.cli.verb import (
  Arguments,
  Verb,
  check_task,
  define_checkpoint,
  define_corrections,
  define_stop,
  load_config,
  run_config,
  stop_strings,
)
from medjax.console import visible
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  define_checkpoint(values, required=False)
  define_corrections(values)
  flags.DEFINE_string("workdir", None, "Results go to WORKDIR/eval/NAME.", required=True, flag_values=values)
  flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "Which rows; else config.evaluation.split.", flag_values=values
  )
  flags.DEFINE_string(
    "name", "", "NAME of the results; else made of checkpoint, split, corrections and stop.", flag_values=values
  )
  flags.DEFINE_boolean(
    "allow_second_look",
    False,
    "Let a run of a study be scored on the test rows again with other weights; the study's report lists it.",
    flag_values=values,
  )
  define_stop(values)
  flags.DEFINE_boolean(
    "every", False, "Evaluate each checkpoint of --workdir, into WORKDIR/eval/STEP-SPLIT.", flag_values=values
  )
  flags.DEFINE_boolean(
    "watch", False, "As --every, and wait for further ones until the run's last step is saved.", flag_values=values
  )
  flags.DEFINE_boolean("json", False, "Print the metrics as JSON.", flag_values=values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  stop = stop_strings(values)
  workdir = pathlib.Path(values.workdir)
  every = values.every or values.watch
  if every and (values.checkpoint or values.name):
    raise UserError("--every and --watch take the checkpoints of --workdir; leave out --checkpoint and --name")
  if not (every or values.checkpoint):
    raise UserError("--checkpoint is needed, or --every for all of --workdir")
  saved = [workdir / "config.json"] if every else [run_config(values.checkpoint), workdir / "config.json"]
  config = load_config(arguments, saved)
  check_task(config, "to evaluate", saved[0])
  split = values.split or config.evaluation.split
  if every:
    _run_every(config, workdir, split, values, stop)
    return
  corrections = [mode for mode in (values.prior, values.calibrate) if mode != "none"] + (["stop"] if stop else [])
  name = values.name or "-".join([_name(values.checkpoint, workdir, split), *corrections])
  if pathlib.Path(name).name != name:
    raise UserError(f"--name is {name!r}: it must be the name of a folder, without /")
  from medjax.evaluation.evaluate import evaluate
  from medjax.evaluation.options import Options

  if split == "test":
    from medjax.study.jobs import note_look

    run = run_config(values.checkpoint).parent
    note_look(config, values.checkpoint, run, values.allow_second_look, prior=values.prior, stop=stop)
  out = workdir / "eval" / name
  options = Options(values.prior, values.calibrate)
  metrics = evaluate(config, values.checkpoint, split, out, options=options, stop=stop)
  if not processes.is_first():
    return
  if values.json:
    print(json.dumps(metrics, indent=2))
    return
  for key, value in _numbers(metrics):
    print(visible(f"{key:<48}{value:>12.4f}" if isinstance(value, float) else f"{key:<48}{value:>12}"))
  print(out / "predictions.jsonl")
  print(out / "metrics.json")


def _run_every(config: Any, workdir: pathlib.Path, split: str, values: flags.FlagValues, stop: Sequence[str]) -> None:
  from medjax.evaluation.every import evaluate_every
  from medjax.evaluation.options import Options

  how: dict[str, Any] = {"options": Options(values.prior, values.calibrate), "stop": stop}
  several = True
  if split == "test":
    from medjax.study import looks
    from medjax.study.jobs import note_look

    def look(at, model):
      note_look(config, at, workdir, values.allow_second_look, model, values.prior, stop)

    how["look"] = look
    several = values.allow_second_look or looks.study_of(workdir) is None

  def tell(line: str) -> None:
    if processes.is_first() and not values.json:
      print(visible(line), flush=True)

  table = evaluate_every(config, workdir, split, values.watch, several=several, tell=tell, **how)
  if not processes.is_first():
    return
  if values.json:
    print(json.dumps(table, indent=2))
    return
  for suffix in ("json", "png"):
    print(workdir / "eval" / f"every-{split}.{suffix}")


def _name(checkpoint: str, workdir: pathlib.Path, split: str) -> str:
  """A folder name for the results: the split, and the checkpoint where it is not that of the workdir."""
  path, run = pathlib.Path(checkpoint), run_config(checkpoint).parent
  if path.exists() and path.resolve() == workdir.resolve():
    return split
  stem = path.resolve().name if path.parent.exists() else checkpoint
  if run.is_dir() and run.resolve() not in (path.resolve(), workdir.resolve()):
    stem = f"{run.resolve().name}-{stem}"  # `best` of another run
  return f"{re.sub(r'[^A-Za-z0-9.]+', '-', stem).strip('-.')}-{split}"


def _numbers(values: dict, prefix: str = "") -> list[tuple[str, float | int]]:
  """The numbers of nested mappings under dotted names."""
  found = []
  for key, value in values.items():
    if isinstance(value, dict):
      found += _numbers(value, f"{prefix}{key}.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
      found.append((f"{prefix}{key}", value))
  return found


VERB = Verb(
  "evaluate a model or checkpoint on a split of a task",
  "medjax eval --config=configs/triage.py --checkpoint=runs/triage-sft --workdir=runs/triage-sft",
  _define,
  _run,
  takes_config=True,
  compiles=True,
  joins=True,
)
