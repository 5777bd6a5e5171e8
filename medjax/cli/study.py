"""`medjax study`: methods compared on the same items."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.evaluation.options import PRIORS

_OPTIONS = ("few_shot", "halving", "budget", "prior")  # as `study.plan.Options` names them


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir", None, "Folder of the study; the same command goes on there.", required=True, flag_values=values
  )
  flags.DEFINE_boolean(
    "plan", False, "Show the runs and how long they are likely to take, and end.", flag_values=values
  )
  flags.DEFINE_integer(
    "parallel",
    1,
    "Runs at a time, each on its share of the GPUs, TPU chips or cores; 0 for one an accelerator.",
    0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "halving",
    None,
    "Successive halving: of the candidates of a method one in so many is trained on from rung to rung, those that are "
    "best on validation. Without it all are trained to the end.",
    2,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "budget",
    None,
    "Training tokens that the candidates of each method have together, for a task and seed: their steps are set by it.",
    1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "few_shot",
    None,
    "Answered examples in a prompt of the method few_shot; 4 unless set.",
    1,
    flag_values=values,
  )
  flags.DEFINE_enum(
    "prior",
    None,
    PRIORS,
    "The label prior that probabilities of methods that train nothing are divided by; validation unless set: the mean "
    "over validation rows, for targets that it makes better there.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "allow_second_look",
    False,
    "Let a method be scored on the test rows again with other weights; the report lists it.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "examples",
    0,
    "Test rows of each task to show in report.html, with every answer: clinical text.",
    0,
    flag_values=values,
  )
  flags.DEFINE_string(
    "subgroups",
    "",
    "Columns of the data by which results are broken down; numbers with the width of their bands: age:10,sex,site.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "report_only", False, "Write the reports of the folder's study.json again, and do nothing else.", flag_values=values
  )
  flags.DEFINE_boolean("json", False, "Print study.json at the end, and nothing else on stdout.", flag_values=values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  workdir = pathlib.Path(values.workdir)
  if values.report_only:
    from medjax.study.reports import rewrite

    given = load_config(arguments) if arguments.config or arguments.overrides else None
    named = (given.task, *given.study.tasks) if given else ()
    _tell(rewrite(workdir, values.examples, named), workdir, values.json)
    return
  config = load_config(arguments)
  from medjax.study.subgroups import parse
  from medjax.study.workers import Processes

  columns = parse(values.subgroups)
  asked = {name: values[name].value for name in _OPTIONS if values[name].value is not None}
  if values.plan:
    from medjax.study.run import show_plan

    show_plan(config, workdir, asked, values.parallel)
    return
  processes = Processes(values.parallel, arguments.config, values.debug)
  from medjax.study.run import study

  results = study(config, workdir, values.examples, asked, processes, values.allow_second_look, columns)
  _tell(results, workdir, values.json)


def _tell(results: Mapping[str, Any], workdir: pathlib.Path, as_json: bool) -> None:
  """Prints study.json, or what it says in short and where the files are."""
  from medjax.study.report import console_table

  if as_json:
    print(json.dumps(results, indent=2))
    return
  print(console_table(results))
  for name in ("study.json", "report.md", "report.html"):
    print(workdir / name)


VERB = Verb(
  "compare methods, such as base, SFT and DPO: chosen on validation, tested once, with intervals",
  "medjax study --config=configs/study/demo.py --workdir=runs/demo",
  _define,
  _run,
  takes_config=True,
  compiles=True,
)
