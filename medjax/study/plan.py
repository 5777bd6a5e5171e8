"""What a study will do: its runs, which of them are compared on validation, and what each may spend."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medjax import config as schema
from medjax import tasks
from medjax.data import items
from medjax.data.loader import planned_steps
from medjax.errors import UserError
from medjax.methods import METHODS, settings_of
from medjax.tasks.task import Task

Key = tuple[str, int, str]  # task, seed, method
OPTIONS = "options.json"  # in the folder of a study: what `Options` it has
_CHARACTERS = 4  # of a token


@dataclasses.dataclass(frozen=True)
class Options:
  """What a study does beside its config; it is the same in every command on one folder.

  Attributes:
    few_shot: answered examples in a prompt of `few_shot`.
    halving: of the candidates of a method one in so many goes on from one rung to the next; 0 trains all to the end.
    budget: training tokens that a method's candidates have together, for a task and seed; 0 as the config says.
    prior: the label prior of methods that train nothing (`evaluation.options.Options`); others have learnt theirs.
  """

  few_shot: int = 4
  halving: int = 0
  budget: int = 0
  prior: str = "validation"

  def prior_of(self, method: str, task: Task, validation: bool) -> str:
    """The label prior with which a method is tested.

    Args:
      method: which.
      task: whether its labels are scored.
      validation: whether it has validation rows, without which their prior is not known.
    """
    if METHODS[method].trains or task.generation is not None or (self.prior == "validation" and not validation):
      return "none"
    return self.prior


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of the study: a task, a seed, a method and one candidate of its hyperparameters."""

  task: str
  seed: int
  method: str
  candidate: int
  overrides: tuple[tuple[str, Any], ...] = dataclasses.field(hash=False)  # their values may be mappings

  @property
  def folder(self) -> pathlib.Path:
    """Where in the study its workdir is."""
    return pathlib.Path(
      "runs", re.sub(r"[^\w.-]+", "-", self.task), f"seed{self.seed}", self.method, f"candidate{self.candidate}"
    )

  @property
  def named(self) -> str:
    """As messages call it."""
    return f"{self.task}, {self.method}, seed {self.seed}, candidate {self.candidate}"


@dataclasses.dataclass(frozen=True)
class Rung:
  """A part of the training of a group: how many candidates train on to which share of their steps."""

  candidates: int
  share: float


@dataclasses.dataclass(frozen=True)
class Group:
  """The candidates of a method, a task and a seed, of which one is chosen.

  Attributes:
    runs: the candidates.
    after: the group whose chosen run comes first: where these runs start, or what they are the same as; or None.
    copied: whether the results are those of the run in `after`: the model as it is has no seed.
  """

  runs: tuple[Run, ...]
  after: Key | None = None
  copied: bool = False

  @property
  def key(self) -> Key:
    """Task, seed and method."""
    return self.runs[0].task, self.runs[0].seed, self.runs[0].method

  @property
  def trains(self) -> bool:
    """Whether its runs are trained."""
    return METHODS[self.key[2]].trains


def plan(config, options: Options = Options()) -> list[Group]:
  """All groups of runs, each behind the one that it needs.

  `study.grid` names the candidates of a method, or of `task/method`, which wins; without them there is one, the
  config as it is. With `options.budget` the steps of a method's candidates are multiplied by one factor, so that their
  training has about that many tokens.

  Raises:
    UserError: an unknown task, or with a budget data that cannot be read.
  """
  groups = []
  grid = schema.as_dict(config)["study"]["grid"]
  methods = [name for name in config.study.methods if METHODS[name].after not in config.study.methods]
  methods += [name for name in config.study.methods if name not in methods]
  measured = Measured(config)
  for task in config.study.tasks or (config.task,):
    task_of(config, task)
    for seed in config.study.seeds:
      for method in methods:
        candidates = grid.get(f"{task}/{method}", grid.get(method)) or [{}]
        runs = tuple(Run(task, seed, method, i, tuple(sorted(c.items()))) for i, c in enumerate(candidates))
        first, after = METHODS[method].after, None
        copied = method == "base" and seed != config.study.seeds[0]
        if copied:
          after = (task, config.study.seeds[0], method)
        elif first in config.study.methods:
          after = (task, seed, first)
        if METHODS[method].trains and options.budget:
          runs = _scaled(config, runs, options, measured)
        groups.append(Group(runs, after, copied))
  return groups


def rungs(candidates: int, halving: int) -> tuple[Rung, ...]:
  """Successive halving (Jamieson and Talwalkar 2016, 1502.07943) of so many candidates.

  The first rung trains all of them for a share of their steps; one in `halving`, the best on validation, goes on to
  `halving` times that share, until one rung is the whole training. The schedule of the learning rate is that of the
  whole training from the start.
  """
  found, left = [], candidates
  while halving and left >= halving:
    found.append(left)
    left //= halving
  found.append(left)
  return tuple(Rung(count, float(halving or 1) ** (place + 1 - len(found))) for place, count in enumerate(found))


def steps_at(steps: int, rung: Rung) -> int:
  """How far a run of so many steps is trained in a rung."""
  return max(1, round(steps * rung.share))


def task_of(config, name: str) -> Task:
  """The task that a study's config names: in `study.tasks`, or as its own."""
  return tasks.of(schema.with_overrides(config, {"task": name}))


def run_config(config, run: Run, workdir: pathlib.Path, start_from: Run | None = None):
  """The config of one run: the study's, with the run's task, seed, what its method sets, and its overrides."""
  changes = settings_of(run.method) | dict(run.overrides) | {"task": run.task, "seed": run.seed}
  if start_from is not None:
    changes["train.init_from"] = str(workdir / start_from.folder)
  changed = schema.with_overrides(config, changes)
  schema.validate(changed)
  return changed


@dataclasses.dataclass(frozen=True)
class Items:
  """What a run trains on: how many items, and the mean tokens of one, its prompt once and with each answer."""

  count: int
  shared: float
  plain: float


class Measured:
  """The items of runs, about, read once for all runs that have the same."""

  def __init__(self, config):
    self._config = config
    self._known: dict[str, Items] = {}

  def of(self, run: Run) -> tuple[Any, Items]:
    """The run's config, and its items.

    Raises:
      UserError: the run's config or data cannot be used.
    """
    settings = run_config(self._config, run, pathlib.Path())
    values = schema.as_dict(settings)
    judged = settings.preference.loss == "kto"
    key = repr([values[k] for k in ("task", "define", "data", "method", "seed")] + [settings.preference.pairs, judged])
    if key not in self._known:
      found = items.training_items(settings, task_of(self._config, run.task))["train"]
      prompts = [characters(item.prompt) for item in found]
      answers = [sum(map(len, item.answers)) for item in found]
      plain = [prompt * len(item.answers) for prompt, item in zip(prompts, found, strict=True)]
      size = _CHARACTERS * len(found)
      self._known[key] = Items(len(found), sum(prompts + answers) / size, sum(plain + answers) / size)
    return settings, self._known[key]


def characters(prompt: Sequence[Mapping[str, str]] | str | None) -> int:
  """Characters of a prompt's texts."""
  if prompt is None or isinstance(prompt, str):
    return len(prompt or "")
  return sum(len(message["content"]) for message in prompt)


def trained_in(steps: Sequence[int], halving: int) -> Iterator[tuple[int, Rung, int]]:
  """What is trained in a group of runs of so many steps, as (place of a run, rung, steps of it in that rung).

  Which runs go on is known after a rung alone; here they are the first ones.
  """
  done = [0] * len(steps)
  for rung in rungs(len(steps), halving):
    for place in range(rung.candidates):
      until = steps_at(steps[place], rung)
      yield place, rung, until - done[place]
      done[place] = until


def _scaled(config, runs: tuple[Run, ...], options: Options, measured: Measured) -> tuple[Run, ...]:
  """The runs with as many steps as the budget allows, in the proportions that they have."""
  settings, found = zip(*map(measured.of, runs), strict=True)
  steps = [planned_steps(one, of_one.count) for one, of_one in zip(settings, found, strict=True)]
  of_step = [one.train.batch_size * of_one.plain for one, of_one in zip(settings, found, strict=True)]
  planned = sum(count * of_step[place] for place, _, count in trained_in(steps, options.halving))
  factor = options.budget / planned
  if factor * max(steps) < 0.5:
    least = math.ceil(planned / max(steps))
    raise UserError(
      f"--budget is {options.budget}; {runs[0].task} with {runs[0].method} needs {least} for one step each"
    )
  changed = []
  for run, one, count in zip(runs, settings, steps, strict=True):
    scaled = max(1, round(count * factor))
    overrides = dict(run.overrides) | {"train.steps": scaled}
    if one.optimizer.warmup_steps > scaled:
      overrides["optimizer.warmup_steps"] = scaled
    changed.append(dataclasses.replace(run, overrides=tuple(sorted(overrides.items()))))
  return tuple(changed)
