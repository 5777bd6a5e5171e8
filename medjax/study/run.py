"""The study: every method trained on the same rows, chosen on validation, tested once on the same items.

A study is a folder. Each run in it is an ordinary workdir of `medjax train`, each evaluation an ordinary
`medjax eval`; what is there already is not done again, so that an interrupted study goes on where it was.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

import medjax
from medjax import config as schema
from medjax import files
from medjax.data import chat, items
from medjax.data.examples import Row
from medjax.data.loader import seen
from medjax.data.rows import task_rows, windowed
from medjax.errors import UserError
from medjax.evaluation.evaluate import evaluate
from medjax.evaluation.metrics import higher_is_better, score_texts
from medjax.models.pretrained import Description, load_config_and_tokenizer, load_pretrained
from medjax.objectives.preference import REFERENCE_FREE
from medjax.study import compare, plan, recorded, report, report_html
from medjax.study.plan import Run, run_config
from medjax.tasks.baselines import BASELINES
from medjax.tasks.task import Task, TextTarget
from medjax.training import checkpoints
from medjax.training.loop import train

SCHEMA_VERSION = 1
RESAMPLES = 2000
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "scipy", "scikit-learn")


def study(config, workdir: pathlib.Path, examples: int = 0) -> dict[str, Any]:
  """Runs the study, or what is missing of it, and writes `study.json`, `report.md` and `report.html`.

  Args:
    config: a validated run config; `study` says what is compared.
    workdir: the study's folder.
    examples: how many test rows of each task `report.html` shows, which is clinical text.

  Returns:
    What `study.json` holds (schema in docs/architecture.md).

  Raises:
    UserError: the config cannot be used, or the folder is of another study.
    RunError: a run failed.
    Stopped: SIGTERM came during training; the same command goes on.
  """
  started = time.time()
  _claim(config, workdir)
  groups = plan.plan(config)
  stages = plan.stages(config, groups, workdir)
  for line in plan.describe(stages):
    plan.tell(line)
  # Weights that adapters are added to are read by each run, as it stores them.
  model = load_config_and_tokenizer(config.model.path) if config.lora.rank else load_pretrained(config.model.path)
  chosen: dict[tuple[str, int, str], Run] = {}
  with plan.Progress(stages, workdir) as progress:
    for number, candidates in enumerate(groups, start=1):
      first = candidates[0]
      logging.info("study %d of %d: %s, %s, seed %d", number, len(groups), first.task, first.method, first.seed)
      start_from = chosen.get((first.task, first.seed, "sft")) if first.method == "dpo" else None
      run = _choose(config, workdir, candidates, start_from, model, progress)
      _evaluate(config, workdir, run, "test", model)
      progress.finish(first, "test")
      chosen[(run.task, run.seed, run.method)] = run
  results = _results(config, workdir, chosen, model)
  results["environment"] = _environment(config, workdir, chosen, time.time() - started)
  files.write_json(workdir / "study.json", results)
  report.write_report(results, workdir / "report.md")
  shown = []
  if examples:
    found = _tasks(config, chosen)
    rows = {name: _splits(config, name, task)["test"] for name, task in found.items()}
    shown = recorded.read_examples(workdir, results, found, rows, examples)
  report_html.write_html(results, workdir / "report.html", recorded.read_curves(workdir, results), shown)
  return results


def _claim(config, workdir: pathlib.Path) -> None:
  """Makes the folder this study's, or raises UserError where it is another's."""
  workdir.mkdir(parents=True, exist_ok=True)
  path, wanted = workdir / "config.json", schema.as_dict(config)
  if path.exists():
    changed = checkpoints.differences(json.loads(path.read_text(encoding="utf-8")), wanted)
    if changed:
      raise UserError(f"{workdir} holds another study ({'; '.join(changed[:3])}); use another --workdir or set it back")
  files.write_json(path, wanted)


def _choose(config, workdir, candidates: list[Run], start_from: Run | None, model: Description, progress) -> Run:
  """Trains every candidate; the one with the best validation metrics, the first among equals."""
  best, best_value = candidates[0], -float("inf")
  for run in candidates:
    if run.method != "base":
      train(run_config(config, run, workdir, start_from), workdir / run.folder, model)
      progress.finish(run, "train")
    if len(candidates) > 1:
      task = plan.task_of(config, run.task)
      value = _selection_value(_evaluate(config, workdir, run, "validation", model), task)
      progress.finish(run, "validation")
      if value > best_value:
        best, best_value = run, value
  return best


def _selection_value(metrics: Mapping[str, Any], task: Task) -> float:
  """Mean of the primary metrics over a task's targets, higher is better."""
  signed = [
    metrics["targets"][name][target.primary] * (1 if higher_is_better(target.primary) else -1)
    for name, target in task.targets.items()
  ]
  return sum(signed) / len(signed)


def _evaluate(config, workdir, run: Run, split: str, model: Description) -> dict[str, Any]:
  """Metrics of a run on a split, computed once."""
  out = workdir / run.folder / "eval" / split
  if (out / "metrics.json").exists():
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
  checkpoint = config.model.path if run.method == "base" else str(workdir / run.folder)
  return evaluate(run_config(config, run, workdir), checkpoint, split, out, model)


def _results(config, workdir, chosen: Mapping[tuple[str, int, str], Run], model: Description) -> dict[str, Any]:
  """study.json without `environment`: a function of the runs' files alone."""
  answers, targets, training = {}, {}, []
  for (task_name, seed, method), run in chosen.items():
    lines = (workdir / run.folder / "eval" / "test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for name, target in plan.task_of(config, task_name).targets.items():
      targets[(task_name, name)] = target
      answers[(task_name, name, method, seed)] = {
        "ids": [row["id"] for row in rows],
        "groups": [row["group"] for row in rows],
        "references": [row["reference"][name] for row in rows],
        "predictions": [row["prediction"][name] for row in rows],
      }
      if isinstance(target, TextTarget):
        answers[(task_name, name, method, seed)]["scores"] = [row["scores"][name] for row in rows]
    if method != "base":
      steps = _steps(workdir / run.folder)
      training.append(
        {
          "task": task_name,
          "method": method,
          "seed": seed,
          "candidate": run.candidate,
          "steps": steps[-1]["step"],
          "tokens": sum(step["tokens"] for step in steps),
          "first_loss": steps[0]["loss"],
          "last_loss": steps[-1]["loss"],
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
    "protocol": _protocol(config, chosen),
  }


def _baselines(
  config, workdir, chosen: Mapping[tuple[str, int, str], Run], model: Description
) -> dict[compare.Key, compare.Answers]:
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
  limits = chat.limits_of(settings, model.config.max_positions, settings.train.row_length)
  encoder = chat.Encoder(model.tokenizer, model.config.vocab_size)
  rows = windowed(rows, task)
  groups, _ = chat.encode_all([task.example(row) for row in rows], encoder, limits)
  by_id = {row.id: row for row in rows}
  return [by_id[groups[index].id] for index in seen(settings, len(groups))]


def _tasks(config, chosen: Mapping[tuple[str, int, str], Run]) -> dict[str, Task]:
  """The tasks by the names that the config has for them."""
  return {name: plan.task_of(config, name) for name in dict.fromkeys(run.task for run in chosen.values())}


def _splits(config, name: str, task: Task) -> dict[str, list[Row]]:
  """The rows of a task as the study's own config limits them."""
  return task_rows(schema.with_overrides(config, {"task": name}), task)


def _protocol(config, chosen: Mapping[tuple[str, int, str], Run]) -> dict[str, Any]:
  found = dict(sorted(_tasks(config, chosen).items()))
  return {
    "model": config.model.path,
    "methods": list(config.study.methods),
    "tasks": list(found),
    "seeds": list(config.study.seeds),
    "rows": {
      name: {split: len(rows) for split, rows in _splits(config, name, task).items()} for name, task in found.items()
    },
    "selection": f"{_selection(config)}; the test rows are read once, by the chosen run of each method",
    "answers": {
      name: "the likeliest labels"
      if task.generation is None
      else f"generated greedily, up to {task.generation.max_new_tokens} tokens"
      for name, task in found.items()
    },
    "baselines": "fitted on the rows that the first seed's SFT run read, scored on the same test rows, not compared",
    "dpo": f"starts from {'the chosen SFT run' if 'sft' in config.study.methods else 'the model'}, "
    f"{'' if config.preference.loss in REFERENCE_FREE else 'which is its reference; '}loss {config.preference.loss}",
    "chosen": [
      {"task": run.task, "method": run.method, "seed": run.seed, "candidate": run.candidate, **dict(run.overrides)}
      for run in chosen.values()
    ],
    "intervals": "95 % over patients, by the jackknife: score intervals of values (BCa bootstrap where a metric has no "
    "bounds), t intervals of differences",
    "resamples": RESAMPLES,
    "margin": compare.MARGIN,
    "config": files.fingerprint(schema.as_dict(config)),
  }


def _selection(config) -> str:
  if all(len(candidates) == 1 for candidates in plan.plan(config)):
    return "one setting a method, so nothing was selected on validation"
  return "by the mean primary metric on validation where a method has several candidates"


def _environment(config, workdir, chosen: Mapping[tuple[str, int, str], Run], seconds: float) -> dict[str, Any]:
  """What may differ between two equal studies: machine, versions, times."""
  device = jax.devices()[0]
  data = {
    name: {split: items.fingerprint(rows) for split, rows in _splits(config, name, task).items()}
    for name, task in sorted(_tasks(config, chosen).items())
  }
  return {
    "medjax": medjax.__version__,
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    "devices": f"{jax.device_count()} x {device.device_kind}",
    "git_revision": _git_revision(),
    "data": data,
    "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "seconds_of_this_command": round(seconds, 1),
    "training_seconds": {
      f"{run.task} {run.method} seed{run.seed}": round(
        sum(step["tokens"] / step["tokens_per_second"] for step in _steps(workdir / run.folder)), 1
      )
      for run in chosen.values()
      if run.method != "base"
    },
  }


def _steps(folder: pathlib.Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _git_revision() -> str | None:
  """The revision of the checkout that medjax runs from, with `+changes` where it was changed; None elsewhere."""
  home = pathlib.Path(medjax.__file__).parent

  def git(*words: str) -> str | None:
    done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None

  if git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed below somebody else's checkout
    return None
  return f"{git('rev-parse', 'HEAD')}{'+changes' if git('status', '--porcelain', '--', '.') else ''}"
