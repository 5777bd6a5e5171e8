"""What a study says of how it was done: who started where, what was tried and chosen, what each method spent."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from medjax import config as schema
from medjax import files
from medjax.errors import UserError
from medjax.evaluation import results as evaluations
from medjax.methods import METHODS
from medjax.objectives.preference import REFERENCE_FREE
from medjax.study import compare, looks
from medjax.study.jobs import SHOTS, Study
from medjax.study.plan import Group, Key, Run, run_config, rungs, steps_at, task_of
from medjax.study.schedule import selection_value
from medjax.study.stages import Stage, failure, validation_folder
from medjax.tasks.task import Task
from medjax.training import curve

EQUAL = 1.1  # budgets whose tokens differ by this factor at most are called equal


def protocol(
  study: Study,
  groups: Sequence[Group],
  chosen: Mapping[Key, Run],
  rows: Mapping[str, Mapping[str, int]],
  resamples: int,
) -> dict[str, Any]:
  """`protocol` of study.json.

  Args:
    study: the study.
    groups: of its runs.
    chosen: the run of each group.
    rows: task -> split -> how many.
    resamples: of the statistics.

  Raises:
    UserError: the ledger of looks at the test rows lacks one that was taken.
  """
  config, methods = study.config, study.config.study.methods
  taken = _looks(study, groups, chosen)
  found = {name: task_of(config, name) for name in rows}
  return {
    "model": config.model.path,
    "methods": list(methods),
    "tasks": list(rows),
    "seeds": list(config.study.seeds),
    "rows": {name: dict(of_task) for name, of_task in rows.items()},
    "selection": f"{_selection(study, groups)}; the test rows are read once, by the chosen run of each method",
    "test_looks": len(taken),
    "second_looks": [
      {"task": look.task, "method": look.method, "seed": look.seed, "candidate": look.candidate, "by": look.by}
      for look in looks.second(taken)
    ],
    "answers": {
      name: "the likeliest labels"
      if task.generation is None
      else f"generated greedily, up to {task.generation.max_new_tokens} tokens"
      for name, task in found.items()
    },
    "label_prior": _label_prior(study, chosen, found),
    "baselines": "fitted on the rows that the first seed's SFT run read, scored on the same test rows, not compared",
    **({"dpo": starts(study, "dpo")} if "dpo" in methods else {}),
    "starts": {name: starts(study, name) for name in methods if METHODS[name].trains},
    **({"few_shot": _few_shot(study, chosen)} if "few_shot" in methods else {}),
    "budget": budget(study, groups),
    "chosen": [
      {"task": run.task, "method": run.method, "seed": run.seed, "candidate": run.candidate, **dict(run.overrides)}
      for run in chosen.values()
    ],
    "failed": [
      {"task": run.task, "method": run.method, "seed": run.seed, "candidate": run.candidate, "why": why}
      for group in groups
      for run in group.runs
      for why in [failure(study.workdir / run.folder, sys.maxsize)]
      if why
    ],
    "intervals": "95 % over patients, by the jackknife: score intervals of values (BCa bootstrap where a metric has no "
    "bounds), t intervals of differences",
    "resamples": resamples,
    "margin": compare.MARGIN,
    "config": files.fingerprint(schema.as_dict(config)),
  }


def tuning(study: Study, groups: Sequence[Group], steps: Mapping[Run, int], chosen: Mapping[Key, Run]) -> list[dict]:
  """`tuning` of study.json: every candidate where there was a choice, with its validation metric after each rung."""
  found = []
  for group in groups:
    ladder = rungs(len(group.runs), study.options.halving)
    task = task_of(study.config, group.key[0])
    for run in group.runs if len(group.runs) > 1 else ():
      values = []
      for number, rung in enumerate(ladder):
        until, last = steps_at(steps[run], rung), number == len(ladder) - 1
        if evaluations.exist(validation_folder(study.workdir / run.folder, until, last)):
          values.append({"steps": until, "value": selection_value(study.workdir, run, until, last, task)})
      found.append(
        {
          "task": run.task,
          "method": run.method,
          "seed": run.seed,
          "candidate": run.candidate,
          "settings": dict(run.overrides),
          "validation": values,
          "chosen": chosen[group.key] == run,
        }
      )
  return found


def budget(study: Study, groups: Sequence[Group]) -> dict[str, Any]:
  """What each method spent on training over all its candidates and seeds: settings tried, steps, tokens."""
  spent: dict[tuple[str, str], dict[str, Any]] = {}
  for group in groups:
    if not group.trains:
      continue
    task, _, method = group.key
    row = spent.setdefault((task, method), {"task": task, "method": method, "settings": 0, "steps": 0, "tokens": 0})
    row["settings"] = len(group.runs)
    for run in group.runs:
      lines = curve.read(study.workdir / run.folder)
      row["steps"] += len(lines)
      row["tokens"] += sum(line["tokens"] for line in lines)
  rows = list(spent.values())
  inherited = [name for name in study.config.study.methods if METHODS[name].after in study.config.study.methods]
  return {
    "unit": "tokens of training over all candidates and seeds, a prompt counted with each of its answers",
    "asked": study.options.budget or None,
    "equal": _equal({(row["task"], row["method"]): (row["settings"], row["tokens"]) for row in rows}),
    "beside": f"started from runs of sft, whose tokens are not counted again: {', '.join(inherited) or 'none'}",
    "spent": rows,
  }


def unequal(found: Sequence[Stage], seeds: int) -> list[str]:
  """Lines that say by how much planned tuning budgets differ; none where they do not."""
  planned: dict[tuple[str, str], tuple[int, float]] = {}
  for task, method in dict.fromkeys((stage.group[0], stage.group[2]) for stage in found if stage.kind == "train"):
    own = [stage for stage in found if (stage.group[0], stage.group[2], stage.kind) == (task, method, "train")]
    planned[task, method] = len({stage.run.candidate for stage in own}), sum(stage.tokens for stage in own) / seeds
  if _equal(planned):
    return []
  lines = ["tuning budgets differ between methods (--budget=TOKENS evens out tokens, study.grid settings):"]
  for task in dict.fromkeys(task for task, _ in planned):
    parts = [
      f"{method} {settings} setting{'s' * (settings != 1)}, about {tokens:.2g} tokens"
      for (of_task, method), (settings, tokens) in planned.items()
      if of_task == task
    ]
    lines.append(f"  {task}: {'; '.join(parts)}")
  return lines


def starts(study: Study, name: str) -> str:
  """Where the runs of a method start, and what they minimise."""
  method, task = METHODS[name], (study.config.study.tasks or (study.config.task,))[0]
  settings = run_config(study.config, Run(task, 0, name, 0, ()), pathlib.Path())
  start = "the chosen SFT run" if method.after in study.config.study.methods else "the model"
  if method.stage == "sft":
    return f"starts from {start}"
  reference = "" if settings.preference.loss in REFERENCE_FREE else "which is its reference; "
  return f"starts from {start}, {reference}loss {settings.preference.loss}"


def _equal(spent: Mapping[tuple[str, str], tuple[int, float]]) -> bool:
  """Whether the methods of each task had as many settings, and about as many tokens."""
  for task in {task for task, _ in spent}:
    settings, tokens = zip(*(values for (of_task, _), values in spent.items() if of_task == task), strict=True)
    if len(set(settings)) > 1 or max(tokens) > EQUAL * min(tokens):
      return False
  return True


def _selection(study: Study, groups: Sequence[Group]) -> str:
  if all(len(group.runs) == 1 for group in groups):
    return "one setting a method, so nothing was selected on validation"
  halving = study.options.halving
  how = f", after successive halving of which one candidate in {halving} goes on" if halving else ""
  return f"by the mean primary metric on validation where a method has several candidates{how}"


def _few_shot(study: Study, chosen: Mapping[Key, Run]) -> list[dict[str, Any]]:
  """The rows that prompts showed, by task and seed."""
  return [
    {
      "task": run.task,
      "seed": run.seed,
      **files.read_sealed(study.workdir / run.folder / SHOTS, f"remove {study.workdir / run.folder} to run it again"),
    }
    for run in chosen.values()
    if run.method == "few_shot"
  ]


def _label_prior(study: Study, chosen: Mapping[Key, Run], found: Mapping[str, Task]) -> dict[str, Any]:
  """The prior that label probabilities were divided by, and for which targets of which run."""
  rows = []
  for run in chosen.values():
    if METHODS[run.method].trains or found[run.task].generation is not None or study.options.prior == "none":
      continue
    metrics = evaluations.read_metrics(study.workdir / run.folder / "eval" / "test")
    targets = metrics.get("prior", {}).get("targets")
    for name in found[run.task].targets:
      used = {"used": targets[name]["used"]} if targets else {"used": False, "why": "the task has no validation rows"}
      rows.append({"task": run.task, "target": name, "method": run.method, "seed": run.seed, **used})
  return {
    "mode": study.options.prior,
    "methods": [name for name in study.config.study.methods if not METHODS[name].trains],
    "used": rows,
  }


def _looks(study: Study, groups: Sequence[Group], chosen: Mapping[Key, Run]) -> list[looks.Look]:
  taken = looks.read(study.workdir)
  known = {(*look.of, look.candidate) for look in taken}
  for group in groups:
    if not group.copied and (*group.key, chosen[group.key].candidate) not in known:
      raise UserError(
        f"{study.workdir / looks.FILE} lacks the scoring of {chosen[group.key].named} on the test rows; put the ledger "
        "back, or run the study in another --workdir"
      )
  return taken
