"""What the runs of a study left in its folder and study.json does not hold: training curves, answers to show."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from medjax import files
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation import results
from medjax.study.plan import Run
from medjax.tasks.task import Task
from medjax.training import curve


def read_curves(workdir: str | os.PathLike, study: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The training curves of a study's runs.

  Args:
    workdir: the study's folder, with `runs/TASK/seedN/METHOD/candidateN/`.
    study: what `study.json` holds; `training` names the chosen runs.

  Returns:
    For each run `task, method, seed`, `steps` (the lines of its metrics.jsonl) and `config`.

  Raises:
    UserError: a file of a run is not there.
  """
  return [
    {
      **{key: row[key] for key in ("task", "method", "seed")},
      "steps": _curve(_folder(workdir, row)),
      "config": files.read_sealed(_folder(workdir, row) / "config.json", "train the run again"),
    }
    for row in study.get("training", [])
  ]


def read_examples(
  workdir: str | os.PathLike,
  study: Mapping[str, Any],
  tasks: Mapping[str, Task],
  rows: Mapping[str, Sequence[Row]],
  count: int,
) -> list[dict[str, Any]]:
  """Test rows with every method's answer, by the runs of the first seed. Clinical text: only for who asked for it.

  Args:
    workdir: the study's folder.
    study: what `study.json` holds; `protocol.chosen` names the runs.
    tasks: by the name that the study has for them.
    rows: task -> its test rows.
    count: how many of each task to show, the first ones.

  Returns:
    For each row `task, id, prompt` (the user's message), `reference` and `answers` (method -> text).

  Raises:
    UserError: a file of a run is not there, or a run has no answer for a row.
  """
  first_seed = study["protocol"]["seeds"][0]
  examples = []
  for name, of_task in rows.items():
    task, answers = tasks[name], {}
    for run in study["protocol"]["chosen"]:
      if (run["task"], run["seed"]) == (name, first_seed):
        lines = results.read_predictions(_folder(workdir, run) / "eval" / "test")
        answers[run["method"]] = {line["id"]: _answer(line) for line in lines}
    for row in of_task[:count]:
      for method, found in answers.items():
        if row.id not in found:
          raise UserError(f"{name}: {method} has no answer for row {row.id}; give the test rows that the study had")
      examples.append(
        {
          "task": name,
          "id": row.id,
          "prompt": task.render(row.fields),
          "reference": task.completion(row.labels),
          "answers": {method: found[row.id] for method, found in answers.items()},
        }
      )
  return examples


def _answer(line: Mapping[str, Any]) -> str:
  """The generated text, or the likeliest labels."""
  return line["text"] if "text" in line else ", ".join(map(str, line["prediction"].values()))


def _curve(folder: pathlib.Path) -> list[dict[str, Any]]:
  lines = curve.read(folder)
  if not lines:
    raise UserError(f"{folder / curve.FILE} is not there; run the study again to finish it")
  return lines


def _folder(workdir: str | os.PathLike, run: Mapping[str, Any]) -> pathlib.Path:
  path = pathlib.Path(workdir) / Run(run["task"], run["seed"], run["method"], run["candidate"], ()).folder
  if not path.exists():
    raise UserError(f"{path} is not there; run the study again to finish it")
  return path
