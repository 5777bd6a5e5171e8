"""A clinical task: source fields -> prompt, answer, targets, metrics, preference policy. And their registry."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import privacy
from medjax.data.examples import Example, Message, PreferencePair, Row
from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
  """One thing a task decides.

  Attributes:
    labels: the label set; where `ordinal`, from the least to the most severe.
    ordinal: whether choosing a lower label than the truth is under-triage.
    under_cost: where ordinal, the cost of one level too low; one level too high costs 1.
    primary: the metric that selects and reports (a key of `evaluation.metrics.METRICS`).
    decide: how a label follows from probabilities: `likeliest`; `thresholds` that validation chose for `primary`; or,
      where ordinal, `costs`, the least expected one.
  """

  labels: tuple[str, ...]
  ordinal: bool = False
  under_cost: float = 2.0
  primary: str = "macro_f1"
  decide: str = "likeliest"


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a text must state and must not state, by name of the fact.

  A fact is stated where one of its patterns (regular expressions, case ignored) is found in the text.
  """

  must: Mapping[str, tuple[str, ...]]
  must_not: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class TextTarget:
  """A text that a task asks for, judged against the reference text and the row's facts.

  Attributes:
    facts: fields of a row -> its facts; None where rows have none.
    primary: the metric that selects and reports (a key of `evaluation.text_metrics.TEXT_METRICS`).
    exact: whether the text is a short final answer, right where it is the reference in other letters.
  """

  facts: Callable[[Mapping], Facts] | None
  primary: str = "fact_f1"
  exact: bool = False


@dataclasses.dataclass(frozen=True)
class Generation:
  """How an answer is had by generation, where label likelihood would not do.

  Attributes:
    max_new_tokens: most tokens of an answer.
    read: (generated text, fields of the row) -> target name -> label or text; a target whose value cannot be read is
      left out and counts as unparseable.
  """

  max_new_tokens: int
  read: Callable[[str, Mapping], Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Window:
  """How a text that is longer than it may be is read in pieces.

  Attributes:
    field: of a row, which is split.
    words: most of a piece.
    overlap: words that a piece shares with the one before it.
    join: `mean`, of the pieces' probabilities; or `most_severe`, those of the piece that gives the last label of the
      target the highest one.
  """

  field: str
  words: int
  overlap: int = 0
  join: str = "mean"


Rejection = tuple[Mapping[str, str], str]  # (labels of a wrong answer, how it is wrong)


@dataclasses.dataclass(frozen=True)
class Task:
  """Everything medjax needs to know of a task.

  Attributes:
    name: id, as in `--config.task`.
    description: one line for `medjax tasks`.
    targets: target name -> Target, or TextTarget where the answer is generated.
    instruction: the system message.
    render: fields of a row -> the user's message.
    answer: format string of the completion, e.g. `"{provider}, {urgency}"`, over a row's labels. These may hold more
      than the targets, such as the reasons before a diagnosis. Where `separate`, over `target` and `label`.
    rejections: (labels, fields, rng) -> wrong answers a clinician would object to, the most instructive first.
    load: the task's own rows by split (`train`, `validation`, `test`), always the same, any first n of them a fair
      sample; None where the user brings data.
    generation: how the answer is generated; None where the likeliest labels are the answer.
    separate: whether each target is asked for alone, in an answer of its own after the one prompt: yes-or-no labels
      of a text, whose combinations are too many to score.
    window: how long texts are read in pieces; None where they are cut.
    balanced: whether SFT weighs rows by one over the frequency of their label.
    label_columns: columns of a source that hold labels, where they are not of the targets' names; no prompt shows them.
    after: columns that become known only with or after the labels; no prompt shows them.
    read_labels: column getter (as `Record.column`) -> labels of a row, or None where the row is left out; raises
      UserError without the file and line. None: one column of each target's name, as `data.columns` renames it.
    allowed: (fields, target's name) -> the labels that a row may have; None where all of a target's.
    shots: answered examples, as turns of user and assistant, that every prompt shows before its own question.
  """

  name: str
  description: str
  targets: Mapping[str, Target | TextTarget]
  instruction: str
  render: Callable[[Mapping], str]
  answer: str
  rejections: Callable[[Mapping[str, str], Mapping, np.random.Generator], Sequence[Rejection]]
  load: Callable[[], Mapping[str, Sequence[Row]]] | None = None
  generation: Generation | None = None
  separate: bool = False
  window: Window | None = None
  balanced: bool = False
  label_columns: tuple[str, ...] = ()
  after: tuple[str, ...] = ()
  read_labels: Callable[[Callable[[str], Any]], Mapping[str, str] | None] | None = None
  allowed: Callable[[Mapping, str], Sequence[str]] | None = None
  shots: tuple[Message, ...] = ()

  def prompt(self, row: Row) -> tuple[Message, ...]:
    """The chat messages that ask for the answer."""
    return (
      {"role": "system", "content": self.instruction},
      *self.shots,
      {"role": "user", "content": self.render(row.fields)},
    )

  def completion(self, labels: Mapping[str, str]) -> str:
    """The answer's text for one label per target; where `separate`, for one target's label."""
    if not self.separate:
      return self.answer.format(**labels)
    ((target, label),) = labels.items()
    return self.answer.format(target=target, label=label)

  def answers(self) -> list[dict[str, str]]:
    """Every combination of labels (where `separate` every label of every target), in a fixed order: what is scored."""
    names = list(self.targets)
    if self.separate:
      return [{name: label} for name in names for label in self.targets[name].labels]
    return [
      dict(zip(names, labels, strict=True))
      for labels in itertools.product(*(self.targets[name].labels for name in names))
    ]

  def windows(self, row: Row) -> list[Row]:
    """The row in pieces that are short enough, each of the weight that keeps their sum; itself where it is short."""
    if self.window is None:
      return [row]
    text = str(row.fields.get(self.window.field) or "")
    words = list(re.finditer(r"\S+", text))
    if len(words) <= self.window.words:
      return [row]
    starts = range(0, len(words) - self.window.overlap, self.window.words - self.window.overlap)
    pieces = [words[start : start + self.window.words] for start in starts]
    return [
      dataclasses.replace(
        row,
        id=f"{row.id}/{number}",
        fields={**row.fields, self.window.field: text[piece[0].start() : piece[-1].end()]},
        weight=row.weight / len(pieces),
      )
      for number, piece in enumerate(pieces, start=1)
    ]

  def example(self, row: Row) -> Example:
    """The SFT example of a labelled row."""
    first, *more = [{name: row.labels[name]} for name in self.targets] if self.separate else [row.labels]
    completion, *others = (self.completion(labels) for labels in (first, *more))
    return Example(row.id, self.prompt(row), completion, more=tuple(others), weight=row.weight)

  def pairs(self, rows: Sequence[Row], seed: int, per_row: int = 1) -> list[PreferencePair]:
    """Preference pairs: the truth against what the task's policy rejects, `per_row` of them for each row."""
    pairs = []
    for index, row in enumerate(rows):
      rng = np.random.default_rng([seed, index])
      for labels, how in list(self.rejections(row.labels, row.fields, rng))[:per_row]:
        truth = {name: row.labels[name] for name in labels} if self.separate else row.labels
        pairs.append(
          PreferencePair(
            f"{row.id}#{len(pairs)}", self.prompt(row), self.completion(truth), self.completion(labels), how
          )
        )
    return pairs

  def check(self, row: Row) -> None:
    """Raises UserError where a label is missing or outside its set, or a text is empty."""
    for name, target in self.targets.items():
      label = row.labels.get(name)
      if isinstance(target, TextTarget):
        if not label:
          raise UserError(f"{privacy.row(row.id)}: {name} is empty; give the reference text")
      elif label not in target.labels:
        raise UserError(
          f"{privacy.row(row.id)}: {name} is not one of {', '.join(target.labels)}; correct the row or the task"
          f"{privacy.shown(label)}"
        )


_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
  """Adds a task under its name, replacing one of that name; returns it."""
  _TASKS[task.name] = task
  return task


def get(name: str) -> Task:
  """The task of that name; UserError with the known names where there is none."""
  if name not in _TASKS:
    raise UserError(f"unknown task {name!r}; known: {', '.join(sorted(_TASKS))}")
  return _TASKS[name]


def registered() -> list[Task]:
  """All tasks, by name."""
  return [_TASKS[name] for name in sorted(_TASKS)]
