"""Which job of a study comes when: candidates are trained and compared, one is chosen and tested, others follow."""

import math
import pathlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Protocol

from absl import logging

from medjax.errors import RunError
from medjax.evaluation import results
from medjax.evaluation.metrics import higher_is_better
from medjax.study.jobs import Job, Study
from medjax.study.plan import Group, Key, Run, rungs, steps_at, task_of
from medjax.study.progress import Progress
from medjax.study.stages import failure, is_done, is_tested, validation_folder
from medjax.tasks.task import Task


class Executor(Protocol):
  """Does jobs, some at a time."""

  def free(self) -> bool:
    """Whether a job can be started."""

  def start(self, job: Job) -> None:
    """Starts a job."""

  def wait(self) -> Iterable[tuple[Job, str]]:
    """What has happened in the meantime, after a second at most.

    Of a job `train`, `validation` and `test` as these are done, `end` at its end, `failed: WHY` where it did not end
    well. What ends the study is raised.
    """

  def running(self) -> Sequence[Job]:
    """The jobs under way."""


def carry_out(
  study: Study, groups: Sequence[Group], steps: Mapping[Run, int], executor: Executor, progress: Progress
) -> dict[Key, Run]:
  """Does all that is missing of a study.

  Args:
    study: the study.
    groups: of its runs, each behind the one that it needs.
    steps: of each run that is trained.
    executor: who does the jobs.
    progress: told of what is done.

  Returns:
    The chosen run of each group, in their order.

  Raises:
    RunError: jobs failed; all that do not need them are done.
    UserError: what a job cannot use.
    Stopped: on request.
  """
  order = {group.key: place for place, group in enumerate(groups)}
  waiting = {group.key: group for group in groups}
  active: dict[Key, tuple[Generator[list[Job], None, Run], set[Job]]] = {}
  chosen: dict[Key, Run] = {}
  failed: dict[Key, str] = {}
  queue: list[Job] = []

  def advance(key: Key) -> None:
    """Goes on with a group none of whose jobs is left."""
    going, _ = active[key]
    try:
      jobs = next(going)
      active[key] = going, set(jobs)
      queue.extend(jobs)
      queue.sort(key=lambda job: order[job.group])
    except StopIteration as ended:
      chosen[key] = ended.value
      del active[key]
      progress.settle(key)
    except RunError as error:
      fail(key, str(error))

  def fail(key: Key, why: str) -> None:
    failed[key] = why
    logging.error("study: %s", why)
    active.pop(key, None)
    queue[:] = [job for job in queue if job.group != key]
    progress.settle(key)

  while waiting or active:
    for key, group in list(waiting.items()):
      if group.after in failed:
        del waiting[key]
        failed[key] = f"{', '.join(map(str, key))} needs {', '.join(map(str, group.after))}"
        progress.settle(key)
      elif group.after is None or group.after in chosen:
        del waiting[key]
        active[key] = _work(study, group, steps, chosen.get(group.after)), set()
        advance(key)
    while queue and executor.free():
      job = queue.pop(0)
      logging.info("study: %s: %s", job.run.named, job.kind)
      executor.start(job)
    for job, what in executor.wait() if active else ():
      if job.group not in active:
        continue
      if what == "end":
        active[job.group][1].discard(job)
        if not active[job.group][1]:
          advance(job.group)
      elif what.startswith("failed: "):
        fail(job.group, f"{job.run.named}: {what.removeprefix('failed: ')}")
      else:
        progress.finish(job.group, what, job.rung)
    progress.at(
      (job.group, job.rung, study.workdir / job.run.folder, job.until) for job in executor.running() if job.until
    )
  if failed:
    first = next(why for why in failed.values())
    raise RunError(f"{len(failed)} of {len(groups)} parts of the study failed; the same command tries again: {first}")
  return {group.key: chosen[group.key] for group in groups}


def _work(study: Study, group: Group, steps: Mapping[Run, int], first: Run | None) -> Generator[list[Job], None, Run]:
  """The jobs of a group, those that can be done side by side at a time; returns the chosen run."""
  start_from = None if group.copied else first
  alive, ladder = list(group.runs), rungs(len(group.runs), study.options.halving)
  for number, rung in enumerate(ladder):
    jobs, last, validates = [], number == len(ladder) - 1, len(alive) > 1
    for run in alive:
      until = steps_at(steps[run], rung) if group.trains else 0
      job = Job("fit", run, start_from, None, number, until, validates, last)
      kinds = ["train"] * bool(until) + ["validation"] * validates
      if not all(is_done(group, run, kind, number, until, study.workdir, study.options.halving) for kind in kinds):
        jobs.append(job)
    if jobs:
      yield jobs
    tried = {run: steps_at(steps[run], rung) if group.trains else 0 for run in alive}
    whys = {run: failure(study.workdir / run.folder, until) for run, until in tried.items()}
    alive = [run for run in alive if not whys[run]]
    if not alive:
      raise RunError(f"{group.runs[0].named}: no candidate could be trained: {'; '.join(dict.fromkeys(whys.values()))}")
    if validates:
      task = task_of(study.config, group.key[0])
      kept = 1 if last else ladder[number + 1].candidates
      values = {run: selection_value(study.workdir, run, tried[run], last, task) for run in alive}
      alive = sorted(alive, key=lambda run: (-values[run], run.candidate))[:kept]
  run = alive[0]
  test = Job("test", run, copy_of=first if group.copied else None)
  if not is_tested(Group((run,)), study.workdir):
    yield [test]
  return run


def selection_value(workdir: pathlib.Path, run: Run, until: int, last: bool, task: Task) -> float:
  """Mean of the primary metrics on validation over a task's targets, higher is better."""
  metrics = results.read_metrics(validation_folder(workdir / run.folder, until, last))
  signed = [
    metrics["targets"][name][target.primary] * (1 if higher_is_better(target.primary) else -1)
    for name, target in task.targets.items()
  ]
  mean = sum(signed) / len(signed)
  return -math.inf if math.isnan(mean) else mean
