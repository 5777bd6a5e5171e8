"""A model or checkpoint on the rows of a task: predictions, and metrics over them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax import files, processes, tasks
from medjax.data import chat, items
from medjax.data.examples import Row
from medjax.data.rows import rows_to_predict, task_rows
from medjax.errors import UserError
from medjax.evaluation.answering import answering, for_decoding
from medjax.evaluation.answers import Sampling, read, sample_rows
from medjax.evaluation.decide import as_text, chosen_weights, decide
from medjax.evaluation.metrics import check_primary, score_texts, summarize, summarize_separate, summarize_texts
from medjax.evaluation.score import Prediction, predict_rows
from medjax.evaluation.stops import check_stop
from medjax.models.pretrained import Description
from medjax.tasks.task import Target, Task, TextTarget
from medjax.training import mesh
from medjax.training.telemetry import progress

SCHEMA_VERSION = 1


def evaluate(
  config,
  checkpoint: str,
  split: str,
  out: pathlib.Path,
  model: Description | None = None,
  task: Task | None = None,
  stop: Sequence[str] = (),
) -> dict[str, Any]:
  """Evaluates a split of `config.task`: by label likelihood, or by generation where the task says so.

  Args:
    config: a validated run config.
    checkpoint: a workdir or checkpoint of `medjax train`, or a model as `config.model.path` names one.
    split: `train`, `validation` or `test`.
    out: gets `predictions.jsonl` (`id`, `group`, `prediction`, `reference`, and `probabilities`, or `text` and
      `scores`) and `metrics.json`; of several processes the first writes.
    model: a model that is loaded already, used where it is what `checkpoint` names or is built on.
    task: the config's task with changes, such as `shots` in its prompts; None for the task as it is.
    stop: texts that end a generated answer, which is cut before the first of them; `metrics.json` tells them.

  Returns:
    What `metrics.json` holds.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = task or tasks.of(config)
  _check(task)
  check_stop(stop)
  if stop and task.generation is None:
    raise UserError(f"stop is for generated answers, and those of task {task.name} are scored; leave it out")
  rows = task_rows(config, task).get(split, [])
  if not rows:
    raise UserError(f"task {task.name} has no {split} rows; give data with that split, or another --split")
  for name, target in task.targets.items():
    if isinstance(target, TextTarget):  # what cannot be scored is found before the model runs
      score_texts(task, name, rows, [None] * len(rows))
  choosing = _rows_to_choose_on(config, task)
  title = f"eval {task.name} {split}"
  predictions, lengths = _predictions(config, task, [*choosing, *rows], checkpoint, title, model, stop)
  predictions, decisions = _decided(task, choosing, predictions)
  metrics = {
    "schema_version": SCHEMA_VERSION,
    "task": task.name,
    "split": split,
    "checkpoint": checkpoint,
    "n": len(rows),
    "prompts_cut": len(lengths.cut),
    **({"stop": list(stop)} if stop else {}),
    "data": items.fingerprint(rows),
    **({"decisions": decisions} if decisions else {}),
    "targets": {},
  }
  scores: dict[str, list[dict[str, float]]] = {}
  for name, target in task.targets.items():
    chosen = [prediction.labels[name] for prediction in predictions]
    if isinstance(target, TextTarget):
      scores[name] = score_texts(task, name, rows, chosen)
      metrics["targets"][name] = summarize_texts(scores[name], chosen.count(None))
    else:
      probabilities = None
      if task.generation is None:
        probabilities = _matrix(predictions, name, target)
      metrics["targets"][name] = summarize([row.labels[name] for row in rows], chosen, target, probabilities)
  if task.separate:
    metrics["together"] = summarize_separate(task, rows, [prediction.labels for prediction in predictions])
  if not processes.is_first():
    return metrics
  with files.write_aside(out / "predictions.jsonl", private=True) as file:
    for index, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
      more = {"scores": {name: of_rows[index] for name, of_rows in scores.items()}} if scores else {}
      file.write(_line(prediction, reference=dict(row.labels), **more))
  files.write_json(out / "metrics.json", metrics)
  return metrics


def predict(config, checkpoint: str, source: pathlib.Path, output: pathlib.Path) -> None:
  """Answers for the unlabelled rows of a file, as jsonl.

  Args:
    config: a validated run config; its task reads the rows. Where the task decides by thresholds they are chosen on
      the validation rows of `data.source`.
    checkpoint: as in `evaluate`.
    source: the file of rows.
    output: the jsonl to write: `id`, `group`, `prediction`, and `probabilities`, or `text` where it was generated.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = tasks.of(config)
  _check(task)
  rows = rows_to_predict(config, task, str(source))
  choosing = _rows_to_choose_on(config, task)
  predictions, _ = _predictions(config, task, [*choosing, *rows], checkpoint, f"predict {task.name}")
  predictions, _ = _decided(task, choosing, predictions)
  if not processes.is_first():
    return
  with files.write_aside(output, private=True) as file:
    file.writelines(map(_line, predictions))


def _check(task: Task) -> None:
  """Raises UserError where the task asks for what it does not say how to get, or is judged by no fitting metric."""
  for name, target in task.targets.items():
    if isinstance(target, TextTarget) and task.generation is None:
      raise UserError(f"task {task.name}: {name} is a text, and the task has no `generation`; say how it is generated")
    check_primary(target)


def _rows_to_choose_on(config, task: Task) -> list[Row]:
  """The validation rows on which thresholds are chosen; none where the task has no thresholds."""
  if all(isinstance(target, TextTarget) or target.decide != "thresholds" for target in task.targets.values()):
    return []
  found = task_rows(config, task)["validation"]
  if not found:
    raise UserError(f"task {task.name} decides by thresholds, and has no validation rows to choose them on")
  return found


def _decided(
  task: Task, choosing: Sequence[Row], predictions: Sequence[Prediction]
) -> tuple[list[Prediction], dict[str, Any]]:
  """The predictions behind those of the rows to choose on, decided as their targets say; and the thresholds."""
  first, rest = predictions[: len(choosing)], list(predictions[len(choosing) :])
  decisions = {}
  for name, target in task.targets.items():
    if isinstance(target, TextTarget) or task.generation is not None or target.decide == "likeliest":
      continue
    weights = None
    if target.decide == "thresholds":
      weights = chosen_weights(_matrix(first, name, target), [row.labels[name] for row in choosing], target)
      decisions[name] = {"chosen_on": "validation", "rows": len(choosing), **as_text(target, weights)}
    labels = decide(_matrix(rest, name, target), target, weights)
    rest = [
      dataclasses.replace(prediction, labels={**prediction.labels, name: label})
      for prediction, label in zip(rest, labels, strict=True)
    ]
  return rest, decisions


def _matrix(predictions: Sequence[Prediction], name: str, target: Target) -> np.ndarray:
  """[N, K] probabilities of a target's labels."""
  return np.array([[p.probabilities[name][label] for label in target.labels] for p in predictions])


def _predictions(
  config,
  task: Task,
  rows: Sequence[Row],
  checkpoint: str,
  title: str,
  model: Description | None = None,
  stop: Sequence[str] = (),
) -> tuple[list[Prediction], chat.LengthReport]:
  decodes = task.generation is not None
  with answering(config, checkpoint, decodes, model) as ready, progress(len(rows), title) as bar:
    if decodes:
      answers, lengths = sample_rows(*for_decoding(config, ready, task, rows), bar.update, Sampling(stop=tuple(stop)))
      return [read(task, row, answer.text) for row, (answer,) in zip(rows, answers, strict=True)], lengths
    return predict_rows(
      ready.graph,
      ready.policy.params,
      task,
      rows,
      ready.encoder,
      ready.limits,
      config.train.row_length,
      mesh.batch_multiple(ready.devices),
      mesh.batch_sharding(ready.devices),
      bar.update,
    )


def _line(prediction: Prediction, **more: Any) -> str:
  values = {"id": prediction.id, "group": prediction.group, "prediction": prediction.labels, **more}
  how = {"probabilities": prediction.probabilities} if prediction.text is None else {"text": prediction.text}
  return json.dumps({**values, **how}, ensure_ascii=False) + "\n"
