"""`medjax predict`: labels or texts for rows that have none."""

import pathlib

from absl import flags

from medjax import processes
from medjax.cli.verb import Arguments, Verb, check_task, define_checkpoint, define_corrections, load_config, run_config
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  define_checkpoint(values)
  flags.DEFINE_string("input", None, "Rows to predict: .jsonl, .csv or .parquet.", required=True, flag_values=values)
  flags.DEFINE_string("output", None, "Where to write predictions, as .jsonl.", required=True, flag_values=values)
  define_corrections(values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  saved = run_config(values.checkpoint)
  config = load_config(arguments, [saved])
  check_task(config, "to predict", saved)
  if not pathlib.Path(values.input).is_file():
    raise UserError(f"--input is {values.input!r}: no such file")
  from medjax.evaluation.evaluate import predict
  from medjax.evaluation.options import Options

  options = Options(values.prior, values.calibrate)
  predict(config, values.checkpoint, pathlib.Path(values.input), pathlib.Path(values.output), options)
  if processes.is_first():
    print(values.output)


VERB = Verb(
  "answer rows that have no labels",
  "medjax predict --config=configs/triage.py --checkpoint=runs/triage-sft --input=new.csv --output=labels.jsonl",
  _define,
  _run,
  takes_config=True,
  compiles=True,
  joins=True,
)
