"""The task that a run's config names: registered, defined by the config itself, or registered by a file of the user."""

import dataclasses
import difflib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from medjax.data.sources import read_records
from medjax.errors import UserError
from medjax.tasks import task as registry
from medjax.tasks.kind import Prompt
from medjax.tasks.label_kinds import NumericClassification, TextClassification, Triage
from medjax.tasks.task import Task
from medjax.tasks.text_kinds import ClinicalReasoning, Summarization

KINDS: dict[str, type[Prompt]] = {
  kind.kind: kind for kind in (TextClassification, NumericClassification, ClinicalReasoning, Summarization, Triage)
}


def of(config: ml_collections.ConfigDict) -> Task:
  """The task of a run.

  Args:
    config: a validated run config whose `task` is not empty, after `settled` where labels are to be found in the data.

  Raises:
    UserError: an unknown task, a file that registers none, or a key of `config.define` that cannot be.
  """
  if len(config.define):
    return kind_of(config).task()
  name = config.task
  path, _, wanted = name.partition(".py:") if ".py:" in name else (name.removesuffix(".py"), "", "")
  if name.endswith(".py") or wanted:
    return _from_file(pathlib.Path(f"{path}.py"), wanted)
  return registry.get(name)


def settled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with the labels that `define` leaves to the data, so that a checkpoint knows them without the data.

  Raises:
    UserError: as `of`, and a source that cannot be read.
  """
  if not len(config.define):
    return config
  kind = kind_of(config)
  wanted = kind.missing_labels()
  if not wanted:
    return config
  records = read_records(config.data.source)
  if isinstance(kind, ClinicalReasoning):
    labels: Any = kind.letters_of([record.values for record in records])
  else:
    columns = {label.column: config.data.columns.get(label.column, label.column) for label in wanted}
    labels = kind.with_labels(
      {name: [record.column(column, name) for record in records] for name, column in columns.items()}
    )
  copy = config.copy_and_resolve_references()
  if "labels" in copy.define:
    del copy.define["labels"]  # was of another type
  for label in () if isinstance(kind, ClinicalReasoning) else kind.columns:
    if "." in label.column:  # no key of a config may have a dot
      labels[label.target] = labels.pop(label.column)
      copy.data.columns[label.target] = label.column
  copy.define.labels = labels
  return copy


def kind_of(config: ml_collections.ConfigDict) -> Prompt:
  """The kind of task with the keys of `config.define`, which is not empty; UserError where one is of the wrong form."""
  kind, values = KINDS[config.task], config.define.to_dict()
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for key, value in values.items():
    if key not in fields:
      near = difflib.get_close_matches(key, fields, 1)
      hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(fields)}"
      raise UserError(f"config.define.{key} is no key of {config.task}; {hint}")
    _check(key, value, fields[key])
    if key in kind.choices and value not in kind.choices[key]:
      raise UserError(f"config.define.{key} is {value!r}; it must be one of {', '.join(kind.choices[key])}")
  return kind(**values)


def _check(key: str, value: Any, field: dataclasses.Field) -> None:
  """Refuses a value that is of another type than a key of one plain type takes."""
  if field.type not in (str, int, float, bool):
    return
  number = isinstance(value, int | float) and not isinstance(value, bool)
  fits = number if field.type is float else isinstance(value, field.type) and (field.type is bool or value is not True)
  if field.type is int:
    fits = number and float(value).is_integer() and value >= 0
  if not fits:
    raise UserError(f"config.define.{key} is {value!r}; it must be {field.type.__name__}")


def _from_file(path: pathlib.Path, wanted: str) -> Task:
  """Runs a file of the user and gives the task that it registers: the one of that name, or the only one."""
  if not path.is_file():
    raise UserError(f"config.task names {path}, which does not exist")
  before = {task.name: task for task in registry.registered()}
  spec = importlib.util.spec_from_file_location(f"medjax_task_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except Exception as error:
    raise UserError(f"config.task: {path} cannot be run: {type(error).__name__}: {error}") from error
  made: Mapping[str, Task] = {task.name: task for task in registry.registered() if before.get(task.name) is not task}
  if wanted and wanted not in made:
    raise UserError(f"{path} registers no task {wanted!r}; it registers {', '.join(made) or 'none'}")
  if not wanted and len(made) != 1:
    raise UserError(
      f"{path} registers {', '.join(made) or 'no task'}; "
      + ("name one: config.task = FILE.py:NAME" if made else "call medjax.tasks.register(medjax.Task(...)) in it")
    )
  return made[wanted] if wanted else next(iter(made.values()))
