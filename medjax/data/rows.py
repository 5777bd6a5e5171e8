"""Records -> rows of a task, by split: labels as the task spells them, groups kept together."""

import collections
import dataclasses
import difflib
import hashlib
import re
import string
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from medjax import files, privacy
from medjax.data.examples import Row
from medjax.data.sources import Record, read_records, split_name
from medjax.errors import UserError

if typing.TYPE_CHECKING:
  from medjax.tasks.task import Task

SPLITS = ("train", "validation", "test")
_SHARES = (0.7, 0.8)  # upper ends of train and validation; the rest is test


@dataclasses.dataclass(frozen=True)
class RowsOf:
  """The rows of a task, and where they are from.

  Attributes:
    splits: `train`, `validation` and `test` rows.
    values: id of a row -> all columns of the source, those of labels too; of a task's own rows their fields.
    left_out: rows of the source that the task leaves out, for want of a label.
    split_by: `task`, `source`, `stratified` or `hash`: who said which split a row is in.
  """

  splits: Mapping[str, list[Row]]
  values: Mapping[str, Mapping[str, Any]]
  left_out: int
  split_by: str


def task_rows(config: ml_collections.ConfigDict, task: "Task") -> dict[str, list[Row]]:
  """The rows of a task by split: its own, or those of `data.source`.

  A source without splits is split 70/10/20 by a hash of each row's group, so that a row's split depends on nothing
  but its group: not on the seed, not on the other rows. The group is the value of `data.split_by`, else the id, else
  (no id column) the content of the row, so that equal rows stay together. With `data.stratify` groups are dealt out so
  that each label has about these shares in every split (then a row's split depends on all rows). The first
  `data.*_rows` of a split are kept.

  Args:
    config: a validated run config.
    task: the task whose labels and fields the rows must have.

  Returns:
    `train`, `validation` and `test` rows, all labelled, with labels as the task spells them. Texts, and what else the
    answer's format names (such as reasons), come from the columns of these names.

  Raises:
    UserError: a row that does not fit, with file and line; a group in two splits; a task without data.
  """
  return dict(labelled_records(config, task).splits)


def labelled_records(config: ml_collections.ConfigDict, task: "Task") -> RowsOf:
  """The rows of `task_rows`, with all columns that the source has of them; raises as it does."""
  if not config.data.source:
    if task.load is None:
      raise UserError(f"task {task.name} has no data of its own; give a file with --config.data.source=FILE")
    splits = limited(config, {split: list(rows) for split, rows in task.load().items()})
    return RowsOf(splits, {row.id: row.fields for rows in splits.values() for row in rows}, 0, "task")
  records = read_records(config.data.source, wanted_rows(config))
  rows, kept = _rows(config, task, records, labelled=True)
  left_out = len(records) - len(kept)
  if left_out:
    logging.info("%s: %d of %d rows left out, without a label", task.name, left_out, len(records))
  splits, split_by = given_splits(config, kept), "source"
  if not splits and config.data.stratify:
    splits, split_by = _stratified(rows, task), "stratified"
  elif not splits:
    splits, split_by = [_hashed_split(row.group) for row in rows], "hash"
  _check_groups(config, kept, rows, splits)
  values = {row.id: record.values for row, record in zip(rows, kept, strict=True)}
  return RowsOf(limited(config, by_split(rows, splits)), values, left_out, split_by)


def _check_groups(
  config: ml_collections.ConfigDict, records: Sequence[Record], rows: Sequence[Row], splits: Sequence[str]
) -> None:
  """Refuses a group that is in two splits, where the config names groups."""
  seen: dict[str, str] = {}
  for record, row, split in zip(records, rows, splits, strict=True) if config.data.split_by else ():
    if seen.setdefault(row.group, split) != split:
      raise UserError(
        f"{record.where}: rows of its {config.data.split_by} are in {seen[row.group]} and in {split}; a group must "
        "stay in one split"
      )


def rows_to_predict(config: ml_collections.ConfigDict, task: "Task", source: str) -> list[Row]:
  """The rows of a file without their labels, in order; UserError as `task_rows`."""
  return _rows(config, task, read_records(source), labelled=False)[0]


def windowed(rows: Sequence[Row], task: "Task") -> list[Row]:
  """The rows as SFT reads them: in pieces that are short enough, and weighed where the task balances its labels.

  A row's weight is then n / (K n_k), of n rows with K labels of which n_k have its own (scikit-learn's `balanced`), or
  the mean of that over the targets; the weights sum to n.
  """
  if task.balanced and rows:
    weights = np.zeros(len(rows))
    for name in task.targets:
      labels = [row.labels[name] for row in rows]
      counts = collections.Counter(labels)
      weights += [len(rows) / (len(counts) * counts[label]) for label in labels]
    weights /= len(task.targets)
    rows = [dataclasses.replace(row, weight=float(weight)) for row, weight in zip(rows, weights, strict=True)]
  return [piece for row in rows for piece in task.windows(row)]


def given_splits(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[str]:
  """The split of each record where the source names them, else nothing."""
  column = config.data.columns.get("split", "split")
  if records[0].split:
    return [record.split for record in records]
  if "split" in config.data.columns or any(column in record.values for record in records):
    return [split_name(record.column(column, "split"), record.where) for record in records]
  return []


def by_split(items: Sequence, splits: Sequence[str]) -> dict[str, list]:
  """Items by the split that each is in, in order."""
  return {name: [item for item, split in zip(items, splits, strict=True) if split == name] for name in SPLITS}


def limited(config: ml_collections.ConfigDict, items: Mapping[str, list]) -> dict[str, list]:
  """The first `data.*_rows` of each split."""
  return {split: items.get(split, [])[: config.data[f"{split}_rows"] or None] for split in SPLITS}


def wanted_rows(config: ml_collections.ConfigDict) -> dict[str, int] | None:
  """How many rows of each split are kept at most; None where one is kept whole, so that all are read."""
  wanted = {split: config.data[f"{split}_rows"] for split in SPLITS}
  return wanted if all(wanted.values()) else None


def id_of(record: Record, columns: Mapping[str, str]) -> str:
  """The id that a record has in a column, else that of its place in the file."""
  if "id" not in columns and "id" not in record.values:
    return record.id
  value = record.column(columns.get("id", "id"), "id")
  if value is None:
    raise UserError(f"{record.where}: the id is empty")
  return str(value)


def new_item(item: Any, record: Record, seen: dict[str, str]) -> Any:
  """The item, whose id is noted in `seen`; UserError where an earlier one has it."""
  if item.id in seen:
    raise UserError(f"{record.where}: its id is also that of {seen[item.id]}; ids must be unique")
  seen[item.id] = record.where
  return item


def jsonable(value: Any) -> Any:
  """A value of a row as JSON knows it."""
  if isinstance(value, Mapping):
    return {str(name): jsonable(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(inner) for inner in value]
  return value.item() if hasattr(value, "item") else value


def _rows(
  config: ml_collections.ConfigDict, task: "Task", records: Sequence[Record], labelled: bool
) -> tuple[list[Row], list[Record]]:
  """The rows of a task, and the records that they are of: those that the task does not leave out."""
  columns = dict(config.data.columns)
  hidden = {columns.get(name, name) for name in (*own_columns(task), *task.after)}
  seen: dict[str, str] = {}
  rows, kept = [], []
  for record in records:
    labels = _labels(record, task, columns) if labelled else {}
    if labels is None:
      continue
    fields = {name: value for name, value in record.values.items() if name not in hidden}
    fields |= {
      field: record.column(column, field)
      for field, column in columns.items()
      if column not in hidden and field not in ("id", "split")
    }
    _check_rendered(record, task, fields)
    id_ = id_of(record, columns)
    row = Row(id_, _group(config, record, id_), fields, labels)
    rows.append(new_item(row, record, seen))
    kept.append(record)
  if not rows:
    raise UserError(f"{config.data.source}: no row has a label")
  return rows, kept


def _labels(record: Record, task: "Task", columns: Mapping[str, str]) -> Mapping[str, str] | None:
  """The labels of a record, None where the task leaves it out."""
  if task.read_labels is None:
    names = {name: columns.get(name, name) for name in _label_names(task)}
    return {name: _label(record, column, name, _label_set(task, name)) for name, column in names.items()}
  try:
    return task.read_labels(lambda name: record.column(columns.get(name, name), name))
  except UserError as error:
    raise error if record.where in str(error) else UserError(f"{record.where}: {error}") from None


def _check_rendered(record: Record, task: "Task", fields: Mapping[str, Any]) -> None:
  """Refuses a record of which the prompt shows nothing, or that lacks a column that it shows."""
  try:
    text = task.render(fields)
  except KeyError as error:
    record.column(error.args[0])
    raise
  except UserError as error:
    raise UserError(f"{record.where}: {error}") from None
  if not text.strip():
    raise UserError(f"{record.where}: nothing to render; fill the row or remove it")


def _group(config: ml_collections.ConfigDict, record: Record, id_: str) -> str:
  """What must not be split between train and test."""
  if not config.data.split_by:
    return id_ if id_ != record.id else files.fingerprint(jsonable(record.values))
  group = record.column(config.data.split_by)
  if group is None:
    raise UserError(f"{record.where}: {config.data.split_by} is empty; rows without a group cannot be split")
  return str(group)


def own_columns(task: "Task") -> list[str]:
  """The columns that hold the labels of a task, before `data.columns` renames them."""
  return list(task.label_columns) or _label_names(task)


def _label_names(task: "Task") -> list[str]:
  """The task's targets, and what else its answer is written with, such as reasons."""
  in_answer = [re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(task.answer) if name]
  return list(dict.fromkeys([*task.targets, *in_answer]))


def _label_set(task: "Task", name: str) -> Sequence[str] | None:
  """The labels of a target; None where any text will do."""
  return getattr(task.targets.get(name), "labels", None)


def _label(record: Record, column: str, name: str, labels: Sequence[str] | None) -> str:
  value = record.column(column, name)
  text = "" if value is None else str(value).strip()
  if labels is None:
    if not text or not isinstance(value, str):
      kind = f"a {type(value).__name__}" if text else "empty"
      raise UserError(f"{record.where}: {column} is {kind}; the answer needs it as text")
    return text
  known = {label.casefold(): label for label in labels}
  if text.casefold() not in known:
    near = difflib.get_close_matches(text.casefold(), known, 1)
    hint = f"; did you mean {known[near[0]]!r}?" if near else ""
    kind = f"not one of {', '.join(labels)}" if text else f"empty; it must be one of {', '.join(labels)}"
    raise UserError(f"{record.where}: {column} is {kind}{hint}{privacy.shown(value)}")
  return known[text.casefold()]


def _stratified(rows: Sequence[Row], task: "Task") -> list[str]:
  """The split of each row: 70/10/20 of the groups with about the same shares of each combination of labels.

  By scikit-learn's StratifiedGroupKFold with ten folds, of which validation is one and test two. Rows come in the order
  of their groups' hashes, so that the order in the file does not matter.
  """
  from sklearn.model_selection import StratifiedGroupKFold

  names = [name for name in task.targets if _label_set(task, name)]
  if not names:
    raise UserError(f"config.data.stratify is set, and task {task.name} has no labels; set it to False")
  order = sorted(range(len(rows)), key=lambda i: (_share(rows[i].group), rows[i].id))
  labels = np.array([" ".join(rows[i].labels[name] for name in names) for i in order])
  groups = np.array([rows[i].group for i in order])
  if len(set(groups.tolist())) < 10:
    raise UserError(f"config.data.stratify needs ten groups of rows or more; there are {len(set(groups.tolist()))}")
  splits = np.full(len(rows), "train", object)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of labels with fewer groups than folds: they are in as many splits as they can be
    try:
      folds = list(StratifiedGroupKFold(10, shuffle=True, random_state=0).split(labels, labels, groups))
    except ValueError:
      raise UserError("config.data.stratify: every label has fewer than ten rows; set it to False") from None
  for fold, (_, held_out) in enumerate(folds[:3]):
    splits[np.array(order)[held_out]] = "validation" if fold == 0 else "test"
  return splits.tolist()


def _hashed_split(group: str) -> str:
  return SPLITS[sum(_share(group) >= end for end in _SHARES)]


def _share(group: str) -> float:
  """A number of the group's own, evenly spread over [0, 1)."""
  return int.from_bytes(hashlib.sha256(f"medjax split {group}".encode()).digest()[:8]) / 2**64
