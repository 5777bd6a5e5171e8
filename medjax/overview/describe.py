"""What medjax sees in a run's data, as one JSON-able value: counts, labels, lengths, duplicates, leaks."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax import tasks
from medjax.data import chat, items
from medjax.data.column_names import names_to_review
from medjax.data.duplicates import duplicates
from medjax.data.examples import Row, Segments
from medjax.data.identifiers import identifiers
from medjax.data.leaks import leaks
from medjax.data.loader import Plan, planned_steps
from medjax.data.rows import SPLITS, RowsOf, labelled_records, own_columns
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.tasks import public, shown
from medjax.tasks.task import Target, Task
from medjax.training.telemetry import progress

SCHEMA_VERSION = 1
BINS = 40
MOST_TARGETS = 10  # targets whose leaks are looked for
FORECAST_STEPS = 200  # of which the packing is computed
FEW = 20  # rows of a label, below which a metric of it says little

Texts = Mapping[str, Sequence[tuple[str, str, str]]]  # split -> (id, group, text) of each row


def describe(config, with_identifiers: bool = False) -> dict[str, Any]:
  """Reads what a run would read, without a model's weights.

  Args:
    config: a validated run config.
    with_identifiers: whether texts are searched for what may identify a patient.

  Returns:
    What `data.json` holds; docs/data.md has its keys. There is no text of the data in it: counts, column names and ids.

  Raises:
    UserError: config or data cannot be used.
  """
  task = tasks.of(config) if config.task else None
  found = labelled_records(config, task) if task else None
  items_by_split = items.training_items(config, task, found.splits if task else None)
  described = load_config_and_tokenizer(config.model.path)
  encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
  limits = chat.limits_of(config, described.config, config.train.row_length)
  seen: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "source": config.data.source or "the task's own rows"}
  seen |= {"task": task.name if task else "", "method": config.method, "model": config.model.path}
  if config.define.get("public"):
    seen["notices"] = _notices(config)
  if task:
    seen["left_out"] = found.left_out
    seen["split_by"] = found.split_by
    seen["splits"] = {split: split_counts(task, rows) for split, rows in found.splits.items()}
    texts = {split: [compared(config, task, row) for row in rows] for split, rows in found.splits.items()}
    labels = {row.id: answer_of(task, row) for row in itertools.chain(*found.splits.values())}
    encoded = {split: _encoded(task, rows, encoder, split) for split, rows in found.splits.items()}
  else:
    seen["splits"] = {split: {"rows": len(of), "data": items.fingerprint(of)} for split, of in items_by_split.items()}
    texts = {split: [(item.id, item.id, _text_of(item)) for item in of] for split, of in items_by_split.items()}
    labels = None
    encoded = {split: _segments(of, encoder, split) for split, of in items_by_split.items()}
  seen["lengths"] = _lengths({split: groups for split, groups in encoded.items() if groups})
  seen["training"] = _training(config, items_by_split["train"], encoder, limits)
  seen["duplicates"] = _duplicates(texts, labels)
  if task:
    seen["columns"] = columns_alone(config, task, found)
  if with_identifiers:
    seen["identifiers"] = _identifiers(texts)
  seen["warnings"] = warnings_of(seen)
  return seen


def cautions(config, with_identifiers: bool) -> list[str]:
  """What is to be said before training: terms of a public set, its test rows, and what may identify a patient."""
  said = []
  if config.define.get("public"):
    said += _notices(config)
  if with_identifiers:
    found = items.training_items(config, tasks.of(config) if config.task else None)
    every = [(item.id, _text_of(item)) for item in (*found["train"], *found["validation"])]
    said += _identifier_warnings(dataclasses.asdict(identifiers(every)))
  return said


def _notices(config) -> list[str]:
  """Terms of the public set that the config names; and a warning where the source is its test set."""
  is_test = config.define.get("public_test", False) or config.data.source.partition("#")[2].startswith("test")
  return public.notices(config.define.public, is_test)


def split_counts(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
  """Rows, groups, and how often each label occurs."""
  labels = {}
  for name, target in task.targets.items():
    if isinstance(target, Target):
      counts = collections.Counter(row.labels[name] for row in rows)
      labels[name] = {label: counts[label] for label in target.labels}
  return {
    "rows": len(rows),
    "groups": len({row.group for row in rows}),
    "labels": labels,
    "data": items.fingerprint(rows),
  }


def answer_of(task: Task, row: Row) -> str:
  """All labels of a row, by which equal prompts are told to conflict."""
  return "; ".join(row.labels[name] for name in task.targets)


def compared(config, task: Task, row: Row) -> tuple[str, str, str]:
  """Id, group and what two prompts are compared by: the cells that are shown, without the words between them."""
  if not len(config.define):
    return row.id, row.group, task.render(row.fields)
  cells = (shown.known(row.fields.get(column)) for column in tasks.kind_of(config).input_columns)
  return row.id, row.group, " ".join(cells)


def _text_of(item: Any) -> str:
  """The prompt of an item, or the whole text where it has none."""
  if item.prompt is None:
    return item.answers[0]
  return item.prompt if isinstance(item.prompt, str) else "\n".join(message["content"] for message in item.prompt)


def _encoded(task: Task, rows: Sequence[Row], encoder: chat.Encoder, split: str) -> list[Segments]:
  """Segments of rows with their true answers, in pieces where the task reads long ones so."""
  return _segments([task.example(piece) for row in rows for piece in task.windows(row)], encoder, split)


def _segments(found: Sequence[Any], encoder: chat.Encoder, split: str) -> list[Segments]:
  groups: list[Segments] = []
  with progress(len(found), f"tokens {split}") as bar:
    for start in range(0, len(found), 1000):
      groups += encoder.segments(found[start : start + 1000])
      bar.update(len(found[start : start + 1000]))
  return groups


def _lengths(encoded: Mapping[str, Sequence[Segments]]) -> dict[str, Any]:
  """Quantiles and a histogram of tokens of prompts and of answers, with the same bins for all splits."""
  tokens = {
    "prompt": {split: np.array([len(group.prompt) for group in groups]) for split, groups in encoded.items()},
    "completion": {
      split: np.array([len(ids) for group in groups for ids, scored in group.runs if scored])
      for split, groups in encoded.items()
    },
  }
  most = {part: max(of_split.max() for of_split in by_split.values()) for part, by_split in tokens.items()}
  edges = {part: np.unique(np.linspace(0, high + 1, BINS + 1).round().astype(int)) for part, high in most.items()}
  return {split: {part: _quantiles(tokens[part][split], edges[part]) for part in tokens} for split in encoded}


def _quantiles(tokens: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
  counts, _ = np.histogram(tokens, edges)
  return {
    "min": int(tokens.min()),
    "median": float(np.median(tokens)),
    "p95": float(np.quantile(tokens, 0.95)),
    "max": int(tokens.max()),
    "total": int(tokens.sum()),
    "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
  }


def _training(config, found: Sequence[Any], encoder: chat.Encoder, limits: chat.Limits) -> dict[str, Any]:
  """What the limits cut and drop, and how the rows of the run would be packed."""
  groups, report = chat.encode_all(found, encoder, limits)
  steps = planned_steps(config, len(groups))
  settings = config.train
  plan = Plan(groups, steps, config.seed, settings.batch_size, settings.row_length, settings.microbatch_rows)
  looked_at = [plan[step] for step in range(0, steps, max(1, steps // FORECAST_STEPS))]
  return {
    "items": len(found),
    "prompts_cut": len(report.cut),
    "rows_dropped": len(report.dropped),
    "limits": {"context": limits.max_length, "row_length": limits.row_length, "too_long": limits.too_long},
    "steps": steps,
    "epochs": steps * config.train.batch_size / max(len(groups), 1),
    "tokens_of_a_step": float(np.mean([item.tokens for item in looked_at])),
    "padded_share": float(np.mean([item.padded_share for item in looked_at])),
    "shapes": len(plan.shapes),
  }


def _duplicates(texts: Texts, labels: Mapping[str, str] | None) -> dict[str, Any]:
  with progress(sum(map(len, texts.values())), "duplicates") as bar:
    return dataclasses.asdict(duplicates(texts, labels, bar.update))


def _identifiers(texts: Texts) -> dict[str, Any]:
  every = [(id_, text) for rows in texts.values() for id_, _, text in rows]
  with progress(len(every), "identifiers") as bar:
    return dataclasses.asdict(identifiers(every, bar.update))


def columns_alone(config, task: Task, found: RowsOf) -> dict[str, Any]:
  """Names to review, and what each column alone says of each label, measured without the test rows."""
  rows = [row for split in SPLITS[:2] for row in found.splits[split]]
  labels = {config.data.columns.get(name, name) for name in own_columns(task)}
  names = [
    name for name in dict.fromkeys(itertools.chain(*(found.values[row.id] for row in rows))) if name not in labels
  ]
  values = {name: [found.values[row.id].get(name) for row in rows] for name in names}
  values = {name: [_scalar(value) for value in column] for name, column in values.items()}
  targets = [name for name, target in task.targets.items() if isinstance(target, Target)][:MOST_TARGETS]
  by_target = {}
  with progress(len(targets) * len(values), "columns") as bar:
    for name in targets if rows else ():
      report = leaks(values, [row.labels[name] for row in rows], [row.group for row in rows], bar.update)
      by_target[name] = {
        "rows": report.rows,
        "left_out": dict(report.left_out),
        "columns": [dataclasses.asdict(column) for column in report.columns],
      }
  return {
    "review": names_to_review(names),
    "after": [config.data.columns.get(name, name) for name in task.after],
    "shown": _shown(config, names),
    "alone": by_target,
  }


def _shown(config, names: Sequence[str]) -> list[str] | None:
  """The columns that the prompt shows; None where the task is code, which does not say."""
  if not len(config.define):
    return None
  columns = {config.data.columns.get(name, name) for name in tasks.kind_of(config).input_columns}
  return [name for name in names if name in columns]


def _scalar(value: Any) -> Any:
  return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def warnings_of(seen: Mapping[str, Any]) -> list[str]:
  """Lines that tell what to look at, from what `describe` has gathered so far."""
  said = list(seen.get("notices", ())[1:])
  training = seen.get("training", {"prompts_cut": 0, "rows_dropped": 0})
  if training["prompts_cut"] or training["rows_dropped"]:
    said.append(
      f"{training['prompts_cut']} prompts are cut and {training['rows_dropped']} rows dropped, of {training['items']}"
    )
  for overlap in seen["duplicates"]["overlaps"]:
    rows = overlap["exact_rows"] + overlap["near_rows"]
    if rows and overlap["first"] != overlap["second"]:
      said.append(
        f"{overlap['exact_rows']} rows of {overlap['second']} have a prompt that stands in {overlap['first']} too, "
        f"{overlap['near_rows']} nearly so; set data.split_by, or remove them"
      )
  if seen["duplicates"]["conflict_rows"]:
    said.append(f"{seen['duplicates']['conflict_rows']} rows share their prompt with a row of another label")
  for split, counts in seen["splits"].items():
    for name, labels in counts.get("labels", {}).items():
      rare = [label for label, count in labels.items() if count < FEW]
      if rare and counts["rows"] and split == "test":
        said.append(
          f"{name}: {len(rare)} of {len(labels)} labels have fewer than {FEW} {split} rows ({', '.join(rare)})"
        )
  said += _column_warnings(seen.get("columns"))
  return [*said, *_identifier_warnings(seen.get("identifiers", {"rows_with_any": 0}))]


def _identifier_warnings(found: Mapping[str, Any]) -> list[str]:
  if not found["rows_with_any"]:
    return []
  kinds = ", ".join(f"{kind['kind']} {kind['rows']}" for kind in found["found"])
  return [f"{found['rows_with_any']} of {found['rows']} rows have what may identify a patient ({kinds})"]


def _column_warnings(columns: Mapping[str, Any] | None) -> list[str]:
  if columns is None:
    return []
  used = columns["shown"]
  said = []
  for target, found in columns["alone"].items():
    for column in found["columns"]:
      if column["flagged"] and column["name"] not in columns["after"] and (used is None or column["name"] in used):
        said.append(f"{column['name']} alone nearly tells {target}: {column['why']}; is it known before the answer?")
  for name, why in columns["review"].items():
    if name not in columns["after"] and (used is None or name in used):
      said.append(f"{name}: {why}; if it is known only after the answer, list it in define.after")
  return said
