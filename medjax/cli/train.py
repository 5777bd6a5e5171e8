"""`medjax train`: one stage of training."""

import pathlib

from absl import flags, logging

from medjax import processes
from medjax.cli.verb import Arguments, Verb, load_config
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder of checkpoints and metrics; the same command goes on there.",
    required=True,
    flag_values=values,
  )

  flags.DEFINE_boolean(
    "identifiers",
    False,
    "Before training search the texts for what may identify a patient, and warn with counts.",
    flag_values=values,
  )


def _run(arguments: Arguments) -> None:
  from medjax import config as schema

  config = load_config(arguments)
  schema.validate_data(config)
  if config.method == "base":
    raise UserError("config.method is 'base', which trains nothing; set it to sft or dpo")
  from medjax.overview.describe import cautions
  from medjax.training.loop import train

  for line in cautions(config, arguments.flags.identifiers):
    logging.warning("%s", line)
  workdir = pathlib.Path(arguments.flags.workdir)
  result = train(config, workdir)
  if not processes.is_first():
    return
  if result.tokens:
    rate = result.tokens / result.seconds
    print(f"step {result.steps}: loss {result.metrics['loss']:.4f}; {result.tokens} tokens at {rate:.0f} tokens/s")
  print(workdir / "checkpoints" / str(result.steps))
  print(workdir / "metrics.jsonl")


VERB = Verb(
  "fine-tune a model by SFT or DPO",
  "medjax train --config=configs/triage.py --workdir=runs/triage-sft",
  _define,
  _run,
  takes_config=True,
  compiles=True,
  joins=True,
)
