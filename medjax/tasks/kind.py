"""What the kinds of tasks share that a user's config defines: the prompt, labels by column, wrong answers."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.errors import UserError
from medjax.tasks import shown
from medjax.tasks.task import Rejection, Target

MOST_LABELS = 50
UNDER_TRIAGE_FIRST = 0.6  # as in tasks.triage: how often a wrong answer of an ordinal target is one level too low
Getter = Callable[[str], Any]  # column -> value of a row; UserError where there is no such column


class UnknownLabel(UserError):
  """A cell that should hold a label holds none, or one that is not in the set."""


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What the model is shown of a row. The attributes are keys of `config.define` for every kind.

  Attributes:
    prompt: a template with columns in braces, `"{age} years old. {note}"`.
    inputs: columns, where there is no template: one is shown as it is, several as lines of `column: value`.
    missing: stands for an empty cell; empty text leaves the column out (of `inputs`).
    after: columns that become known only with or after the answer; a prompt that shows one is refused.
    instruction: the system message; empty: made of the labels.
    name: the task's name in reports; empty: the kind's.
    description: a line for people.
    public: the public data set that the rows are of (`medjax data --public`), for its licence and its test set.
    public_test: whether the source is (part of) that set's test set, on which nothing should be trained.
  """

  prompt: str = ""
  inputs: tuple[Any, ...] | str = ()
  missing: str = "not recorded"
  after: tuple[str, ...] | str = ()
  instruction: str = ""
  name: str = ""
  description: str = ""
  public: str = ""
  public_test: bool = False

  @property
  def input_columns(self) -> tuple[str, ...]:
    """The columns that the prompt shows."""
    if self.prompt:
      return shown.columns_of(self.prompt)
    return tuple(entry if isinstance(entry, str) else entry[0] for entry in listed(self.inputs, "inputs"))

  def renderer(self) -> shown.Render:
    """Fields of a row -> the user's message.

    Raises:
      UserError: no column, or one of `after`.
    """
    columns = self.input_columns
    if not columns:
      raise UserError("config.define names no column to show; set define.prompt = '{COLUMN}' or define.inputs")
    later = [column for column in columns if column in listed(self.after, "after")]
    if later:
      raise UserError(
        f"config.define shows {later[0]!r} in the prompt, which config.define.after says is known only afterwards; "
        "take it out of the prompt"
      )
    if self.prompt:
      return shown.from_template(self.prompt, self.missing)
    return shown.as_lines(columns, self.missing)


@dataclasses.dataclass(frozen=True)
class LabelColumn:
  """A target, the column its labels come from, and the labels in order (None: those in the data)."""

  target: str
  column: str
  labels: tuple[str, ...] | None


def listed(value: Any, key: str) -> tuple:
  """A key that holds one or more entries as a tuple: text may list them with commas."""
  if isinstance(value, str):
    return tuple(part.strip() for part in value.split(",") if part.strip())
  if isinstance(value, Sequence):
    return tuple(value)
  raise UserError(f"config.define.{key} is {value!r}; it must be a list, or text with commas")


def label_columns(labels: Any) -> list[LabelColumn]:
  """`"column"`, `("column", ...)` or `{"column": ("first label", ...)}` as targets.

  Raises:
    UserError: none, or two columns whose names differ in signs alone.
  """
  if isinstance(labels, Mapping):
    found = [LabelColumn(_name(column), column, _labels(column, values)) for column, values in labels.items()]
  else:
    found = [LabelColumn(_name(column), column, None) for column in listed(labels, "labels")]
  if not found:
    raise UserError("config.define.labels is empty; name the column that holds the label")
  names = [label.target for label in found]
  if len(set(names)) < len(names):
    raise UserError(f"config.define.labels: {', '.join(names)} are not all different; rename a column")
  return found


def _name(column: str) -> str:
  if not isinstance(column, str) or not re.search(r"\w", column):
    raise UserError(f"config.define.labels has {column!r}; it must be the name of a column")
  return re.sub(r"\W+", "_", column).strip("_")


def _labels(column: str, values: Any) -> tuple[str, ...] | None:
  if values is None or values == ():
    return None
  found = tuple(str(value).strip() for value in listed(values, f"labels.{column}"))
  if len(found) < 2 or len({label.casefold() for label in found}) < len(found):
    raise UserError(f"config.define.labels.{column} is {found}; give two or more labels, each once, case aside")
  return found


def spelled(value: Any, labels: Sequence[str], column: str) -> str:
  """The label that a cell stands for, case aside; UnknownLabel where it is none of them."""
  text = shown.known(value)
  found = {label.casefold(): label for label in labels}.get(text.casefold())
  if found is None:
    kind = "empty" if not text else "none of the labels"
    raise UnknownLabel(f"{column} is {kind} ({', '.join(labels)}); correct the row, or set define.other = 'drop'")
  return found


def discovered(cells: Sequence[Any], column: str, separator: str = "") -> tuple[str, ...]:
  """The labels that stand in a column: as numbers where all are, else by letters; each as it is first written.

  Args:
    cells: of all rows.
    column: its name.
    separator: between several labels of a cell; empty: a cell is one label.

  Raises:
    UserError: fewer than two labels, or more than `MOST_LABELS`.
  """
  first: dict[str, str] = {}
  for cell in cells:
    for label in split_cell(cell, separator):
      first.setdefault(label.casefold(), label)
      if len(first) > MOST_LABELS:
        raise UserError(
          f"column {column!r} holds more than {MOST_LABELS} different values, which are hardly labels; name another "
          f"column in define.labels, or list them: define.labels = {{{column!r}: (...)}}"
        )
  if len(first) < (1 if separator else 2):
    raise UserError(f"column {column!r} holds {len(first)} label; at least two are needed")
  try:
    return tuple(sorted(first.values(), key=float))
  except ValueError:
    return tuple(sorted(first.values(), key=str.casefold))


def split_cell(cell: Any, separator: str) -> list[str]:
  """The labels of a cell; none where it is empty."""
  if isinstance(cell, list | tuple):
    return [shown.known(part) for part in cell if shown.known(part)]
  text = shown.known(cell)
  parts = text.split(separator) if separator else [text]
  return [part.strip() for part in parts if part.strip()]


def wrong_labels(targets: Mapping[str, Target], allowed=None, separate: bool = False):
  """A task's `rejections`: one wrong label each, the target of it drawn; of ordinal ones a neighbour.

  A neighbour is one level too low with probability `UNDER_TRIAGE_FIRST`, where there is one on either side.
  """

  def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> list[Rejection]:
    found = []
    for name in rng.permutation(list(targets)).tolist():
      target, truth = targets[name], labels[name]
      others = [label for label in (allowed(fields, name) if allowed else target.labels) if label != truth]
      if not others:
        continue
      wrong, how = others[int(rng.integers(len(others)))], "wrong_label"
      if target.ordinal:
        level = target.labels.index(truth)
        under = level > 0 and (level == len(target.labels) - 1 or rng.random() < UNDER_TRIAGE_FIRST)
        wrong, how = target.labels[level - 1 if under else level + 1], "under_triage" if under else "over_triage"
      found.append(({name: wrong} if separate else {**labels, name: wrong}, how))
    return found

  return rejections
