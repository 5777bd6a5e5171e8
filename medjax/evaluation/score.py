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
from medjax.tasks.task import Target, Task


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


@dataclasses.dataclass(frozen=True)
class Scored:
  """Rows, and for each a prediction with probabilities."""

  rows: Sequence[Row]
  predictions: Sequence[Prediction]

  def matrix(self, name: str, target: Target) -> np.ndarray:
    """[N, K] probabilities of a target's labels."""
    return np.array([[p.probabilities[name][label] for label in target.labels] for p in self.predictions])

  def replaced(self, name: str, target: Target, probabilities_NK: np.ndarray) -> "Scored":
    """The same with other probabilities of a target, and the likeliest label of each row."""
    predictions = [
      dataclasses.replace(
        prediction, probabilities={**prediction.probabilities, name: dict(zip(target.labels, values, strict=True))}
      )
      for prediction, values in zip(self.predictions, probabilities_NK.tolist(), strict=True)
    ]
    likeliest = [target.labels[k] for k in probabilities_NK.argmax(1)]
    return Scored(self.rows, predictions).relabelled(name, likeliest)

  def relabelled(self, name: str, labels: Sequence[str]) -> "Scored":
    """The same with other labels of a target."""
    predictions = [
      dataclasses.replace(prediction, labels={**prediction.labels, name: label})
      for prediction, label in zip(self.predictions, labels, strict=True)
    ]
    return Scored(self.rows, predictions)


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
  that of a label is the sum over the answers that have it. The predicted label is the most probable one. Of a row that
  is read in pieces (`task.window`) the probabilities are the pieces', joined as the task says.

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
  pieces = [task.windows(row) for row in rows]
  parts = [(piece.id, task.prompt(piece), texts) for of_row in pieces for piece in of_row]
  groups, report = encode_all(parts, encoder, limits)
  if report.dropped:
    raise UserError(
      f"row {report.dropped[0]} does not fit beside its answers; raise data.max_prompt or model.max_length"
    )
  rows_done = _Rows(pieces, advance)
  logps = iter(score(graph, params, groups, row_length, batch_rows, sharding, rows_done.advance))
  predictions = [
    _prediction(row, task, answers, [next(logps) for _ in of_row]) for row, of_row in zip(rows, pieces, strict=True)
  ]
  return predictions, report


class _Rows:
  """Tells of rows where it is told of their pieces, which may come in any order: in proportion."""

  def __init__(self, pieces: Sequence[Sequence[Row]], advance: Callable[[int], None]):
    self._rows, self._pieces, self._advance = len(pieces), sum(map(len, pieces)), advance
    self._done, self._told = 0, 0

  def advance(self, count: int) -> None:
    self._done += count
    now = self._rows * self._done // self._pieces
    self._advance(now - self._told)
    self._told = now


def _prediction(row: Row, task: Task, answers: Sequence[dict[str, str]], logps: Sequence[np.ndarray]) -> Prediction:
  of_pieces = [_probabilities(row, task, answers, logp) for logp in logps]
  probabilities = {}
  for name, target in task.targets.items():
    pieces = [of_piece[name] for of_piece in of_pieces]
    if task.window is not None and task.window.join == "most_severe":
      probabilities[name] = max(pieces, key=lambda piece: piece[target.labels[-1]])  # noqa: B023
    else:
      probabilities[name] = {label: float(np.mean([piece[label] for piece in pieces])) for label in target.labels}
  labels = {name: max(of_label, key=of_label.get) for name, of_label in probabilities.items()}
  return Prediction(row.id, row.group, labels, probabilities)


def _probabilities(
  row: Row, task: Task, answers: Sequence[dict[str, str]], logp: np.ndarray
) -> dict[str, dict[str, float]]:
  """Target -> label -> probability: exp(logp) over the sum for the answers that the row may have.

  Where the task's targets are asked for one by one, the sum is over the answers about the same target.
  """
  found = {}
  for name, target in task.targets.items():
    allowed = target.labels if task.allowed is None else task.allowed(row.fields, name)
    about = np.array([answer.get(name) in allowed for answer in answers])
    weights = np.where(about, np.exp(logp.astype(np.float64) - logp[about].max()), 0.0)
    weights /= weights.sum()
    found[name] = {
      label: float(sum(w for w, answer in zip(weights, answers, strict=True) if answer.get(name) == label))
      for label in target.labels
    }
  return found
