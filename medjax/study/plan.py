"""What a study will do: its runs, what their stages are likely to cost, and how far it has come."""

import dataclasses
import pathlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from medjax import config as schema
from medjax import tasks
from medjax.data import items
from medjax.data.examples import Example, JudgedAnswer, PreferencePair, Row
from medjax.data.loader import planned_steps
from medjax.data.rows import task_rows
from medjax.objectives.objective import objective_of
from medjax.objectives.preference import reads_reference
from medjax.tasks.task import Task
from medjax.training import checkpoints
from medjax.training.telemetry import progress

# Costs are in tokens of a forward pass; they weigh the stages against one another and need not be right.
_CHARACTERS = 4  # of a token
_BACKWARD = 3  # forward and backward pass
_DECODED = 2  # a token of a generated answer


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the study: a task, a seed, a method and one candidate of its hyperparameters."""

  task: str
  seed: int
  method: str
  candidate: int
  overrides: tuple[tuple[str, Any], ...]

  @property
  def folder(self) -> pathlib.Path:
    """Where in the study its workdir is."""
    return pathlib.Path(
      "runs", re.sub(r"[^\w.-]+", "-", self.task), f"seed{self.seed}", self.method, f"candidate{self.candidate}"
    )


@dataclasses.dataclass(frozen=True)
class Stage:
  """Something that takes time: `train`, `validation` or `test` of a run; `test` stands for the chosen candidate's."""

  run: Run
  kind: str
  cost: float
  steps: int = 0  # of training
  rows: int = 0  # that are trained on or evaluated


def plan(config) -> list[list[Run]]:
  """All runs in the order they are made; the runs of an inner list are candidates of which one is chosen.

  `study.grid` names the candidates of a method, or of `task/method`, which wins; without them there is one, the
  config as it is.
  """
  groups = []
  grid = schema.as_dict(config)["study"]["grid"]
  for task in config.study.tasks or (config.task,):
    task_of(config, task)
    for seed in config.study.seeds:
      for method in config.study.methods:
        candidates = grid.get(f"{task}/{method}", grid.get(method)) or [{}]
        if method == "base":
          candidates = [{}]
        groups.append([Run(task, seed, method, i, tuple(sorted(c.items()))) for i, c in enumerate(candidates)])
  return groups


def task_of(config, name: str) -> Task:
  """The task that a study's config names: in `study.tasks`, or as its own."""
  return tasks.of(schema.with_overrides(config, {"task": name}))


def run_config(config, run: Run, workdir: pathlib.Path, start_from: Run | None = None):
  """The config of one run: the study's, with the run's task, method, seed and overrides."""
  changes = dict(run.overrides) | {"task": run.task, "method": run.method, "seed": run.seed}
  if start_from is not None:
    changes["train.init_from"] = str(workdir / start_from.folder)
  changed = schema.with_overrides(config, changes)
  schema.validate(changed)
  return changed


def stages(config, groups: Sequence[Sequence[Run]], workdir: pathlib.Path) -> list[Stage]:
  """The stages of all runs, in order, with what each is likely to cost.

  Args:
    config: the study's.
    groups: what `plan` gave.
    workdir: the study's folder.

  Raises:
    UserError: the config or the data of a run cannot be used.
  """
  found = []
  for candidates in groups:
    task = task_of(config, candidates[0].task)
    for run in candidates:
      settings = run_config(config, run, workdir)
      if run.method != "base":
        found.append(_training(settings, run, task))
      rows = task_rows(settings, task)
      if len(candidates) > 1:
        found.append(Stage(run, "validation", _evaluation_cost(task, rows["validation"]), rows=len(rows["validation"])))
    found.append(Stage(candidates[0], "test", _evaluation_cost(task, rows["test"]), rows=len(rows["test"])))
  return found


def describe(found: Sequence[Stage]) -> list[str]:
  """The plan as lines of a table: task, method, candidates, steps, rows, and the share of the expected time."""
  line = "{:<24}{:<8}{:>5}{:>12}{:>12}{:>12}{:>12}{:>12}{:>8}".format
  lines = [line("task", "method", "seed", "candidates", "steps", "train", "validation", "test", "time")]
  total = sum(stage.cost for stage in found) or 1.0
  for where in dict.fromkeys((stage.run.task, stage.run.method, stage.run.seed) for stage in found):
    own = [stage for stage in found if (stage.run.task, stage.run.method, stage.run.seed) == where]

    def shown(kind: str, value: str, own=own) -> str:
      return "/".join(dict.fromkeys(str(getattr(stage, value)) for stage in own if stage.kind == kind)) or "-"

    counts = shown("train", "steps"), shown("train", "rows"), shown("validation", "rows"), shown("test", "rows")
    share = sum(stage.cost for stage in own) / total
    lines.append(line(*where, len({stage.run.candidate for stage in own}), *counts, f"{share:.0%}"))
  return lines


def tell(line: str) -> None:
  """Writes a line on stderr, clear of the bars there."""
  tqdm.write(line, file=sys.stderr)


def is_done(stage: Stage, workdir: pathlib.Path) -> bool:
  """Whether an earlier command has left what this stage makes."""
  folder = workdir / stage.run.folder
  if stage.kind == "test":  # of whichever candidate was chosen
    return any(folder.parent.glob("candidate*/eval/test/metrics.json"))
  if stage.kind == "validation":
    return (folder / "eval" / "validation" / "metrics.json").exists()
  return (folder / checkpoints.DIRECTORY / str(stage.steps) / "params").is_dir()


class Progress:
  """How far the study is and how long it will take, on stderr: a bar, or a line a stage where that is no terminal.

  Args:
    found: all stages.
    workdir: the study's folder; what is done there already takes no time.
  """

  def __init__(self, found: Sequence[Stage], workdir: pathlib.Path):
    self._left = {(s.run.folder, s.kind): s.cost for s in found if not is_done(s, workdir)}
    self._to_do = sum(self._left.values())
    self._total = sum(stage.cost for stage in found)
    self._started = time.monotonic()
    self._bar = progress(self._total, "study", self._total - self._to_do)
    self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    self._bar.refresh()

  def finish(self, run: Run, kind: str) -> None:
    """Notes that a stage has ended; `test` belongs to the first candidate, whichever was chosen."""
    cost = self._left.pop((run.folder, kind), None)
    if cost is None:
      return
    told = f"about {_duration(self.seconds_left())} left" if self._left else "done"
    self._bar.set_postfix_str(told, refresh=False)
    self._bar.update(cost)
    self._bar.refresh()
    if self._bar.disable:
      share = 1 - sum(self._left.values()) / self._total
      tell(f"study: {100 * share:.0f} %, {told} after {_duration(time.monotonic() - self._started)}")

  def seconds_left(self) -> float:
    """What is left, at the mean speed so far (infinite before the first stage has ended)."""
    left = sum(self._left.values())
    done = self._to_do - left
    return (time.monotonic() - self._started) * left / done if done else float("inf")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()


def _duration(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _training(settings, run: Run, task: Task) -> Stage:
  found = items.training_items(settings, task)["train"]
  steps = planned_steps(settings, len(found))
  tokens = sum(map(_tokens, found)) / len(found)
  drawn = steps * settings.train.batch_size
  reference = 0
  if reads_reference(objective_of(settings)):
    reference = drawn if settings.preference.reference == "live" else len(found)
  return Stage(run, "train", (_BACKWARD * drawn + reference) * tokens, steps, len(found))


def _tokens(item: Example | PreferencePair | JudgedAnswer) -> float:
  """Tokens of a group, the prompt once."""
  return (_characters(item.prompt) + sum(map(len, item.answers))) / _CHARACTERS


def _characters(prompt: Sequence[Mapping[str, str]] | str) -> int:
  return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _evaluation_cost(task: Task, rows: Sequence[Row]) -> float:
  if task.generation is not None:
    answer = _DECODED * task.generation.max_new_tokens
  else:
    answer = sum(len(task.completion(labels)) for labels in task.answers()) / _CHARACTERS
  return sum(_characters(task.prompt(row)) / _CHARACTERS + answer for row in rows)
