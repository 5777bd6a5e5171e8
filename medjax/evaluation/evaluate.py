"""A model or checkpoint on the rows of a task: predictions, and metrics over them."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from medjax import files, processes, tasks
from medjax.data import chat, items
from medjax.data.examples import Row
from medjax.data.rows import rows_to_predict, task_rows
from medjax.errors import UserError
from medjax.evaluation import calibrate, priors, results
from medjax.evaluation.answering import answering, for_decoding
from medjax.evaluation.answers import Sampling, read, sample_rows
from medjax.evaluation.decide import as_text, chosen_weights, decide
from medjax.evaluation.metrics import check_primary, score_texts, summarize, summarize_separate, summarize_texts
from medjax.evaluation.options import Options
from medjax.evaluation.score import Prediction, Scored, predict_rows
from medjax.evaluation.stops import check_stop
from medjax.models.pretrained import Description
from medjax.tasks.task import Task, TextTarget
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
  options: Options = Options(),
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
    options: how label probabilities are corrected before labels are chosen.
    stop: texts that end a generated answer, which is cut before the first of them; `metrics.json` tells them.

  Returns:
    What `metrics.json` holds.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = task or tasks.of(config)
  _check(task, options)
  check_stop(stop)
  if stop and task.generation is None:
    raise UserError(f"stop is for generated answers, and those of task {task.name} are scored; leave it out")
  rows = task_rows(config, task).get(split, [])
  if not rows:
    raise UserError(f"task {task.name} has no {split} rows; give data with that split, or another --split")
  for name, target in task.targets.items():
    if isinstance(target, TextTarget):  # what cannot be scored is found before the model runs
      score_texts(task, name, rows, [None] * len(rows))
  title = f"eval {task.name} {split}"
  predictions, cut, how = _answered(config, task, rows, checkpoint, options, title, model, stop)
  metrics = {
    "schema_version": SCHEMA_VERSION,
    "task": task.name,
    "split": split,
    "checkpoint": checkpoint,
    "n": len(rows),
    "prompts_cut": cut,
    "data": items.fingerprint(rows),
    **how,
    "targets": {},
  }
  scores: dict[str, list[dict[str, float]]] = {}
  probabilities = None
  if task.generation is None:
    scored = Scored(rows, predictions)
    probabilities = {name: scored.matrix(name, target) for name, target in task.targets.items()}
  for name, target in task.targets.items():
    chosen = [prediction.labels[name] for prediction in predictions]
    if isinstance(target, TextTarget):
      scores[name] = score_texts(task, name, rows, chosen)
      metrics["targets"][name] = summarize_texts(scores[name], chosen.count(None))
    else:
      own = None if probabilities is None else probabilities[name]
      metrics["targets"][name] = summarize([row.labels[name] for row in rows], chosen, target, own)
  if task.separate:
    labels = [prediction.labels for prediction in predictions]
    metrics["together"] = summarize_separate(task, rows, labels, probabilities)
  if not processes.is_first():
    return metrics

  def line(index: int) -> str:
    more = {"scores": {name: of_rows[index] for name, of_rows in scores.items()}} if scores else {}
    return _line(predictions[index], reference=dict(rows[index].labels), **more)

  return results.write(out, map(line, range(len(rows))), metrics)


def predict(config, checkpoint: str, source: pathlib.Path, output: pathlib.Path, options: Options = Options()) -> None:
  """Answers for the unlabelled rows of a file, as jsonl.

  Args:
    config: a validated run config; its task reads the rows. Where the task decides by thresholds, or the options need
      validation rows, they are those of `data.source`.
    checkpoint: as in `evaluate`.
    source: the file of rows.
    options: as in `evaluate`; the prior `batch` is that of these rows.
    output: the jsonl to write: `id`, `group`, `prediction`, and `probabilities`, or `text` where it was generated.

  Raises:
    UserError: config, checkpoint or data cannot be used.
  """
  task = tasks.of(config)
  _check(task, options)
  rows = rows_to_predict(config, task, str(source))
  predictions, *_ = _answered(config, task, rows, checkpoint, options, f"predict {task.name}")
  if not processes.is_first():
    return
  with files.write_aside(output, private=True) as file:
    file.writelines(map(_line, predictions))


def _check(task: Task, options: Options) -> None:
  """Raises UserError where the task asks for what it does not say how to get, or is judged by no fitting metric."""
  options.check(task)
  for name, target in task.targets.items():
    if isinstance(target, TextTarget) and task.generation is None:
      raise UserError(f"task {task.name}: {name} is a text, and the task has no `generation`; say how it is generated")
    check_primary(target)


def _rows_to_choose_on(config, task: Task, options: Options) -> list[Row]:
  """The validation rows on which thresholds, temperatures and the use of a prior are chosen; none where nothing is."""
  if task.generation is not None:
    return []
  thresholds = any(target.decide == "thresholds" for target in task.targets.values())
  needs = [what for what in options.asked() if what in ("--prior=validation", "--calibrate=temperature")]
  if not thresholds and not needs:
    return []
  found = task_rows(config, task)["validation"]
  if not found:
    if needs:
      raise UserError(f"{needs[0]} needs validation rows, and task {task.name} has none; give some, or leave it out")
    raise UserError(f"task {task.name} decides by thresholds, and has no validation rows to choose them on")
  return found


def _answered(
  config,
  task: Task,
  rows: Sequence[Row],
  checkpoint: str,
  options: Options,
  title: str,
  model: Description | None = None,
  stop: Sequence[str] = (),
) -> tuple[Sequence[Prediction], int, dict[str, Any]]:
  """Predictions, how many of the rows' prompts were cut, and what metrics.json says of how labels came about."""
  choosing = _rows_to_choose_on(config, task, options)
  free = priors.content_free_rows(task, rows) if options.prior == "content_free" else []
  beside = len(choosing) + len(free)
  predictions, lengths = _predictions(config, task, [*choosing, *free, *rows], checkpoint, title, model, stop)
  if task.generation is not None:
    return predictions, len(lengths.cut), {"stop": list(stop)} if stop else {}
  own = {piece.id for row in rows for piece in task.windows(row)}
  validation = Scored(choosing, predictions[: len(choosing)])
  scored, how = Scored(rows, predictions[beside:]), {}
  if options.prior != "none":
    without = Scored(free, predictions[len(choosing) : beside])
    scored, validation, how["prior"] = priors.correct(task, options.prior, scored, validation, without)
  if options.calibrate == "temperature":
    scored, validation, how["calibrate"] = calibrate.temper(task, scored, validation)
  scored, decisions = _decided(task, validation, scored)
  how |= {"decisions": decisions} if decisions else {}
  return scored.predictions, sum(prompt in own for prompt in lengths.cut), how


def _decided(task: Task, validation: Scored, rows: Scored) -> tuple[Scored, dict[str, Any]]:
  """The rows decided as their targets say, and the thresholds that the validation rows gave."""
  decisions = {}
  for name, target in task.targets.items():
    if target.decide == "likeliest":
      continue
    weights = None
    if target.decide == "thresholds":
      references = [row.labels[name] for row in validation.rows]
      weights = chosen_weights(validation.matrix(name, target), references, target)
      decisions[name] = {"chosen_on": "validation", "rows": len(references), **as_text(target, weights)}
    rows = rows.relabelled(name, decide(rows.matrix(name, target), target, weights))
  return rows, decisions


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
