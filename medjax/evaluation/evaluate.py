"""A model or checkpoint on the rows of a task: predictions, and metrics over them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from medjax import files, tasks
from medjax.data import chat, items
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation.answers import generate_rows
from medjax.evaluation.metrics import check_primary, score_texts, summarize, summarize_texts
from medjax.evaluation.score import Prediction, predict_rows
from medjax.models.pretrained import Description
from medjax.tasks.task import Task, TextTarget
from medjax.training import mesh
from medjax.training.policy import load_policy
from medjax.training.telemetry import progress

SCHEMA_VERSION = 1


def evaluate(
  config, checkpoint: str, split: str, out: pathlib.Path, model: Description | None = None
) -> dict[str, Any]:
  """Evaluates a split of `config.task`: by label likelihood, or by generation where the task says so.

  Args:
    config: a validated run config.
    checkpoint: a workdir or checkpoint of `medjax train`, or a model as `config.model.path` names one.
    split: `train`, `validation` or `test`.
    out: gets `predictions.jsonl` (`id`, `group`, `prediction`, `reference`, and `probabilities`, or `text` and
      `scores`) and `metrics.json`.
    model: a model that is loaded already, used where it is what `checkpoint` names or is built on.

  Returns:
    What `metrics.json` holds.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = tasks.get(config.task)
  _check(task)
  rows = items.task_rows(config, task).get(split, [])
  if not rows:
    raise UserError(f"task {task.name} has no {split} rows; give data with that split, or another --split")
  for name, target in task.targets.items():
    if isinstance(target, TextTarget):  # what cannot be scored is found before the model runs
      score_texts(task, name, rows, [None] * len(rows))
  predictions, lengths = _predictions(config, task, rows, checkpoint, f"eval {config.task} {split}", model)
  metrics = {
    "schema_version": SCHEMA_VERSION,
    "task": task.name,
    "split": split,
    "checkpoint": checkpoint,
    "n": len(rows),
    "prompts_cut": len(lengths.cut),
    "data": items.fingerprint(rows),
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
        probabilities = np.array([[p.probabilities[name][label] for label in target.labels] for p in predictions])
      metrics["targets"][name] = summarize([row.labels[name] for row in rows], chosen, target, probabilities)
  with files.write_aside(out / "predictions.jsonl") as file:
    for index, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
      more = {"scores": {name: of_rows[index] for name, of_rows in scores.items()}} if scores else {}
      file.write(_line(prediction, reference=dict(row.labels), **more))
  files.write_json(out / "metrics.json", metrics)
  return metrics


def predict(config, checkpoint: str, source: pathlib.Path, output: pathlib.Path) -> None:
  """Answers for the unlabelled rows of a file, as jsonl.

  Args:
    config: a validated run config; its task reads the rows.
    checkpoint: as in `evaluate`.
    source: the file of rows.
    output: the jsonl to write: `id`, `group`, `prediction`, and `probabilities`, or `text` where it was generated.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = tasks.get(config.task)
  _check(task)
  rows = items.rows_to_predict(config, task, str(source))
  predictions, _ = _predictions(config, task, rows, checkpoint, f"predict {config.task}")
  with files.write_aside(output) as file:
    file.writelines(map(_line, predictions))


def _check(task: Task) -> None:
  """Raises UserError where the task asks for what it does not say how to get, or is judged by no fitting metric."""
  for name, target in task.targets.items():
    if isinstance(target, TextTarget) and task.generation is None:
      raise UserError(f"task {task.name}: {name} is a text, and the task has no `generation`; say how it is generated")
    check_primary(target)


def _predictions(
  config, task: Task, rows: Sequence[Row], checkpoint: str, title: str, model: Description | None = None
) -> tuple[list[Prediction], chat.LengthReport]:
  mesh.check_one_process()
  devices = mesh.make_mesh(config.mesh.to_dict())
  if task.generation is not None:  # tokens come one at a time: devices that would share a row take rows of their own
    sizes = dict(devices.shape)
    devices = mesh.make_mesh({**sizes, "data": sizes["data"] * sizes["sequence"], "sequence": 1})
  with jax.set_mesh(devices):
    policy = load_policy(checkpoint, devices, model=model, check=lambda c: mesh.check_divides(c, devices))
    described, params = policy.described, policy.params
    attention = config.model.attention
    if attention == "splash":  # it is for the rows of SFT; here the answers of a row share its prompt
      attention = "pallas"
    graph = policy.graph(described.config, config.model.dtype, attention)
    encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
    limits = dataclasses.replace(chat.limits_of(config, described.config.max_positions), too_long="cut_prompt")
    with progress(len(rows), title) as bar:
      if task.generation is not None:
        return generate_rows(
          graph,
          params,
          described.config,
          described.eos_ids,
          config.model.dtype,
          task,
          rows,
          encoder,
          limits,
          config.evaluation.batch_size,
          mesh.batch_multiple(devices),
          bar.update,
        )
      return predict_rows(
        graph,
        params,
        task,
        rows,
        encoder,
        limits,
        config.train.row_length,
        mesh.batch_multiple(devices),
        mesh.batch_sharding(devices),
        bar.update,
      )


def _line(prediction: Prediction, **more: Any) -> str:
  values = {"id": prediction.id, "group": prediction.group, "prediction": prediction.labels, **more}
  how = {"probabilities": prediction.probabilities} if prediction.text is None else {"text": prediction.text}
  return json.dumps({**values, **how}, ensure_ascii=False) + "\n"
