"""`medjax study`: methods compared on the same items."""

import json
import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config

_OPTIONS = ("few_shot", "halving", "budget")  # as `study.plan.Options` names them


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
  flags.DEFINE_boolean("json", False, "Print study.json at the end, and nothing else on stdout.", flag_values=values)


def _run(arguments: Arguments) -> None:
  config, values = load_config(arguments), arguments.flags
  from medjax.study import run
  from medjax.study.report import console_table
  from medjax.study.workers import Processes

  workdir = pathlib.Path(values.workdir)
  asked = {name: values[name].value for name in _OPTIONS if values[name].value is not None}
  if values.plan:
    run.show_plan(config, workdir, asked, values.parallel)
    return
  processes = Processes(values.parallel, arguments.config, values.debug)
  results = run.study(config, workdir, values.examples, asked, processes, values.allow_second_look)
  if values.json:
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
