"""What takes time in a study, how long it is likely to take, and which of it is done."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from medjax import files
from medjax.data.examples import Row
from medjax.data.loader import planned_steps
from medjax.data.rows import task_rows
from medjax.errors import UserError
from medjax.evaluation import results
from medjax.evaluation.priors import content_free_rows
from medjax.objectives.objective import objective_of
from medjax.objectives.preference import reads_reference
from medjax.study.plan import (
  Group,
  Key,
  Measured,
  Options,
  Run,
  characters,
  run_config,
  rungs,
  steps_at,
  task_of,
)
from medjax.tasks.task import Task
from medjax.training import checkpoints

# Costs are in tokens of a forward pass; they weigh the stages against one another and need not be right.
_CHARACTERS = 4  # of a token
_BACKWARD = 3  # forward and backward pass
_DECODED = 2  # a token of a generated answer
_OVERHEAD = 4.0  # seconds that a stage takes beside its tokens, to load and compile SmolLM2-135M on two CPU cores
FAILED = "failed.json"  # in the folder of a run that cannot be trained, such as one whose loss is not finite


@dataclasses.dataclass(frozen=True)
class Stage:
  """Something that takes time: `train`, `validation` or `test` of a group.

  Attributes:
    group: which.
    kind: what is done.
    rung: of successive halving, from 0.
    run: the candidate; behind the first rung and for `test` it stands for whichever goes on.
    cost: in tokens of a forward pass.
    until: of training, the step that it leads to; of validation the step that is validated.
    rows: that are trained on or evaluated.
    tokens: of training, a prompt counted with each of its answers.
  """

  group: Key
  kind: str
  rung: int
  run: Run
  cost: float
  until: int = 0
  rows: int = 0
  tokens: float = 0.0


def planned(config, groups: Sequence[Group]) -> dict[Run, int]:
  """Optimizer steps of each run that is trained, to its end.

  Raises:
    UserError: the config or the data of a run cannot be used.
  """
  measured = Measured(config)
  runs = [run for group in groups if group.trains for run in group.runs]
  return {run: planned_steps(settings, found.count) for run in runs for settings, found in [measured.of(run)]}


def stages(config, groups: Sequence[Group], options: Options = Options()) -> list[Stage]:
  """The stages of all groups, in order, with what each is likely to cost.

  Raises:
    UserError: the config or the data of a run cannot be used, or there are no rows to choose or to test on.
  """
  found: list[Stage] = []
  measured, known = Measured(config), {}
  for group in groups:
    if group.copied:
      continue
    task, ladder = task_of(config, group.key[0]), rungs(len(group.runs), options.halving)
    done = dict.fromkeys(group.runs, 0)
    for number, rung in enumerate(ladder):
      for run in group.runs[: rung.candidates]:
        until = 0
        if group.trains:
          settings, trained_on = measured.of(run)
          until = steps_at(planned_steps(settings, trained_on.count), rung)
          drawn = (until - done[run]) * settings.train.batch_size
          reference = 0
          if reads_reference(objective_of(settings)):
            live = settings.preference.reference == "live"
            once = run == group.runs[0] and not done[run]  # it is kept for the others, which start from the same
            reference = drawn if live else once * trained_on.count
          done[run] = until
          cost = (_BACKWARD * drawn + reference) * trained_on.shared
          tokens = drawn * trained_on.plain
          found.append(Stage(group.key, "train", number, run, cost, until, trained_on.count, tokens))
        if rung.candidates > 1:
          rows = _rows(config, run, task, "validation", known)
          found.append(Stage(group.key, "validation", number, run, _cost(task, rows), until, len(rows)))
    rows = _rows(config, group.runs[0], task, "test", known)
    validation = _splits(config, group.runs[0], task, known)["validation"]
    prior = options.prior_of(group.key[2], task, bool(validation))
    if prior == "content_free":
      content_free_rows(task, rows)  # what cannot be built is refused before anything is trained
    beside = validation if prior == "validation" else []
    shots = options.few_shot if group.key[2] == "few_shot" else 0
    found.append(Stage(group.key, "test", 0, group.runs[0], _cost(task, [*rows, *beside]) * (1 + shots), 0, len(rows)))
  return found


def describe(found: Sequence[Stage], seconds: float) -> list[str]:
  """The plan as lines of a table: task, method, candidates, steps, rows, and the time that each is likely to take.

  Args:
    found: all stages.
    seconds: what a token of a forward pass takes.
  """
  line = "{:<24}{:<14}{:>5}{:>12}{:>12}{:>12}{:>12}{:>8}{:>8}".format
  lines = [line("task", "method", "seed", "candidates", "steps", "train", "validation", "test", "time")]
  for where in dict.fromkeys(stage.group for stage in found):
    own = [stage for stage in found if stage.group == where]

    def shown(kind: str, value: str, own=own) -> str:
      return "/".join(dict.fromkeys(str(getattr(stage, value)) for stage in own if stage.kind == kind)) or "-"

    counts = shown("train", "until"), shown("train", "rows"), shown("validation", "rows"), shown("test", "rows")
    task, seed, method = where
    time = duration(sum(expected(stage, seconds) for stage in own))
    lines.append(line(task, method, seed, len({stage.run.candidate for stage in own}), *counts, time))
  return lines


def token_seconds(parameters: int, rate: float) -> float:
  """What a token of a forward pass takes on devices that compute a model at `rate` FLOPs a second."""
  return 2 * parameters / rate


def expected(stage: Stage, seconds: float) -> float:
  """Seconds that a stage is likely to take, where a token of a forward pass takes `seconds`."""
  return _OVERHEAD + stage.cost * seconds


def duration(seconds: float) -> str:
  """For reading: `80 s`, `12 min`, `3.4 h`."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def validation_folder(folder: pathlib.Path, until: int, last: bool) -> pathlib.Path:
  """Where a run's validation after a rung is."""
  return folder / "eval" / ("validation" if last else f"validation-{until}")


def trained(folder: pathlib.Path, until: int) -> bool:
  """Whether a run has a checkpoint at a step or behind it."""
  located = checkpoints.locate(folder / checkpoints.DIRECTORY)
  return located is not None and located[1] >= until


def failure(folder: pathlib.Path, until: int) -> str:
  """Why a run cannot be trained to a step; empty where nothing is known against it."""
  path = folder / FAILED
  remedy = "remove it to try that run again"
  found = files.read_sealed(path, remedy) if path.exists() else {"until": until + 1}
  return found["why"] if found["until"] <= until else ""


def is_tested(group: Group, workdir: pathlib.Path) -> bool:
  """Whether a run of the group has been scored on the test rows."""
  return any(results.exist(workdir / run.folder / "eval" / "test") for run in group.runs)


def is_done(group: Group, run: Run, kind: str, rung: int, until: int, workdir: pathlib.Path, halving: int) -> bool:
  """Whether an earlier command has left what a run makes in a rung, or found that it cannot be made."""
  folder = workdir / run.folder
  if kind == "train":
    return trained(folder, until) or bool(failure(folder, until))
  last = rung == len(rungs(len(group.runs), halving)) - 1
  return results.exist(validation_folder(folder, until, last)) or bool(failure(folder, until))


def done_stages(
  found: Sequence[Stage], groups: Sequence[Group], steps: Mapping[Run, int], workdir: pathlib.Path, halving: int
) -> list[Stage]:
  """The stages that earlier commands have done, or spared."""
  done = []
  for group in groups:
    own = [stage for stage in found if stage.group == group.key]
    if is_tested(group, workdir):
      done += own
      continue
    for number, rung in enumerate(rungs(len(group.runs), halving)):
      for kind in ("train", "validation"):
        of_kind = [stage for stage in own if (stage.kind, stage.rung) == (kind, number)]
        untils = [(run, steps_at(steps[run], rung) if run in steps else 0) for run in group.runs] if of_kind else []
        count = sum(is_done(group, run, kind, number, until, workdir, halving) for run, until in untils)
        done += of_kind[:count]
  return done


def _splits(config, run: Run, task: Task, known: dict[tuple, dict[str, list[Row]]]) -> dict[str, list[Row]]:
  settings = run_config(config, run, pathlib.Path())
  key = (run.task, repr(settings.data), repr(settings.define))
  if key not in known:
    known[key] = task_rows(settings, task)
  return known[key]


def _rows(config, run: Run, task: Task, split: str, known: dict[tuple, dict[str, list[Row]]]) -> list[Row]:
  rows = _splits(config, run, task, known)[split]
  if not rows:
    raise UserError(f"task {task.name} has no {split} rows, which a study needs; give data with that split")
  return rows


def _cost(task: Task, rows: Sequence[Row]) -> float:
  if task.generation is not None:
    answer = _DECODED * task.generation.max_new_tokens
  else:
    answer = sum(len(task.completion(labels)) for labels in task.answers()) / _CHARACTERS
  return sum(characters(task.prompt(row)) / _CHARACTERS + answer for row in rows)
