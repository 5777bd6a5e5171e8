"""Results by subgroup of the test rows: by age band, sex, site or any other column of the data, with intervals."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medjax.errors import UserError
from medjax.evaluation import statistics
from medjax.study import compare
from medjax.tasks.task import Target, TextTarget

MISSING = "not recorded"
FEWER = "in groups of fewer than 5 patients"  # all such levels of a column together: small cells can name a patient
LEAST_PATIENTS = 5
MOST_LEVELS = 24

Levels = Mapping[str, str]  # id of a test row -> its subgroup


@dataclasses.dataclass(frozen=True)
class Column:
  """A column to group by; numbers are cut in bands of `width`, which begin at its multiples."""

  name: str
  width: float | None = None


def parse(text: str) -> tuple[Column, ...]:
  """Columns as a flag names them: `age:10,sex` is age in bands of ten, and sex.

  Raises:
    UserError: a width that is no number above 0, a column without a name or named twice.
  """
  columns = []
  for part in filter(None, (part.strip() for part in text.split(","))):
    name, colon, width = (piece.strip() for piece in part.partition(":"))
    try:
      value = float(width) if colon else None
    except ValueError:
      value = math.nan
    if not name or (value is not None and not 0 < value < math.inf):
      raise UserError(f"--subgroups: {part!r} is no column; write NAME, or NAME:WIDTH for numbers, such as age:10")
    if name in {column.name for column in columns}:
      raise UserError(f"--subgroups names {name!r} twice; name each column once")
    columns.append(Column(name, value))
  return tuple(columns)


def levels(columns: Sequence[Column], rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict]:
  """The subgroups of all test rows.

  Args:
    columns: what to group by; a task that lacks a column is not grouped by it.
    rows: task -> id -> column -> value.

  Returns:
    Task -> column -> id -> level, the ids in the order of the levels.

  Raises:
    UserError: a column that no task has, or of more than `MOST_LEVELS` levels.
  """
  for column in columns:
    if not any(column.name in values for of_task in rows.values() for values in of_task.values()):
      raise UserError(f"--subgroups: no task of this study has a column {column.name!r}; name one of the data's")
  found = {}
  for task, of_task in rows.items():
    known = [column for column in columns if any(column.name in values for values in of_task.values())]
    found[task] = {column.name: _levels_of(column, of_task, task) for column in known}
  return found


def describe(
  answers: Mapping[compare.Key, compare.Answers],
  targets: Mapping[tuple[str, str], Target | TextTarget],
  found: Mapping[str, Mapping[str, Levels]],
  resamples: int = 2000,
) -> list[dict[str, Any]]:
  """The primary metric of every run in every subgroup.

  Levels with fewer than `LEAST_PATIENTS` patients are put together. Macro-F1 is over the labels that a subgroup has.
  Subgroups are described and not compared: they are small, and the study was not made to find their differences.

  Args:
    answers: as for `compare.compare`.
    targets: (task, target) -> Target or TextTarget.
    found: what `levels` gave.
    resamples: of the intervals.

  Returns:
    Rows of `study.json`'s `subgroups`: `task, target, method, seed, column, level, metric, value, low, high, n` and
    `groups`; `low` and `high` are None where there is one patient.
  """
  rows = []
  for (task, name, method, seed), run in answers.items():
    target = targets[task, name]
    for column, of_ids in found.get(task, {}).items():
      for level, places in _places(run, of_ids).items():
        part = {field: [values[place] for place in places] for field, values in run.items()}
        where = {"task": task, "target": name, "method": method, "seed": seed, "column": column, "level": level}
        rows.append({**where, **_measured(part, target, resamples)})
  return rows


def _levels_of(column: Column, rows: Mapping[str, Mapping[str, Any]], task: str) -> dict[str, str]:
  keys = {id_: _key(column, values.get(column.name)) for id_, values in rows.items()}
  if len(set(keys.values())) > MOST_LEVELS:
    hint = "a larger width" if column.width else f"a width for numbers, such as {column.name}:10"
    raise UserError(
      f"--subgroups: {column.name} of {task} has more than {MOST_LEVELS} different values; give {hint}, or leave it out"
    )
  return {id_: keys[id_][-1] for id_ in sorted(keys, key=lambda id_: keys[id_])}


def _key(column: Column, value: Any) -> tuple[int, float, str]:
  """What a value sorts by, and last its level: bands first, then texts, then what is missing."""
  text = "" if value is None else str(value).strip()
  if not text or text.casefold() == "nan":
    return 2, 0.0, MISSING
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if column.width is None or not math.isfinite(number):
    return (1, 0.0, text) if math.isnan(number) else (0, number, text)
  low = math.floor(number / column.width) * column.width
  return 0, low, f"{low:g} to <{low + column.width:g}"


def _places(run: compare.Answers, of_ids: Levels) -> dict[str, list[int]]:
  """Level -> places of its items, levels in order, those of too few patients together at the end."""
  places: dict[str, list[int]] = {level: [] for level in of_ids.values()}
  for place, id_ in enumerate(run["ids"]):
    places[of_ids[id_]].append(place)
  patients = {level: len({run["groups"][place] for place in own}) for level, own in places.items()}
  few = [level for level, count in patients.items() if count < LEAST_PATIENTS]
  if few:
    together = sorted(place for level in few for place in places[level])
    places = {level: own for level, own in places.items() if level not in few}
    if together:
      places[FEWER] = together
  return places


def _measured(run: compare.Answers, target: Target | TextTarget, resamples: int) -> dict[str, Any]:
  """The primary metric of some items with its interval."""
  patients = collections.Counter(run["groups"])
  several = len(patients) > 1
  # One patient has a value and no interval: the same items as two patients have that value.
  part = run if several else {field: [*values, *values] for field, values in run.items()}
  if not several:
    part["groups"] = [str(place) for place in range(len(part["ids"]))]
  if target.primary == "macro_f1":  # over the labels that the subgroup has; one it lacks would count as 0
    target = dataclasses.replace(target, labels=tuple(x for x in target.labels if x in set(part["references"])))
  sample = compare.sample_of(part, target, [target.primary])
  found = statistics.estimate(sample, resamples=resamples)[target.primary]
  ends = {"low": found.low, "high": found.high} if several else {"low": None, "high": None}
  return {"metric": target.primary, "value": found.value, **ends, "n": len(run["ids"]), "groups": len(patients)}
