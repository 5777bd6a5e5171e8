"""The prior of a model over the labels of a task, and label probabilities without it.

A model that has not been trained for a task often prefers one of its labels whatever the text says, by how common the
label's words are and where they stand in the prompt. Its prior p(y) is estimated, and p(y | x) / p(y), normalised,
takes the place of p(y | x): batch calibration (Zhou et al. 2024, arXiv 2309.17249), contextual calibration (Zhao et al.
2021, arXiv 2102.09690; with its W = diag(p)^-1 and b = 0).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation.decide import chosen_weights, decide
from medjax.evaluation.metrics import get_metric
from medjax.evaluation.score import Scored
from medjax.tasks.task import Target, Task

CONTENT_FREE = ("N/A", "[MASK]", "")  # those of Zhao et al. 2021
_RENDERING = (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def correct(
  task: Task, mode: str, rows: Scored, validation: Scored, free: Scored
) -> tuple[Scored, Scored, dict[str, Any]]:
  """Divides the probabilities of each target's labels by the model's prior.

  Args:
    task: its labels are scored.
    mode: where the prior is from. `batch`: the mean probabilities over the rows themselves. `content_free`: the mean
      over prompts without content. `validation`: the mean over the validation rows; it is used for those targets only
      whose primary metric it makes better on these rows, so that no evaluated row bears on another.
    rows: what is evaluated.
    validation: rows that thresholds and temperatures are chosen on, corrected in the same way (in `batch` by their own
      mean); empty where nothing is.
    free: the rows of `content_free_rows`; empty in the other modes.

  Returns:
    The rows and the validation rows, corrected, and for metrics.json `mode`, `rows` (that the prior is the mean of) and
    `targets`: for each `prior` (label -> probability) and `used`; of `validation` also `metric`, and its value on the
    validation rows `without` and `with` the correction.

  Raises:
    UserError: `batch` of a single row, whose labels would all become equally likely.
  """
  estimated_on = {"batch": rows, "content_free": free, "validation": validation}[mode]
  if mode == "batch" and len(rows.rows) < 2:
    raise UserError("--prior=batch needs more rows than one; give more, or use --prior=validation")
  record: dict[str, Any] = {"mode": mode, "rows": len(estimated_on.rows), "targets": {}}
  for name, target in task.targets.items():
    prior_K = _prior_of(estimated_on, task, name, target)
    own_K = _prior_of(validation, task, name, target) if mode == "batch" and validation.rows else prior_K
    found: dict[str, Any] = {"prior": dict(zip(target.labels, prior_K.tolist(), strict=True)), "used": True}
    validated = None
    if validation.rows:
      validated = corrected(validation.matrix(name, target), own_K)
    if mode == "validation":
      references = [row.labels[name] for row in validation.rows]
      values = [_decided_value(validation.matrix(name, target), references, target)]
      if target.decide == "thresholds" and len(target.labels) == 2:
        values *= 2  # each threshold before stands for one behind, and the search for the best is slow
      else:
        values.append(_decided_value(validated, references, target))
      better = values[1] > values[0] if get_metric(target.primary, target).higher_is_better else values[1] < values[0]
      found |= {"used": bool(better), "metric": target.primary, "without": values[0], "with": values[1]}
    record["targets"][name] = found
    if found["used"]:
      rows = rows.replaced(name, target, corrected(rows.matrix(name, target), prior_K))
      validation = validation if validated is None else validation.replaced(name, target, validated)
  return rows, validation, record


def label_prior(probabilities_NK: np.ndarray, allowed_NK: np.ndarray) -> np.ndarray:
  """The mean probability [K] of each label over the rows that may have it, normalised to a sum of 1.

  Args:
    probabilities_NK: rows sum to 1.
    allowed_NK: whether a row may have a label. One that no row may have gets the mean of the others, and so is neither
      favoured nor held back.
  """
  rows_K = allowed_NK.sum(0)
  mean_K = (probabilities_NK * allowed_NK).sum(0) / np.maximum(rows_K, 1)
  mean_K = np.where(rows_K > 0, mean_K, mean_K[rows_K > 0].mean())
  return mean_K / mean_K.sum()


def corrected(probabilities_NK: np.ndarray, prior_K: np.ndarray) -> np.ndarray:
  """Probabilities [N, K] divided by the prior, each row normalised; a label of probability 0 keeps that."""
  with np.errstate(divide="ignore"):
    log_NK = np.log(probabilities_NK) - np.log(np.maximum(prior_K, np.finfo(np.float64).tiny))
  return special.softmax(log_NK, axis=1)


def content_free_rows(task: Task, rows: Sequence[Row]) -> list[Row]:
  """Rows whose prompts are the task's, with `CONTENT_FREE` in the place of all that a row says.

  Values of the row that may have most labels are replaced, those in lists and mappings too; missing ones stay missing.
  A text with which the task makes no prompt, or no labels to choose from, is left out, and so is one whose prompt is
  that of another.

  Raises:
    UserError: no text makes a prompt, such as where a prompt needs numbers.
  """

  def labels(fields: Mapping[str, Any], name: str) -> int:
    return len(task.targets[name].labels if task.allowed is None else task.allowed(fields, name))

  template = max(rows, key=lambda row: sum(labels(row.fields, name) for name in task.targets))
  found: dict[str, Row] = {}
  for text in CONTENT_FREE:
    fields = _emptied(template.fields, text)
    try:
      prompt, answerable = task.render(fields), all(labels(fields, name) for name in task.targets)
    except _RENDERING:
      continue
    if answerable:
      found.setdefault(prompt, Row(f"content-free {len(found)}", "content-free", fields, {}))
  if not found:
    raise UserError(
      f"--prior=content_free: the prompt of task {task.name} cannot be built without a row's values; use "
      "--prior=validation or --prior=batch"
    )
  return list(found.values())


def _emptied(value: Any, text: str) -> Any:
  """The value with every text and number in it replaced; None stays."""
  if isinstance(value, Mapping):
    return {key: _emptied(inner, text) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_emptied(inner, text) for inner in value]
  return None if value is None else text


def _prior_of(scored: Scored, task: Task, name: str, target: Target) -> np.ndarray:
  allowed = [target.labels if task.allowed is None else task.allowed(row.fields, name) for row in scored.rows]
  allowed_NK = np.array([[label in of_row for label in target.labels] for of_row in allowed])
  return label_prior(scored.matrix(name, target), allowed_NK)


def _decided_value(probabilities_NK: np.ndarray, references: Sequence[str], target: Target) -> float:
  """The target's primary metric of the labels that it decides on, thresholds chosen on the same rows."""
  weights = chosen_weights(probabilities_NK, references, target) if target.decide == "thresholds" else None
  labels = decide(probabilities_NK, target, weights)
  return float(get_metric(target.primary, target).function(references, labels, target))
