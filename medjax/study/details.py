"""What a study tells beside its comparisons: data cards, costs, calibration, subgroups, answers that cannot be read."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from medjax import config as schema
from medjax.data.rows import labelled_records
from medjax.evaluation import results
from medjax.models.pretrained import Description
from medjax.study import calibration, cost, data_card, subgroups
from medjax.study.plan import Run, task_of
from medjax.tasks.task import Target, TextTarget


def check_columns(config, names: Iterable[str], columns: Iterable[subgroups.Column]) -> None:
  """Raises UserError where subgroups cannot be made of the test rows, before anything is trained."""
  columns = tuple(columns)
  if columns:
    subgroups.levels(columns, _values(config, names))


def details(
  config,
  workdir: pathlib.Path,
  chosen: Iterable[Run],
  model: Description,
  columns: Iterable[subgroups.Column] = (),
  resamples: int = 2000,
) -> dict[str, Any]:
  """What `study.json` holds beside results and comparisons; a function of config, data and the runs' files alone.

  Args:
    config: the study's.
    workdir: its folder.
    chosen: the runs that were tested.
    model: the base model.
    columns: to group test rows by.
    resamples: of the intervals.

  Returns:
    `data` (task -> data card), `cost`, `calibration`, `unparseable` and, where columns are given, `subgroups`.

  Raises:
    UserError: the data cannot be read any more, or a column cannot make subgroups.
  """
  chosen, columns = list(chosen), tuple(columns)
  tasks = list(dict.fromkeys(run.task for run in chosen))
  answers, targets, reliable, unread = {}, {}, [], []
  for run in chosen:
    lines = results.read_predictions(workdir / run.folder / "eval" / "test")
    for name, target in task_of(config, run.task).targets.items():
      where = {"task": run.task, "target": name, "method": run.method, "seed": run.seed}
      targets[run.task, name] = target
      own = answers[run.task, name, run.method, run.seed] = answers_of(lines, name, target)
      lost = sum(answer is None or answer == "" for answer in own["predictions"])
      unread.append({**where, "unparseable": lost, "n": len(lines)})
      if isinstance(target, Target) and lines and "probabilities" in lines[0]:
        probabilities_NK = np.array([[line["probabilities"][name][label] for label in target.labels] for line in lines])
        found = calibration.reliability(own["references"], probabilities_NK, own["groups"], target, resamples)
        reliable.append({**where, **found})
  out = {
    "data": {name: data_card.card(schema.with_overrides(config, {"task": name}), name) for name in tasks},
    "cost": cost.training_costs(workdir, chosen, model),
    "calibration": reliable,
    "unparseable": unread,
  }
  if columns:
    found = subgroups.levels(columns, _values(config, tasks))
    out["subgroups"] = subgroups.describe(answers, targets, found, resamples)
  return out


def answers_of(lines: Iterable[Mapping[str, Any]], name: str, target: Target | TextTarget) -> dict[str, list]:
  """The answers for one target out of the lines of predictions.jsonl, as `compare.compare` takes them."""
  lines = list(lines)
  found = {
    "ids": [line["id"] for line in lines],
    "groups": [line["group"] for line in lines],
    "references": [line["reference"][name] for line in lines],
    "predictions": [line["prediction"][name] for line in lines],
  }
  if isinstance(target, TextTarget):
    found["scores"] = [line["scores"][name] for line in lines]
  return found


def _values(config, names: Iterable[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Task -> id -> columns of its test rows, those too that no prompt shows."""
  out = {}
  for name in names:
    found = labelled_records(schema.with_overrides(config, {"task": name}), task_of(config, name))
    out[name] = {row.id: found.values[row.id] for row in found.splits["test"]}
  return out
