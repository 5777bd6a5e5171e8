"""Records -> rows of a task, examples and preference pairs, by split."""

import dataclasses
import difflib
import hashlib
import re
import string
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from medjax import files
from medjax.data.examples import Example, JudgedAnswer, Message, PreferencePair, Row
from medjax.data.judged import answers_of_pairs, with_unrelated
from medjax.data.sources import Record, read_records, split_name
from medjax.errors import UserError

if typing.TYPE_CHECKING:
  from medjax.tasks.task import Task

_SPLITS = ("train", "validation", "test")
_SHARES = (0.7, 0.8)  # upper ends of train and validation; the rest is test
_TEXT_FIELDS = ("id", "split", "prompt", "completion", "messages", "text", "chosen", "rejected", "label")
_JUDGEMENTS = {"true": True, "1": True, "false": False, "0": False}


def task_rows(config: ml_collections.ConfigDict, task: "Task") -> dict[str, list[Row]]:
  """The rows of a task by split: its own, or those of `data.source`.

  A source without splits is split 70/10/20 by a hash of each row's group, so that a row's split depends on nothing
  but its group: not on the seed, not on the other rows. The group is the value of `data.split_by`, else the id, else
  (no id column) the content of the row, so that equal rows stay together. The first `data.*_rows` of a split are kept.

  Args:
    config: a validated run config.
    task: the task whose labels and fields the rows must have.

  Returns:
    `train`, `validation` and `test` rows, all labelled, with labels as the task spells them. Texts, and what else the
    answer's format names (such as reasons), come from the columns of these names.

  Raises:
    UserError: a row that does not fit, with file and line; a group in two splits; a task without data.
  """
  if not config.data.source:
    if task.load is None:
      raise UserError(f"task {task.name} has no data of its own; give a file with --config.data.source=FILE")
    return _limited(config, {split: list(rows) for split, rows in task.load().items()})
  records = read_records(config.data.source)
  rows = _rows(config, task, records, labelled=True)
  splits = _given_splits(config, records) or [_hashed_split(row.group) for row in rows]
  if config.data.split_by:
    seen: dict[str, str] = {}
    for record, row, split in zip(records, rows, splits, strict=True):
      if seen.setdefault(row.group, split) != split:
        raise UserError(
          f"{record.where}: {config.data.split_by} {row.group!r} is in {seen[row.group]} and in {split}; "
          "a group must stay in one split"
        )
  return _limited(config, _by_split(rows, splits))


def rows_to_predict(config: ml_collections.ConfigDict, task: "Task", source: str) -> list[Row]:
  """The rows of a file without their labels, in order; UserError as `task_rows`."""
  return _rows(config, task, read_records(source), labelled=False)


def training_items(config: ml_collections.ConfigDict, task: "Task | None" = None) -> dict[str, list]:
  """What a stage of training reads: examples for `sft`, preference pairs for `dpo`, with `kto` judged answers.

  Args:
    config: a validated run config.
    task: the task, or None where `data.source` holds prompts and answers.

  Returns:
    `train` and `validation` items (validation is empty where the source has no splits and there is no task).

  Raises:
    UserError: a row that does not fit, with file and line; no train rows.
  """
  wants_pairs = config.method == "dpo"
  wants_judged = wants_pairs and config.preference.loss == "kto"
  if task is not None and not (wants_pairs and config.preference.pairs == "given"):
    rows = task_rows(config, task)
    if wants_pairs:
      items = {split: task.pairs(rows.get(split, []), config.seed) for split in _SPLITS[:2]}
    else:
      items = {split: [task.example(row) for row in rows.get(split, [])] for split in _SPLITS[:2]}
  else:
    if not config.data.source:
      raise UserError("config.data.source is empty; name a file with prompts and answers, or set config.task")
    records = read_records(config.data.source)
    columns = _columns(config, _TEXT_FIELDS)
    convert = pairs_from_records if wants_pairs else examples_from_records
    if wants_judged and columns.get("chosen", "chosen") not in records[0].values:
      convert = judged_from_records
    converted = convert(records, columns)
    splits = _given_splits(config, records) or ["train"] * len(records)
    items = _limited(config, _by_split(converted, splits))
  if not items["train"]:
    raise UserError(f"no train rows in {config.data.source or task.name}")
  if wants_judged:
    return {split: with_unrelated(answers_of_pairs(items[split])) for split in _SPLITS[:2]}
  return {split: items[split] for split in _SPLITS[:2]}


def fingerprint(items: Iterable[Row | Example | PreferencePair | JudgedAnswer]) -> str:
  """Names the content of rows or items: equal on every machine, different where any field differs."""
  return files.fingerprint([{**_plain_fields(item), "kind": type(item).__name__} for item in items])


def examples_from_records(records: Sequence[Record], columns: Mapping[str, str]) -> list[Example]:
  """SFT examples from rows of `prompt` and `completion`, of `messages` whose last one is the answer, or of `text`.

  Args:
    records: rows; prompt is text or messages, completion is text or one assistant message in a list. Of a `text` each
      token is learnt.
    columns: our field -> column, where the names differ.

  Raises:
    UserError: a missing column or a value of another form, with file and line.
  """
  return _unique(records, lambda record: _example(record, columns))


def judged_from_records(records: Sequence[Record], columns: Mapping[str, str]) -> list[JudgedAnswer]:
  """Judged answers from rows of a prompt and a completion, as for SFT, and of `label`: true or false, or 1 or 0.

  Args:
    records: rows.
    columns: our field -> column, where the names differ.

  Raises:
    UserError: a missing column or a value of another form, with file and line.
  """
  name = columns.get("label", "label")

  def convert(record: Record) -> JudgedAnswer:
    label = record.column(name, "label")
    example = _example(record, columns)
    if example.prompt is None:
      raise UserError(f"{record.where}: a text has no prompt; answers are judged given a prompt")
    desirable = _JUDGEMENTS.get(str(label).strip().casefold())
    if desirable is None:
      raise UserError(f"{record.where}: {name} is {label!r}; it must be true or false, or 1 or 0")
    return JudgedAnswer(example.id, example.prompt, example.completion, desirable)

  return _unique(records, convert)


def pairs_from_records(records: Sequence[Record], columns: Mapping[str, str]) -> list[PreferencePair]:
  """Preference pairs from rows of `prompt`, `chosen` and `rejected`, in TRL's standard or conversational form.

  In the conversational form chosen and rejected are lists of messages: one assistant message each after an explicit
  prompt, or whole conversations that share all but their last message (the implicit prompt).

  Args:
    records: rows.
    columns: our field -> column, where the names differ.

  Raises:
    UserError: a missing column, a value of another form, or two equal answers, with file and line.
  """

  def convert(record: Record) -> PreferencePair:
    names = {field: columns.get(field, field) for field in ("prompt", "chosen", "rejected")}
    chosen, rejected = (record.column(names[field], field) for field in ("chosen", "rejected"))
    prompt = record.values.get(names["prompt"])
    if isinstance(chosen, list) and not isinstance(prompt, list):
      implicit, chosen = _last_answer(record, names["chosen"], _messages(record, names["chosen"]))
      other, rejected = _last_answer(record, names["rejected"], _messages(record, names["rejected"]))
      if implicit != other:
        raise UserError(f"{record.where}: chosen and rejected differ before their last message")
      if isinstance(prompt, str) and all(message["content"] != prompt for message in implicit):
        raise UserError(f"{record.where}: the prompt is not among the messages of chosen")
      prompt = implicit
    else:
      prompt = _prompt(record, columns)
      chosen, rejected = (_answer(record, columns, field) for field in ("chosen", "rejected"))
    if chosen == rejected:
      raise UserError(f"{record.where}: chosen and rejected are the same; remove the row")
    return PreferencePair(_id(record, columns), prompt, chosen, rejected)

  return _unique(records, convert)


def _rows(config: ml_collections.ConfigDict, task: "Task", records: Sequence[Record], labelled: bool) -> list[Row]:
  columns = dict(config.data.columns)
  label_columns = {name: columns.get(name, name) for name in _label_names(task)}

  def convert(record: Record) -> Row:
    fields = {name: value for name, value in record.values.items() if name not in label_columns.values()}
    fields |= {
      field: record.column(column, field)
      for field, column in columns.items()
      if field not in (*label_columns, "id", "split")
    }
    try:
      text = task.render(fields)
    except KeyError as error:
      record.column(error.args[0])
      raise
    if not text.strip():
      raise UserError(f"{record.where}: nothing to render; fill the row or remove it")
    labels = {
      name: _label(record, column, name, _label_set(task, name))
      for name, column in (label_columns.items() if labelled else ())
    }
    id_ = _id(record, columns)
    if config.data.split_by:
      group = record.column(config.data.split_by)
    else:
      group = id_ if id_ != record.id else files.fingerprint(_jsonable(record.values))
    if group is None:
      raise UserError(f"{record.where}: {config.data.split_by} is empty; rows without a group cannot be split")
    return Row(id_, str(group), fields, labels)

  return _unique(records, convert)


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
      raise UserError(f"{record.where}: {column} is {_kind(value if text else '')}; the answer needs it as text")
    return text
  known = {label.casefold(): label for label in labels}
  if text.casefold() not in known:
    near = difflib.get_close_matches(text.casefold(), known, 1)
    hint = f"; did you mean {known[near[0]]!r}?" if near else ""
    raise UserError(f"{record.where}: {column} is {value!r}, not one of {', '.join(labels)}{hint}")
  return known[text.casefold()]


def _columns(config: ml_collections.ConfigDict, allowed: Sequence[str]) -> dict[str, str]:
  columns = dict(config.data.columns)
  for field in columns:
    if field not in allowed:
      raise UserError(f"config.data.columns.{field} names no field; without a task they are {', '.join(allowed)}")
  return columns


def _given_splits(config: ml_collections.ConfigDict, records: Sequence[Record]) -> list[str]:
  """The split of each record where the source names them, else nothing."""
  column = config.data.columns.get("split", "split")
  if records[0].split:
    return [record.split for record in records]
  if "split" in config.data.columns or any(column in record.values for record in records):
    return [split_name(record.column(column, "split"), record.where) for record in records]
  return []


def _hashed_split(group: str) -> str:
  share = int.from_bytes(hashlib.sha256(f"medjax split {group}".encode()).digest()[:8]) / 2**64
  return _SPLITS[sum(share >= end for end in _SHARES)]


def _by_split(items: Sequence, splits: Sequence[str]) -> dict[str, list]:
  return {name: [item for item, split in zip(items, splits, strict=True) if split == name] for name in _SPLITS}


def _limited(config: ml_collections.ConfigDict, items: Mapping[str, list]) -> dict[str, list]:
  return {split: items.get(split, [])[: config.data[f"{split}_rows"] or None] for split in _SPLITS}


def _unique(records: Sequence[Record], convert: Callable[[Record], Any]) -> list:
  seen: dict[str, str] = {}
  items = []
  for record in records:
    item = convert(record)
    if item.id in seen:
      raise UserError(f"{record.where}: id {item.id!r} is also the id of {seen[item.id]}; ids must be unique")
    seen[item.id] = record.where
    items.append(item)
  return items


def _id(record: Record, columns: Mapping[str, str]) -> str:
  if "id" not in columns and "id" not in record.values:
    return record.id
  value = record.column(columns.get("id", "id"), "id")
  if value is None:
    raise UserError(f"{record.where}: the id is empty")
  return str(value)


def _example(record: Record, columns: Mapping[str, str]) -> Example:
  prompt, messages, text = (columns.get(name, name) for name in ("prompt", "messages", "text"))
  if prompt not in record.values and messages in record.values:
    before, completion = _last_answer(record, messages, _messages(record, messages))
    return Example(_id(record, columns), before, completion)
  if prompt not in record.values and text in record.values:
    return Example(_id(record, columns), None, _text(record, text, record.values[text]))
  return Example(_id(record, columns), _prompt(record, columns), _answer(record, columns, "completion"))


def _prompt(record: Record, columns: Mapping[str, str]) -> tuple[Message, ...] | str:
  name = columns.get("prompt", "prompt")
  value = record.column(name, "prompt")
  return _messages(record, name) if isinstance(value, list) else _text(record, name, value)


def _answer(record: Record, columns: Mapping[str, str], field: str) -> str:
  name = columns.get(field, field)
  value = record.column(name, field)
  if not isinstance(value, list):
    return _text(record, name, value)
  before, answer = _last_answer(record, name, _messages(record, name))
  if before:
    raise UserError(f"{record.where}: {name} holds {len(before) + 1} messages; after a prompt it must hold one")
  return answer


def _text(record: Record, name: str, value: Any) -> str:
  if not isinstance(value, str) or not value:
    raise UserError(f"{record.where}: {name} is {_kind(value)}; it must be text or a list of messages")
  return value


def _messages(record: Record, name: str) -> tuple[Message, ...]:
  value = record.values[name]
  if not isinstance(value, list) or not value:
    raise UserError(f"{record.where}: {name} is {_kind(value)}; it must be a list of messages")
  for message in value:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
      raise UserError(f'{record.where}: {name} must hold messages such as {{"role": "user", "content": TEXT}}')
    if message.get("role") not in ("system", "user", "assistant"):
      raise UserError(f"{record.where}: {name} has role {message.get('role')!r}, not system, user or assistant")
  return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _last_answer(record: Record, name: str, messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
  if messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
    raise UserError(f"{record.where}: the last message of {name} must be an assistant's answer")
  return messages[:-1], messages[-1]["content"]


def _kind(value: Any) -> str:
  return "empty" if value in (None, "", []) else f"a {type(value).__name__}"


def _plain_fields(item: Row | Example | PreferencePair | JudgedAnswer) -> dict[str, Any]:
  return {field.name: _jsonable(getattr(item, field.name)) for field in dataclasses.fields(item)}


def _jsonable(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(name): _jsonable(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_jsonable(inner) for inner in value]
  return value.item() if hasattr(value, "item") else value
