"""Rows and records -> examples, preference pairs and judged answers, by split."""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from medjax import files, privacy
from medjax.config_checks import PAIRS
from medjax.data.examples import Conversation, Example, JudgedAnswer, Message, PreferencePair, Row
from medjax.data.judged import answers_of_pairs, with_unrelated
from medjax.data.pair_files import of_train_rows
from medjax.data.rows import (
  SPLITS,
  by_split,
  given_splits,
  id_of,
  jsonable,
  limited,
  new_item,
  task_rows,
  wanted_rows,
  windowed,
)
from medjax.data.sources import Record, read_records
from medjax.errors import UserError

if typing.TYPE_CHECKING:
  from medjax.tasks.task import Task

_TEXT_FIELDS = ("id", "split", "prompt", "completion", "messages", "text", "chosen", "rejected", "label")
_UNSAID = (("weight", 1.0), ("more", ()))
_JUDGEMENTS = {"true": True, "1": True, "false": False, "0": False}


def training_items(
  config: ml_collections.ConfigDict, task: "Task | None" = None, rows: Mapping[str, list[Row]] | None = None
) -> dict[str, list]:
  """What a stage of training reads: for `sft` examples and conversations, for `dpo` pairs, with `kto` judged answers.

  Args:
    config: a validated run config.
    task: the task, or None where `data.source` holds prompts and answers.
    rows: what `task_rows` gives for config and task, where it has been read already.

  Returns:
    `train` and `validation` items (validation is empty where the source has no splits and there is no task).

  Raises:
    UserError: a row that does not fit, with file and line; no train rows.
  """
  wants_pairs = config.method == "dpo"
  wants_judged = wants_pairs and config.preference.loss == "kto"
  if task is not None and not (wants_pairs and config.preference.pairs == "given"):
    rows = task_rows(config, task) if rows is None else rows
    if wants_pairs:
      items = {split: task.pairs(rows.get(split, []), config.seed) for split in SPLITS[:2]}
      if config.preference.pairs != "task":
        items["train"] = _pairs_of_file(config, task, rows["train"])
    else:
      items = {split: [task.example(row) for row in windowed(rows.get(split, []), task)] for split in SPLITS[:2]}
  else:
    if wants_pairs and config.preference.pairs not in PAIRS:
      raise UserError(f"config.preference.pairs is {config.preference.pairs!r}; set config.task, whose rows it is of")
    if not config.data.source:
      raise UserError("config.data.source is empty; name a file with prompts and answers, or set config.task")
    records = read_records(config.data.source, wanted_rows(config))
    columns = _columns(config, _TEXT_FIELDS)
    convert = pairs_from_records if wants_pairs else examples_from_records
    if wants_judged and columns.get("chosen", "chosen") not in records[0].values:
      convert = judged_from_records
    converted = convert(records, columns)
    splits = given_splits(config, records) or ["train"] * len(records)
    items = limited(config, by_split(converted, splits))
  if not items["train"]:
    raise UserError(f"no train rows in {config.data.source or task.name}")
  if wants_judged:
    return {split: with_unrelated(answers_of_pairs(items[split])) for split in SPLITS[:2]}
  return {split: items[split] for split in SPLITS[:2]}


def fingerprint(items: Iterable[Row | Example | Conversation | PreferencePair | JudgedAnswer]) -> str:
  """Names the content of rows or items: equal on every machine, different where any field differs."""
  return files.fingerprint([{**_plain_fields(item), "kind": type(item).__name__} for item in items])


def examples_from_records(records: Sequence[Record], columns: Mapping[str, str]) -> list[Example | Conversation]:
  """What SFT learns from rows of `prompt` and `completion`, of `messages` that end with an answer, or of `text`.

  Args:
    records: rows; prompt is text or messages, completion is text or one assistant message in a list. Of `messages`
      every answer is learnt (but for one that comes first, which nothing asks for), of a `text` each token.
    columns: our field -> column, where the names differ.

  Raises:
    UserError: a missing column or a value of another form, with file and line.
  """

  def convert(record: Record) -> Example | Conversation:
    example, name = _example(record, columns), columns.get("messages", "messages")
    if not _holds_messages(record, columns):
      return example
    conversation = Conversation(example.id, _messages(record, name))
    if not all(conversation.answers):
      raise UserError(f"{record.where}: {name} holds an empty answer; every answer of a conversation is learnt")
    return conversation if len(conversation.answers) > 1 else example

  return _unique(records, convert)


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
      raise UserError(f"{record.where}: {name} must be true or false, or 1 or 0{privacy.shown(label)}")
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
    return PreferencePair(id_of(record, columns), prompt, chosen, rejected)

  return _unique(records, convert)


def _pairs_of_file(config: ml_collections.ConfigDict, task: "Task", used: Sequence[Row]) -> list[PreferencePair]:
  """The pairs of the file that `preference.pairs` names, checked against all rows that there are."""
  records = read_records(config.preference.pairs)
  unlimited = config.copy_and_resolve_references()
  for split in SPLITS:
    unlimited.data[f"{split}_rows"] = 0
  rows = task_rows(unlimited, task)
  return of_train_rows(config.preference.pairs, records, pairs_from_records(records, {}), task, rows, used)


def _columns(config: ml_collections.ConfigDict, allowed: Sequence[str]) -> dict[str, str]:
  columns = dict(config.data.columns)
  for field in columns:
    if field not in allowed:
      raise UserError(f"config.data.columns.{field} names no field; without a task they are {', '.join(allowed)}")
  return columns


def _unique(records: Sequence[Record], convert: Callable[[Record], Any]) -> list:
  seen: dict[str, str] = {}
  return [new_item(convert(record), record, seen) for record in records]


def _holds_messages(record: Record, columns: Mapping[str, str]) -> bool:
  """Whether a row is a conversation: `messages` without a `prompt`."""
  prompt, messages = (columns.get(name, name) for name in ("prompt", "messages"))
  return prompt not in record.values and messages in record.values


def _example(record: Record, columns: Mapping[str, str]) -> Example:
  """A prompt and its answer; of a conversation its last one."""
  prompt, messages, text = (columns.get(name, name) for name in ("prompt", "messages", "text"))
  if _holds_messages(record, columns):
    before, completion = _last_answer(record, messages, _messages(record, messages))
    return Example(id_of(record, columns), before, completion)
  if prompt not in record.values and text in record.values:
    return Example(id_of(record, columns), None, _text(record, text, record.values[text]))
  return Example(id_of(record, columns), _prompt(record, columns), _answer(record, columns, "completion"))


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
      role = privacy.shown(message.get("role"))
      raise UserError(f"{record.where}: {name} has a role that is not system, user or assistant{role}")
  return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _last_answer(record: Record, name: str, messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
  if messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
    raise UserError(f"{record.where}: the last message of {name} must be an assistant's answer")
  return messages[:-1], messages[-1]["content"]


def _kind(value: Any) -> str:
  return "empty" if value in (None, "", []) else f"a {type(value).__name__}"


def _plain_fields(item: Row | Example | Conversation | PreferencePair | JudgedAnswer) -> dict[str, Any]:
  """Name -> value; a field that was added later is left out where it says nothing, so that fingerprints stay."""
  values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
  return {name: jsonable(value) for name, value in values.items() if (name, value) not in _UNSAID}
