"""The study: every method trained on the same rows, chosen on validation, tested once on the same items.

A study is a folder. Each run in it is an ordinary workdir of `medjax train`, each evaluation an ordinary
`medjax eval`; what is there already is not done again, so that an interrupted study goes on where it was.
"""

import dataclasses
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
from medjax import files, tasks
from medjax.data import items
from medjax.errors import UserError
from medjax.evaluation.evaluate import evaluate
from medjax.evaluation.metrics import METRICS
from medjax.models.pretrained import Pretrained, load_pretrained
from medjax.study import compare, report
from medjax.training import checkpoints
from medjax.training.loop import train

SCHEMA_VERSION = 1
RESAMPLES = 2000
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "scipy", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the study: a task, a seed, a method and one candidate of its hyperparameters."""

  task: str
  seed: int
  method: str
  candidate: int
  overrides: tuple[tuple[str, Any], ...]

  @property
  def folder(self) -> pathlib.Path:
    """Where in the study its workdir is."""
    return pathlib.Path("runs", self.task, f"seed{self.seed}", self.method, f"candidate{self.candidate}")


def plan(config) -> list[list[Run]]:
  """All runs in the order they are made; the runs of an inner list are candidates of which one is chosen.

  `study.grid` names the candidates of a method, or of `task/method`, which wins; without them there is one, the
  config as it is.
  """
  groups = []
  grid = schema.as_dict(config)["study"]["grid"]
  for task in config.study.tasks or (config.task,):
    tasks.get(task)
    for seed in config.study.seeds:
      for method in config.study.methods:
        candidates = grid.get(f"{task}/{method}", grid.get(method)) or [{}]
        if method == "base":
          candidates = [{}]
        groups.append([Run(task, seed, method, i, tuple(sorted(c.items()))) for i, c in enumerate(candidates)])
  return groups


def study(config, workdir: pathlib.Path) -> dict[str, Any]:
  """Runs the study, or what is missing of it, and writes `study.json` and `report.md`.

  Args:
    config: a validated run config; `study` says what is compared.
    workdir: the study's folder.

  Returns:
    What `study.json` holds (schema in docs/architecture.md).

  Raises:
    UserError: the config cannot be used, or the folder is of another study.
    RunError: a run failed.
    Stopped: SIGTERM came during training; the same command goes on.
  """
  started = time.time()
  _claim(config, workdir)
  groups = plan(config)
  model = load_pretrained(config.model.path)
  chosen: dict[tuple[str, int, str], Run] = {}
  for number, candidates in enumerate(groups, start=1):
    first = candidates[0]
    logging.info("study %d of %d: %s, %s, seed %d", number, len(groups), first.task, first.method, first.seed)
    start_from = chosen.get((first.task, first.seed, "sft")) if first.method == "dpo" else None
    run = _choose(config, workdir, candidates, start_from, model)
    _evaluate(config, workdir, run, "test", model)
    chosen[(run.task, run.seed, run.method)] = run
  results = _results(config, workdir, chosen)
  results["environment"] = _environment(config, workdir, chosen, time.time() - started)
  files.write_json(workdir / "study.json", results)
  report.write_report(results, workdir / "report.md")
  return results


def run_config(config, run: Run, workdir: pathlib.Path, start_from: Run | None = None):
  """The config of one run: the study's, with the run's task, method, seed and overrides."""
  changes = dict(run.overrides) | {"task": run.task, "method": run.method, "seed": run.seed}
  if start_from is not None:
    changes["train.init_from"] = str(workdir / start_from.folder)
  changed = schema.with_overrides(config, changes)
  schema.validate(changed)
  return changed


def _claim(config, workdir: pathlib.Path) -> None:
  """Makes the folder this study's, or raises UserError where it is another's."""
  workdir.mkdir(parents=True, exist_ok=True)
  path, wanted = workdir / "config.json", schema.as_dict(config)
  if path.exists():
    changed = checkpoints.differences(json.loads(path.read_text(encoding="utf-8")), wanted)
    if changed:
      raise UserError(f"{workdir} holds another study ({'; '.join(changed[:3])}); use another --workdir or set it back")
  files.write_json(path, wanted)


def _choose(config, workdir, candidates: list[Run], start_from: Run | None, model: Pretrained) -> Run:
  """Trains every candidate; the one with the best validation metrics, the first among equals."""
  best, best_value = candidates[0], -float("inf")
  for run in candidates:
    if run.method != "base":
      train(run_config(config, run, workdir, start_from), workdir / run.folder, model)
    if len(candidates) > 1:
      value = _selection_value(_evaluate(config, workdir, run, "validation", model))
      if value > best_value:
        best, best_value = run, value
  return best


def _selection_value(metrics: Mapping[str, Any]) -> float:
  """Mean of the primary metrics over a task's targets, higher is better."""
  targets = tasks.get(metrics["task"]).targets
  signed = [
    metrics["targets"][name][target.primary] * (1 if METRICS[target.primary].higher_is_better else -1)
    for name, target in targets.items()
  ]
  return sum(signed) / len(signed)


def _evaluate(config, workdir, run: Run, split: str, model: Pretrained) -> dict[str, Any]:
  """Metrics of a run on a split, computed once."""
  out = workdir / run.folder / "eval" / split
  if (out / "metrics.json").exists():
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
  if run.method == "base":
    return evaluate(run_config(config, run, workdir), config.model.path, split, out, model)
  return evaluate(run_config(config, run, workdir), str(workdir / run.folder), split, out)


def _results(config, workdir, chosen: Mapping[tuple[str, int, str], Run]) -> dict[str, Any]:
  """study.json without `environment`: a function of the runs' files alone."""
  answers, targets, training = {}, {}, []
  for (task_name, seed, method), run in chosen.items():
    lines = (workdir / run.folder / "eval" / "test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for name, target in tasks.get(task_name).targets.items():
      targets[(task_name, name)] = target
      answers[(task_name, name, method, seed)] = {
        "ids": [row["id"] for row in rows],
        "groups": [row["group"] for row in rows],
        "references": [row["reference"][name] for row in rows],
        "predictions": [row["prediction"][name] for row in rows],
      }
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
    answers, targets, tuple(config.study.methods), resamples=RESAMPLES
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


def _protocol(config, chosen: Mapping[tuple[str, int, str], Run]) -> dict[str, Any]:
  return {
    "model": config.model.path,
    "methods": list(config.study.methods),
    "tasks": sorted({run.task for run in chosen.values()}),
    "seeds": list(config.study.seeds),
    "rows": {split: config.data[f"{split}_rows"] or "all" for split in schema.SPLITS},
    "selection": "by the mean primary metric on validation where a method has several candidates; "
    "the test rows are read once, by the chosen run of each method",
    "dpo": f"starts from {'the chosen SFT run' if 'sft' in config.study.methods else 'the model'}, "
    f"which is its reference; loss {config.preference.loss}",
    "chosen": [
      {"task": run.task, "method": run.method, "seed": run.seed, "candidate": run.candidate, **dict(run.overrides)}
      for run in chosen.values()
    ],
    "intervals": "95 % percentile bootstrap over patients",
    "resamples": RESAMPLES,
    "margin": compare.MARGIN,
    "config": files.fingerprint(schema.as_dict(config)),
  }


def _environment(config, workdir, chosen: Mapping[tuple[str, int, str], Run], seconds: float) -> dict[str, Any]:
  """What may differ between two equal studies: machine, versions, times."""
  device = jax.devices()[0]
  data = {
    task: {
      split: items.fingerprint(rows)
      for split, rows in items.task_rows(schema.with_overrides(config, {"task": task}), tasks.get(task)).items()
    }
    for task in sorted({run.task for run in chosen.values()})
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
  """The revision of the checkout medjax runs from, None where it is installed from elsewhere."""
  home = pathlib.Path(medjax.__file__).parent
  done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=False)
  return done.stdout.strip() or None if done.returncode == 0 else None
