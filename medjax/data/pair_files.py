"""Pairs that `medjax prefer` wrote, for training: which rows they are of, and that none of these is held out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medjax import privacy
from medjax.data.examples import PreferencePair, Row
from medjax.data.sources import Record
from medjax.errors import UserError

if TYPE_CHECKING:
  from medjax.tasks.task import Task


def of_train_rows(
  path: str,
  records: Sequence[Record],
  pairs: Sequence[PreferencePair],
  task: "Task",
  rows: Mapping[str, Sequence[Row]],
  used: Sequence[Row],
) -> list[PreferencePair]:
  """The pairs of a file that belong to the train rows in use, each with its `how`.

  Args:
    path: the file, for messages.
    records: its lines; `row` is the id of the row that a pair was made of.
    pairs: what they hold.
    task: renders the prompts.
    rows: all rows of the current config by split, however many of them are used.
    used: the train rows that are.

  Raises:
    UserError: a pair of a validation or test row, by its id or (where the ids may have changed) by its prompt, unless
      a train row has that prompt, too; or of a row that this config does not have. Tells how many, and the first one.
      Or no pair is left.
  """
  origins = [str(record.column("row")) for record in records]
  held_out = {row.id for split in ("validation", "test") for row in rows[split]}
  known = {row.id for row in rows["train"]}
  asked = {split: {_words(task.prompt(row)) for row in rows[split]} for split in rows}
  held_out_prompts = (asked["validation"] | asked["test"]) - asked["train"]
  leaked = [
    origin
    for origin, pair in zip(origins, pairs, strict=True)
    if origin in held_out or _words(pair.prompt) in held_out_prompts
  ]
  if leaked:
    raise UserError(
      f"{path}: {len(leaked)} of {len(pairs)} pairs are of validation or test rows (first: {privacy.row(leaked[0])}); "
      "write the file again with `medjax prefer` and this config"
    )
  unknown = [origin for origin in origins if origin not in known]
  if unknown:
    raise UserError(
      f"{path}: {len(unknown)} of {len(pairs)} pairs are of rows that this config does not have (first: "
      f"{privacy.row(unknown[0])}); write the file again with this config, or give it as data.source with "
      "preference.pairs=given"
    )
  wanted = {row.id for row in used}
  if not wanted.intersection(origins):
    raise UserError(f"{path}: no pair is of the {len(used)} train rows in use; raise data.train_rows, or set it to 0")
  return [
    dataclasses.replace(pair, how=str(record.values.get("how", "given")))
    for record, pair, origin in zip(records, pairs, origins, strict=True)
    if origin in wanted
  ]


def _words(prompt) -> str | tuple[tuple[str, str], ...]:
  """A prompt as it can be looked up."""
  return prompt if isinstance(prompt, str) else tuple((message["role"], message["content"]) for message in prompt)
