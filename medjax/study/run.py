"""The study: every method trained on the same rows, chosen on validation, tested once on the same items.

A study is a folder. Each run in it is an ordinary workdir of `medjax train`, each evaluation an ordinary
`medjax eval`; what is there already is not done again, so that an interrupted study goes on where it was.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import medjax
from medjax import config as schema
from medjax import files
from medjax.data import chat, items
from medjax.data.examples import Row
from medjax.data.loader import seen
from medjax.data.rows import task_rows, windowed
from medjax.errors import UserError
from medjax.evaluation import results as evaluations
from medjax.evaluation.metrics import score_texts
from medjax.hardware.flops import kernel_parameters
from medjax.methods import METHODS
from medjax.models.pretrained import Description, load_config_and_tokenizer
from medjax.study import (
  at_hand,
  compare,
  details,
  jobs,
  plan,
  protocol,
  reports,
  schedule,
  stages,
  workers,
)
from medjax.study.plan import Group, Key, Run, run_config
from medjax.study.progress import Progress, tell
from medjax.study.stages import Stage
from medjax.study.subgroups import Column
from medjax.study.workers import Processes
from medjax.tasks.baselines import BASELINES
from medjax.tasks.task import Task, TextTarget
from medjax.training import checkpoints, curve

SCHEMA_VERSION = 1
RESAMPLES = 2000
HARDWARE = "hardware.json"  # in the study's folder: what the last command that did something ran on
_PATIENCE_SECONDS = 30.0  # for processes of a command that was killed to end
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "scipy", "scikit-learn")


def study(
  config,
  workdir: pathlib.Path,
  examples: int = 0,
  asked: Mapping[str, Any] | None = None,
  processes: Processes | None = None,
  allow_second_look: bool = False,
  columns: Sequence[Column] = (),
) -> dict[str, Any]:
  """Runs the study, or what is missing of it, and writes `study.json`, `report.md` and `report.html`.

  Args:
    config: a validated run config; `study` says what is compared.
    workdir: the study's folder.
    examples: how many test rows of each task `report.html` shows, which is clinical text.
    asked: options by their names in `plan.Options`; those that are not named are as the folder has them, or as usual.
    processes: where jobs are done; None for this process.
    allow_second_look: whether the test rows may be scored with other weights than before. The report lists it.
    columns: of the test rows, by which results are grouped.

  Returns:
    What `study.json` holds (schema in docs/architecture.md).

  Raises:
    UserError: the config cannot be used, or the folder is of another study or in use by another command.
    RunError: a run failed.
    Stopped: SIGTERM came during training; the same command goes on.
  """
  started = time.time()
  with _alone(workdir) as lock:
    options = _claim(config, workdir, asked or {})
    groups = plan.plan(config, options)
    details.check_columns(config, dict.fromkeys(group.key[0] for group in groups), columns)
    steps, found = stages.planned(config, groups), stages.stages(config, groups, options)
    study = jobs.Study(config, options, workdir, allow_second_look)
    chosen = _carried_out(study, groups, steps, found, processes, lock)
    results = _results(study, groups, steps, chosen, columns)
    results["environment"] = _environment(config, workdir, chosen, time.time() - started)
    results = files.write_sealed(workdir / "study.json", results, private=True)
  reports.write_reports(workdir, results, config, examples)
  return results


def show_plan(config, workdir: pathlib.Path, asked: Mapping[str, Any] | None = None, parallel: int = 1) -> None:
  """Tells on stderr what `study` would do and how long that is likely to take; measures the devices for it.

  Raises:
    UserError: as `study`.
  """
  options = _options(config, workdir, asked or {})
  groups = plan.plan(config, options)
  study, found = jobs.Study(config, options, workdir), stages.stages(config, groups, options)
  shares = len(at_hand.shares(parallel))  # before this process holds the devices
  measured = jobs.hardware(study)
  _tell_plan(study, groups, found, {**measured, "rate": measured["rate"] / shares}, shares)


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[int]:
  """Makes the folder this command's own until its last process has ended; gives the file that says so."""
  workdir.mkdir(parents=True, exist_ok=True)
  try:
    with files.locked(workdir / ".lock", files.this_process(), _PATIENCE_SECONDS) as descriptor:
      yield descriptor
  except BlockingIOError as error:
    raise UserError(
      f"{workdir} is in use by another command ({error.strerror}); wait for it, or use another --workdir"
    ) from None


def _claim(config, workdir: pathlib.Path, asked: Mapping[str, Any]) -> plan.Options:
  """Makes the folder this study's, or raises UserError where it is another's."""
  options = _options(config, workdir, asked)
  files.write_sealed(workdir / "config.json", schema.as_dict(config))
  files.write_sealed(workdir / plan.OPTIONS, dataclasses.asdict(options))
  return options


def _options(config, workdir: pathlib.Path, asked: Mapping[str, Any]) -> plan.Options:
  """What the folder's study has, else what is asked for; UserError where the folder is another study's."""
  known = {"config.json": schema.as_dict(config), plan.OPTIONS: dataclasses.asdict(plan.Options()) | dict(asked)}
  for name, wanted in known.items():
    if (workdir / name).exists():
      saved = files.read_sealed(workdir / name, "remove it if this is the study that the folder holds")
      known[name] = {**wanted, **saved, **asked} if name == plan.OPTIONS else wanted
      changed = checkpoints.differences(saved, known[name])
      if changed:
        raise UserError(
          f"{workdir} holds another study ({'; '.join(changed[:3])}); use another --workdir or set it back"
        )
  if asked.get("few_shot") and "few_shot" not in config.study.methods:
    raise UserError("--few_shot is read by the method few_shot alone; add it to config.study.methods")
  if asked.get("prior", "none") != "none" and all(METHODS[name].trains for name in config.study.methods):
    raise UserError("--prior is read by methods that train nothing, base and few_shot; add one to config.study.methods")
  return plan.Options(**known[plan.OPTIONS])


def _executor(study: jobs.Study, processes: Processes | None, lock: int) -> workers.Here | workers.Pool:
  if processes is None:
    return workers.Here(study)
  shares = at_hand.shares(processes.parallel)
  return workers.Pool(study, shares, lock, processes)


def _carried_out(
  study: jobs.Study,
  groups: Sequence[Group],
  steps: Mapping[Run, int],
  found: Sequence[Stage],
  processes: Processes | None,
  lock: int,
) -> dict[Key, Run]:
  """Does what is missing; the chosen run of each group."""
  done = stages.done_stages(found, groups, steps, study.workdir, study.options.halving)
  if len(done) == len(found) and all(stages.is_tested(group, study.workdir) for group in groups):
    with Progress(found, done, 0.0) as bar:
      return schedule.carry_out(study, groups, steps, workers.Here(study), bar)
  with _executor(study, processes, lock) as executor:
    files.write_sealed(study.workdir / HARDWARE, {"parallel": executor.parallel, **executor.hardware})
    seconds = _tell_plan(study, groups, found, executor.hardware, executor.parallel)
    with Progress(found, done, seconds, executor.parallel) as bar:
      return schedule.carry_out(study, groups, steps, executor, bar)


def _tell_plan(
  study: jobs.Study, groups: Sequence[Group], found: Sequence[Stage], hardware: Mapping[str, Any], parallel: int
) -> float:
  """Writes the plan on stderr; what a token of a forward pass takes, in seconds."""
  described = load_config_and_tokenizer(study.config.model.path)
  seconds = stages.token_seconds(kernel_parameters(described.config), hardware["rate"])
  for line in stages.describe(found, seconds):
    tell(line)
  total = sum(stages.expected(stage, seconds) for stage in found) / parallel
  runs = sum(len(group.runs) for group in groups if group.trains)
  beside = f", {parallel} at a time" if parallel > 1 else ""
  tell(f"{runs} runs to train{beside}; about {stages.duration(total)} from start to end on {hardware['devices']}")
  for line in protocol.unequal(found, len(study.config.study.seeds)):
    tell(line)
  return seconds


def _results(
  study: jobs.Study,
  groups: Sequence[Group],
  steps: Mapping[Run, int],
  chosen: Mapping[Key, Run],
  columns: Sequence[Column],
) -> dict[str, Any]:
  """study.json without `environment`: a function of the runs' files alone."""
  config, workdir = study.config, study.workdir
  model = load_config_and_tokenizer(config.model.path)
  answers, targets, training = {}, {}, []
  for (task_name, seed, method), run in chosen.items():
    rows = evaluations.read_predictions(workdir / run.folder / "eval" / "test")
    for name, target in plan.task_of(config, task_name).targets.items():
      targets[(task_name, name)] = target
      answers[(task_name, name, method, seed)] = details.answers_of(rows, name, target)
    if METHODS[method].trains:
      lines = curve.read(workdir / run.folder)
      training.append(
        {
          "task": task_name,
          "method": method,
          "seed": seed,
          "candidate": run.candidate,
          "steps": lines[-1]["step"],
          "tokens": sum(line["tokens"] for line in lines),
          "first_loss": lines[0]["loss"],
          "last_loss": lines[-1]["loss"],
        }
      )
  results, comparisons, recommendations = compare.compare(
    answers,
    targets,
    tuple(config.study.methods),
    resamples=RESAMPLES,
    baselines=_baselines(config, workdir, chosen, model),
  )
  return {
    "schema_version": SCHEMA_VERSION,
    "results": results,
    "comparisons": comparisons,
    "recommendations": recommendations,
    "confusion": compare.confusions(answers, targets),
    "training": training,
    "tuning": protocol.tuning(study, groups, steps, chosen),
    "protocol": protocol.protocol(study, groups, chosen, _row_counts(config, chosen), RESAMPLES),
    **details.details(config, workdir, chosen.values(), model, columns, RESAMPLES),
  }


def _baselines(config, workdir, chosen: Mapping[Key, Run], model: Description) -> dict[compare.Key, compare.Answers]:
  """What needs no language model, fitted on the rows that the first seed's SFT read; nothing where there are none.

  Rows that SFT had but did not come to in its steps are not used, so that both learn from the same.
  """
  answers = {}
  seed = config.study.seeds[0]
  for task_name, task in _tasks(config, chosen).items():
    runs = [chosen[task_name, seed, method] for method in config.study.methods]
    run = chosen.get((task_name, seed, "sft"), runs[0])
    settings = run_config(config, run, workdir)
    rows = task_rows(settings, task)
    fitted_on = _rows_read(settings, task, rows["train"], model) if run.method == "sft" else rows["train"]
    for method, predict in BASELINES.items() if fitted_on else ():
      for name, predictions in predict(fitted_on, rows["test"], task).items():
        found = {
          "ids": [row.id for row in rows["test"]],
          "groups": [row.group for row in rows["test"]],
          "references": [row.labels[name] for row in rows["test"]],
          "predictions": predictions,
        }
        if isinstance(task.targets[name], TextTarget):
          found["scores"] = score_texts(task, name, rows["test"], predictions)
        answers[task_name, name, method, seed] = found
  return answers


def _rows_read(settings, task: Task, rows: list[Row], model: Description) -> list[Row]:
  """The train rows that an SFT run came to, without those that it dropped as too long."""
  limits = chat.limits_of(settings, model.config, settings.train.row_length)
  encoder = chat.Encoder(model.tokenizer, model.config.vocab_size)
  rows = windowed(rows, task)
  groups, _ = chat.encode_all([task.example(row) for row in rows], encoder, limits)
  by_id = {row.id: row for row in rows}
  return [by_id[groups[index].id] for index in seen(settings, len(groups))]


def _tasks(config, chosen: Mapping[Key, Run]) -> dict[str, Task]:
  """The tasks by the names that the config has for them."""
  return {name: plan.task_of(config, name) for name in dict.fromkeys(run.task for run in chosen.values())}


def _splits(config, name: str, task: Task) -> dict[str, list[Row]]:
  """The rows of a task as the study's own config limits them."""
  return task_rows(schema.with_overrides(config, {"task": name}), task)


def _row_counts(config, chosen: Mapping[Key, Run]) -> dict[str, dict[str, int]]:
  found = sorted(_tasks(config, chosen).items())
  return {name: {split: len(rows) for split, rows in _splits(config, name, task).items()} for name, task in found}


def _environment(config, workdir, chosen: Mapping[Key, Run], seconds: float) -> dict[str, Any]:
  """What may differ between two equal studies: machine, versions, times."""
  hardware = files.read_sealed(workdir / HARDWARE, "use another --workdir")
  data = {
    name: {split: items.fingerprint(rows) for split, rows in _splits(config, name, task).items()}
    for name, task in sorted(_tasks(config, chosen).items())
  }
  return {
    "medjax": medjax.__version__,
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    "devices": hardware["devices"],
    "parallel": hardware["parallel"],
    "git_revision": _git_revision(),
    "data": data,
    "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "seconds_of_this_command": round(seconds, 1),
    "training_seconds": {
      f"{run.task} {run.method} seed{run.seed}": round(
        sum(step["tokens"] / step["tokens_per_second"] for step in curve.read(workdir / run.folder)), 1
      )
      for run in chosen.values()
      if METHODS[run.method].trains
    },
  }


def _git_revision() -> str | None:
  """The revision of the checkout that medjax runs from, with `+changes` where it was changed; None elsewhere."""
  home = pathlib.Path(medjax.__file__).parent

  def git(*words: str) -> str | None:
    done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None

  if git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed below somebody else's checkout
    return None
  return f"{git('rev-parse', 'HEAD')}{'+changes' if git('status', '--porcelain', '--', '.') else ''}"
