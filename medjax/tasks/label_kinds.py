"""Kinds of tasks that a config defines whose answers are labels: text and numeric classification, and triage."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from medjax.errors import UserError
from medjax.tasks import shown
from medjax.tasks.kind import (
  Getter,
  LabelColumn,
  Prompt,
  UnknownLabel,
  discovered,
  label_columns,
  listed,
  spelled,
  split_cell,
  wrong_labels,
)
from medjax.tasks.task import Target, Task, Window

PRESENT = ("no", "yes")


@dataclasses.dataclass(frozen=True)
class TextClassification(Prompt):
  """Text -> one label of each target, or of many labels those that apply. The attributes are keys of `config.define`.

  Attributes:
    labels: the column of the label, or several; or column -> its labels in order. Those that are not listed are
      found in the data.
    separator: between the labels of one cell, of which several may apply: `"; "`. Each label is then a target of its
      own, `no` or `yes`.
    values: label -> the cells that mean it, where the data hold codes.
    other: what becomes of a row whose label is empty or unknown: `refuse` | `drop`.
    ordinal: targets whose labels are listed from the least to the most severe.
    under_cost: of an ordinal target, the cost of one level too low; one too high costs 1.
    primary: the metric that selects and reports.
    decide: `likeliest` | `thresholds` (chosen on validation for the primary metric) | `costs` (ordinal targets).
    class_weights: `none` | `balanced`: SFT weighs a row by one over the frequency of its label.
    window_words: a longer text is read in pieces of so many words; 0: cut to what fits.
    window_overlap: words that two neighbouring pieces share.
    window_join: `mean` of the pieces' probabilities, or the `most_severe` piece.
  """

  labels: Any = ()
  separator: str = ""
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  other: str = "refuse"
  ordinal: tuple[str, ...] | str = ()
  under_cost: float = 2.0
  primary: str = "macro_f1"
  decide: str = "likeliest"
  class_weights: str = "none"
  window_words: int = 0
  window_overlap: int = 0
  window_join: str = "mean"

  kind: ClassVar[str] = "text_classification"
  choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
    "other": ("refuse", "drop"),
    "decide": ("likeliest", "thresholds", "costs"),
    "class_weights": ("none", "balanced"),
    "window_join": ("mean", "most_severe"),
  }

  @property
  def columns(self) -> list[LabelColumn]:
    """The targets by column; with a `separator` the one column of all labels."""
    found = label_columns(self.labels)
    if self.separator and len(found) > 1:
      raise UserError("config.define.separator is for one column that holds all labels; name one in define.labels")
    if self.values and len(found) == 1 and found[0].labels is None:
      found = [dataclasses.replace(found[0], labels=tuple(self.values))]
    return found

  def missing_labels(self) -> list[LabelColumn]:
    """Targets whose labels are to be found in the data."""
    return [label for label in self.columns if label.labels is None]

  def with_labels(self, cells: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What `labels` is once the labels are found in the cells of the columns that `missing_labels` names."""
    ordinal = set(listed(self.ordinal, "ordinal"))
    for label in self.missing_labels():
      if ordinal & {label.target, label.column}:
        raise UserError(
          f"config.define.labels must list the labels of {label.column!r} from the least to the most severe, "
          f"since it is ordinal: define.labels = {{{label.column!r}: (...)}}"
        )
    return {
      label.column: label.labels or discovered(cells[label.column], label.column, self.separator)
      for label in self.columns
    }

  def task(self) -> Task:
    """The task; UserError where a key has a value that cannot be."""
    self._check()
    columns = self.columns
    targets = self._targets(columns)
    separate = bool(self.separator)
    return Task(
      name=self.name or self.kind,
      description=self.description or f"{self.kind.replace('_', ' ')} from your data",
      targets=targets,
      instruction=self.instruction or self._instruction(targets),
      render=self.renderer(),
      answer="{target}: {label}" if separate else ", ".join(f"{{{name}}}" for name in targets),
      rejections=wrong_labels(targets, separate=separate),
      separate=separate,
      window=self._window(),
      balanced=self.class_weights == "balanced",
      label_columns=tuple(label.column for label in columns),
      after=listed(self.after, "after"),
      read_labels=self._read_labels(columns),
    )

  def _check(self) -> None:
    if self.missing_labels():
      column = self.missing_labels()[0].column
      raise UserError(f"the labels of {column!r} are not listed; medjax.tasks.settled(config) finds them in the data")
    shown_labels = {label.column for label in self.columns} & set(self.input_columns)
    if shown_labels:
      raise UserError(f"config.define shows the label {min(shown_labels)!r} in the prompt; take it out of the prompt")
    if self.separator and self.values:
      raise UserError(
        "config.define.values and define.separator cannot go together; write the labels' names in the data"
      )
    if self.separator and self.class_weights != "none":
      raise UserError("config.define.class_weights weighs rows of one label; with a separator set it to none")
    if self.values and len(self.columns) > 1:
      raise UserError("config.define.values is for one target; name one column in define.labels")

  def _targets(self, columns: Sequence[LabelColumn]) -> dict[str, Target]:
    if self.separator:
      return {name: Target(PRESENT, primary=self.primary, decide=self.decide) for name in columns[0].labels}
    ordinal = set(listed(self.ordinal, "ordinal"))
    unknown = ordinal - {name for label in columns for name in (label.target, label.column)}
    if unknown:
      raise UserError(f"config.define.ordinal names {min(unknown)!r}, which is no column of define.labels")
    if self.decide == "costs" and not ordinal:
      raise UserError("config.define.decide = 'costs' needs define.ordinal, whose levels have costs")
    found = {}
    for label in columns:
      severe = bool(ordinal & {label.target, label.column})
      decide = self.decide if severe or self.decide != "costs" else "likeliest"
      found[label.target] = Target(label.labels, severe, self.under_cost, self.primary, decide)
    return found

  def _instruction(self, targets: Mapping[str, Target]) -> str:
    if self.separator:
      return f"Which of these apply: {', '.join(targets)}? Reply with one of them and yes or no."
    asked = "; ".join(f"{shown.words(name)} ({', '.join(target.labels)})" for name, target in targets.items())
    return f"Classify: {asked}. Reply with the {'label' if len(targets) == 1 else 'labels'} only."

  def _read_labels(self, columns: Sequence[LabelColumn]):
    codes = {shown.known(code).casefold(): label for label, cells in self.values.items() for code in _codes(cells)}

    def of(label: LabelColumn, get: Getter) -> str:
      cell = get(label.column)
      return spelled(codes.get(shown.known(cell).casefold(), cell), label.labels, label.column)

    def read(get: Getter) -> dict[str, str] | None:
      try:
        if not self.separator:
          return {label.target: of(label, get) for label in columns}
        (column,) = columns
        named = {spelled(part, column.labels, column.column) for part in split_cell(get(column.column), self.separator)}
        return {name: PRESENT[name in named] for name in column.labels}
      except UnknownLabel:
        if self.other == "drop":
          return None
        raise

    return read

  def _window(self) -> Window | None:
    if not self.window_words:
      return None
    if not 0 <= self.window_overlap < self.window_words:
      raise UserError(
        f"config.define.window_overlap is {self.window_overlap}; it must be at least 0 and less than window_words"
      )
    if len(self.input_columns) != 1:
      raise UserError(
        f"config.define.window_words splits one column, and the prompt shows {', '.join(self.input_columns)}; show one"
      )
    return Window(self.input_columns[0], self.window_words, self.window_overlap, self.window_join)


@dataclasses.dataclass(frozen=True)
class NumericClassification(TextClassification):
  """Values of a table -> a label. The attributes are keys of `config.define`, beside those of text classification.

  Attributes:
    inputs: `column`, `(column, unit)` or `(column, unit, low, high)`, whose values outside the range are marked.
    flags: columns that are named where they are true and left out where they are not.
  """

  flags: tuple[str, ...] | str = ()

  kind: ClassVar[str] = "numeric_classification"

  @property
  def input_columns(self) -> tuple[str, ...]:
    """The columns that the prompt shows."""
    return (*super().input_columns, *(() if self.prompt else listed(self.flags, "flags")))

  def renderer(self) -> shown.Render:
    """Fields of a row -> its values in one line; a template, where there is one, as it is."""
    as_text = super().renderer()
    if self.prompt:
      return as_text
    values = [shown.as_value(entry, "inputs") for entry in listed(self.inputs, "inputs")]
    return shown.as_values(values, listed(self.flags, "flags"), self.missing)


@dataclasses.dataclass(frozen=True)
class Triage(TextClassification):
  """A patient -> how urgent, and who should answer: text classification in which too low is worse than too high.

  `ordinal` says which targets are levels of urgency; there must be one.
  """

  kind: ClassVar[str] = "triage"

  def _targets(self, columns: Sequence[LabelColumn]) -> dict[str, Target]:
    if self.ordinal or self.separator:
      return super()._targets(columns)
    raise UserError(
      "config.define.ordinal is empty; name the columns of define.labels that are levels of urgency, listed from the "
      "least to the most severe"
    )

  def _instruction(self, targets: Mapping[str, Target]) -> str:
    return super()._instruction(targets).replace("Classify:", "Triage this patient:")


def _codes(cells: Any) -> tuple:
  return tuple(cells) if isinstance(cells, list | tuple) else (cells,)
