"""Label likelihood scoring: what probability a model gives to each label of each target of a task."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from medjax.data.chat import Encoder, LengthReport, Limits, encode_all
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.models.decoder import Params
from medjax.objectives.scoring import score
from medjax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a model says of one row.

  Attributes:
    id: the row's.
    group: the row's.
    labels: label or text for each target; None where a generated answer does not give it.
    probabilities: of every label of each target; None where the answer was generated.
    text: the generated answer as it came; None where labels were scored.
  """

  id: str
  group: str
  labels: dict[str, str | None]
  probabilities: dict[str, dict[str, float]] | None = None
  text: str | None = None


def predict_rows(
  graph: nnx.GraphDef,
  params: Params,
  task: Task,
  rows: Sequence[Row],
  encoder: Encoder,
  limits: Limits,
  row_length: int,
  batch_rows: int,
  sharding: jax.sharding.Sharding | None = None,
  advance: Callable[[int], None] = lambda rows: None,
) -> tuple[list[Prediction], LengthReport]:
  """Scores every answer of the task after each row's prompt; the prompt is computed once for all answers.

  The probability of an answer is exp(logp) over the sum for all answers of the task (every combination of labels);
  that of a label is the sum over the answers that have it. The predicted label is the most probable one.

  Args:
    graph: the decoder.
    params: its parameters.
    task: gives prompts and answers.
    rows: what to predict; labels are not looked at.
    encoder: texts to token segments.
    limits: how long prompts may be; they are cut, never dropped.
    row_length: least tokens of a packed row.
    batch_rows: packed rows computed at once.
    sharding: where a batch lives.
    advance: told how many rows have just been scored.

  Returns:
    A prediction for each row, and how many prompts were cut.

  Raises:
    UserError: a row for which no prompt fits beside the answers.
  """
  answers = task.answers()
  texts = [task.completion(answer) for answer in answers]
  if len(set(texts)) != len(texts):
    raise UserError(f"task {task.name}: two answers have the same text; change its answer format or labels")
  groups, report = encode_all([(row.id, task.prompt(row), texts) for row in rows], encoder, limits)
  if report.dropped:
    raise UserError(
      f"row {report.dropped[0]} does not fit beside its answers; raise data.max_prompt or model.max_length"
    )
  logps = score(graph, params, groups, row_length, batch_rows, sharding, advance)
  return [_prediction(row, task, answers, logp) for row, logp in zip(rows, logps, strict=True)], report


def _prediction(row: Row, task: Task, answers: Sequence[dict[str, str]], logp: np.ndarray) -> Prediction:
  weights = np.exp(logp.astype(np.float64) - logp.max())
  weights /= weights.sum()
  probabilities = {
    name: {
      label: float(sum(w for w, answer in zip(weights, answers, strict=True) if answer[name] == label))
      for label in target.labels
    }
    for name, target in task.targets.items()
  }
  labels = {name: max(of_label, key=of_label.get) for name, of_label in probabilities.items()}
  return Prediction(row.id, row.group, labels, probabilities)
