"""`medjax prefer`: preference pairs from the train rows of a task, as a file that training reads, and a report."""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from medjax import files, tasks
from medjax.data import items
from medjax.data.examples import Row
from medjax.data.rows import task_rows
from medjax.errors import RunError, UserError
from medjax.evaluation.answering import Answering, sample
from medjax.evaluation.answers import Answer, Sampling
from medjax.evaluation.judge import Judge, judge_of
from medjax.evaluation.metrics import check_primary, score_texts
from medjax.preferences import balance
from medjax.preferences.candidates import Candidate, Found, from_labels, from_perturbations
from medjax.preferences.judge import from_judge
from medjax.preferences.policy import MARGIN, from_policy
from medjax.tasks.task import Task, TextTarget
from medjax.training.telemetry import progress

SCHEMA_VERSION = 1
WAYS = ("labels", "policy", "perturb", "judge")
SAMPLED = ("policy", "judge")


@dataclasses.dataclass(frozen=True)
class Options:
  """What `medjax prefer` is asked for.

  Attributes:
    how: ways to make pairs, of `WAYS`.
    checkpoint: who is sampled: a workdir, a checkpoint or a model; empty: what the config's training starts from.
    samples: answers drawn for each row.
    temperature: of the sampling.
    top_p: of the sampling.
    per_row: most pairs of a row and way.
    max_length_gap: most words by which the answers of a pair may differ; 0 for no limit.
    use_unparseable: whether samples that cannot be read are rejected answers, too.
    judge: a command, or `FILE.py:function`.
    judge_timeout: seconds that a command may take without giving a verdict.
  """

  how: tuple[str, ...] = ("labels",)
  checkpoint: str = ""
  samples: int = 4
  temperature: float = 0.8
  top_p: float = 0.95
  per_row: int = 1
  max_length_gap: int = 0
  use_unparseable: bool = False
  judge: str = ""
  judge_timeout: float = 600.0


def report_path(output: pathlib.Path) -> pathlib.Path:
  """Where the report on a file of pairs lies."""
  return output.with_suffix(".report.json")


def prefer(config: Any, options: Options, output: pathlib.Path) -> dict[str, Any]:
  """Writes preference pairs made of the train rows of `config.task`; no other row is read into one.

  Args:
    config: a validated run config; its `seed` is that of all that is drawn.
    options: the ways, and their settings.
    output: the `.jsonl` to write, readable by its owner alone: `id`, `prompt` (messages), `chosen`, `rejected`, `how`,
      `row` (the row's id), `seed`, `data` (fingerprint of the train rows), and of pairs with a sample `model`.

  Returns:
    The report, which is written beside it (`report_path`).

  Raises:
    UserError: options, config, checkpoint or data cannot be used.
    RunError: no row gave a pair, or the judge failed.
  """
  # ---- What is asked for ------------------------------------------------------------------------------------------
  task = tasks.of(config)
  sampled = [way for way in options.how if way in SAMPLED]
  _check(task, options, output)
  judge = judge_of(options.judge, options.judge_timeout) if "judge" in options.how else None
  rows = task_rows(config, task)["train"]
  if not rows:
    raise UserError(f"task {task.name} has no train rows; give data with that split")
  _check_texts(task, rows, options)

  # ---- Answers of the policy --------------------------------------------------------------------------------------
  answers: list[list[Answer]] = []
  model, sampling, unit, lengths = None, None, "words", balance.words
  if sampled:
    checkpoint = options.checkpoint or config.train.init_from or config.model.path
    drawn = Sampling(options.samples, options.temperature, options.top_p, config.seed)
    answers, cut, ready = sample(config, checkpoint, task, rows, drawn, f"prefer {task.name}")
    model = {"name": checkpoint, "weights": ready.fingerprint}
    sampling = dataclasses.asdict(drawn) | {"prompts_cut": len(cut.cut)}
    unit, lengths = "tokens", functools.partial(_tokens, ready)

  # ---- Candidates -------------------------------------------------------------------------------------------------
  found, notes = _found(task, rows, answers, judge, config.seed, options)
  kept = balance.keep(found, options.per_row, options.max_length_gap)
  pairs = [(row, candidate) for row, of_row in zip(rows, kept.candidates, strict=True) for candidate in of_row]

  # ---- The file and the report ------------------------------------------------------------------------------------
  data = items.fingerprint(rows)
  report = {
    "schema_version": SCHEMA_VERSION,
    "task": task.name,
    "data": data,
    "seed": config.seed,
    "rows": len(rows),
    "rows_without_pair": sum(not of_row for of_row in kept.candidates),
    "pairs": len(pairs),
    "by_how": dict(collections.Counter(candidate.how for _, candidate in pairs).most_common()),
    "ways": {
      way: {
        "candidates": sum(len(each.candidates) for each in found[way]),
        "dropped_by_length": kept.dropped[way],
        "rows_without_pair": dict(kept.without[way].most_common()),
        **notes.get(way, {}),
      }
      for way in found
    },
    "per_row": options.per_row,
    "max_length_gap": options.max_length_gap,
    "model": model,
    "sampling": sampling,
    "length_balance": balance.report([(each.chosen, each.rejected) for _, each in pairs], unit, lengths),
  }
  if not pairs:
    why = "; ".join(f"{way}: {_counts(counts)}" for way, counts in kept.without.items())
    raise RunError(f"no row of {len(rows)} gave a pair ({why}); ask for another way, or loosen --max_length_gap")
  common = {"seed": config.seed, "data": data}
  with files.write_aside(output, private=True) as file:
    for row, of_row in zip(rows, kept.candidates, strict=True):
      for number, candidate in enumerate(of_row):
        file.write(_line(task, row, number, candidate, common | ({"model": model} if candidate.sampled else {})))
  files.write_json(report_path(output), report, private=True)
  if report["length_balance"]["warning"]:
    logging.warning("%s", report["length_balance"]["warning"])
  return report


def summary(report: dict[str, Any]) -> list[str]:
  """The lines that tell a user what was made: counts by how, rows without a pair and why, and the length balance."""
  lines = [f"{report['pairs']} pairs from {report['rows']} train rows ({report['rows_without_pair']} rows have none)"]
  lines += [f"  {how:<28}{count:>8}" for how, count in report["by_how"].items()]
  for way, told in report["ways"].items():
    if told["rows_without_pair"]:
      lines.append(f"{way}: rows without a pair: {_counts(told['rows_without_pair'])}")
    if told["dropped_by_length"]:
      lines.append(f"{way}: {told['dropped_by_length']} of {told['candidates']} candidates differ too much in length")
    if "samples" in told:
      named = ("right", "wrong", "unparseable", "unended")
      lines.append(f"{way}: {told['samples']} samples: {_counts({name: told[name] for name in named if told[name]})}")
    if "agreement" in told and told["compared"]:
      lines.append(
        f"{way}: {told['compared']} comparisons, the same in both orders: {told['agreement']:.2f} "
        f"(first answer preferred: {told['first_preferred']:.2f})"
      )
  lengths = report["length_balance"]
  sides = ", ".join(
    f"{side} {lengths[side]['mean']:.1f} (median {lengths[side]['median']:g})" for side in ("chosen", "rejected")
  )
  lines.append(f"length in {lengths['unit']}: {sides}")
  lines.append(
    f"  chosen longer {lengths['chosen_longer']:.0%}, shorter {lengths['chosen_shorter']:.0%}; AUROC of length "
    f"{lengths['auroc']:.2f}, within pairs {lengths['auroc_within']:.2f}"
  )
  return lines


def _check(task: Task, options: Options, output: pathlib.Path) -> None:
  for way in options.how:
    if way not in WAYS:
      raise UserError(f"--how has {way!r}; it must be of {', '.join(WAYS)}")
  if not options.how or len(set(options.how)) < len(options.how):
    raise UserError(f"--how must be one or more of {', '.join(WAYS)}, each once")
  if output.suffix != ".jsonl":
    raise UserError(f"--output is {str(output)!r}; it must end in .jsonl, as preference.pairs reads it")
  if options.samples > 1 and options.temperature == 0 and set(options.how) & set(SAMPLED):
    raise UserError("--temperature is 0, at which all samples are the same; raise it, or set --samples=1")
  if "judge" in options.how and not options.judge:
    raise UserError("--judge is needed with --how=judge; give a command, or FILE.py:function")
  if options.judge and "judge" not in options.how:
    raise UserError("--judge is read with --how=judge alone; add it to --how")
  if "judge" in options.how and task.separate:
    raise UserError(f"--how=judge compares whole answers; the targets of task {task.name} are asked for one by one")
  texts = [name for name, target in task.targets.items() if isinstance(target, TextTarget)]
  if texts and task.generation is None and set(options.how) & set(SAMPLED):
    raise UserError(
      f"task {task.name}: {texts[0]} is a text, and the task has no `generation`; say how it is generated"
    )


def _check_texts(task: Task, rows: Sequence[Row], options: Options) -> None:
  """Finds what cannot be scored before the model runs."""
  if "policy" in options.how:
    for name, target in task.targets.items():
      check_primary(target)
      if isinstance(target, TextTarget):
        score_texts(task, name, rows, [None] * len(rows))


def _found(
  task: Task,
  rows: Sequence[Row],
  answers: Sequence[Sequence[Answer]],
  judge: Judge | None,
  seed: int,
  options: Options,
) -> tuple[dict[str, list[Found]], dict[str, dict[str, Any]]]:
  """Way -> the candidates of each row, and way -> what else is to be reported of it."""
  found: dict[str, list[Found]] = {}
  notes: dict[str, dict[str, Any]] = {}
  for way in options.how:
    if way == "labels":
      found[way] = from_labels(task, rows, seed)
    elif way == "perturb":
      found[way] = from_perturbations(task, rows, seed)
    elif way == "policy":
      found[way], tally = from_policy(task, rows, answers, options.use_unparseable)
      notes[way] = dataclasses.asdict(tally) | {"margin": MARGIN}
    else:
      with progress(0, f"judge {task.name}") as bar:
        found[way], said = from_judge(task, rows, answers, judge, seed, bar.update)
      notes[way] = dataclasses.asdict(said) | {
        "agreement": said.consistent / said.compared if said.compared else None,
        "first_preferred": said.first / (2 * said.compared) if said.compared else None,
      }
  return found, notes


def _line(task: Task, row: Row, number: int, candidate: Candidate, more: dict[str, Any]) -> str:
  pair = {
    "id": f"{row.id}#{number}",
    "prompt": list(map(dict, task.prompt(row))),
    "chosen": candidate.chosen,
    "rejected": candidate.rejected,
    "how": candidate.how,
    "row": row.id,
  }
  return json.dumps(pair | more, ensure_ascii=False) + "\n"


def _tokens(ready: Answering, texts: Sequence[str]) -> list[int]:
  return [len(ids) for ids in ready.encoder.completions(texts)]


def _counts(counts: dict[str, int]) -> str:
  return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"
