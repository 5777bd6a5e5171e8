"""The data card of a task in a study: where its rows are from, how they are split, what repeats, what leaks."""

import dataclasses
import itertools
from typing import Any

from medjax.data.duplicates import DuplicateReport, duplicates
from medjax.data.rows import labelled_records
from medjax.overview import describe
from medjax.study.plan import task_of
from medjax.tasks.task import TextTarget


def card(config, name: str) -> dict[str, Any]:
  """What a reader must know of the rows of a task.

  Prompts are compared within and across splits. Of rows that a source brings, each column alone is tried as a
  predictor of the labels, without the test rows; the rows that come with medjax need no such check, their makers say
  what prompts show. No text of the data is in the card: counts, ids of columns and fingerprints.

  Args:
    config: the study's, with `config.task` the task (its `data` says which rows).
    name: the task's in the study.

  Returns:
    `targets` (name -> `labels`, `ordinal` or `text`), `source`, `split_by`,
    `left_out`, `splits` (split -> `rows`, `groups`, `labels`, `data`, the fingerprint), `repeated` (pairs of splits
    with `exact_rows` and `near_rows` that occur in both), `conflict_rows` and `warnings`.

  Raises:
    UserError: the data cannot be read any more.
  """
  task = task_of(config, name)
  found = labelled_records(config, task)
  texts = {split: [describe.compared(config, task, row) for row in rows] for split, rows in found.splits.items()}
  labels = {row.id: describe.answer_of(task, row) for row in itertools.chain(*found.splits.values())}
  report = duplicates(texts, labels)
  seen: dict[str, Any] = {
    "targets": {
      target_name: "text" if isinstance(target, TextTarget) else "ordinal" if target.ordinal else "labels"
      for target_name, target in task.targets.items()
    },
    "source": config.data.source or "the task's own rows",
    "split_by": found.split_by,
    "left_out": found.left_out,
    "splits": {split: describe.split_counts(task, rows) for split, rows in found.splits.items()},
    "duplicates": dataclasses.asdict(report),
  }
  if config.data.source:
    seen["columns"] = describe.columns_alone(config, task, found)
  seen["warnings"] = describe.warnings_of(seen)
  seen |= {"repeated": _repeated(report), "conflict_rows": report.conflict_rows}
  return {key: value for key, value in seen.items() if key not in ("duplicates", "columns")}


def _repeated(report: DuplicateReport) -> list[dict[str, Any]]:
  """Every pair of splits with the rows that are in both, and each split with itself."""
  kept = ("first", "second", "exact_rows", "near_rows")
  return [{key: getattr(overlap, key) for key in kept} for overlap in report.overlaps]
