"""`medjax study`: base, SFT and DPO compared on the same items."""

import json
import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir", None, "Folder of the study; the same command goes on there.", required=True, flag_values=values
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
  config = load_config(arguments)
  from medjax.study.report import console_table
  from medjax.study.run import study

  workdir = pathlib.Path(arguments.flags.workdir)
  results = study(config, workdir, arguments.flags.examples)
  if arguments.flags.json:
    print(json.dumps(results, indent=2))
    return
  print(console_table(results))
  for name in ("study.json", "report.md", "report.html"):
    print(workdir / name)


VERB = Verb(
  "compare base, SFT and DPO: chosen on validation, tested once, with intervals",
  "medjax study --config=configs/study/demo.py --workdir=runs/demo",
  _define,
  _run,
  takes_config=True,
  compiles=True,
)
