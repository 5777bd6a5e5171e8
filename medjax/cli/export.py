"""`medjax export`: a checkpoint as a Hugging Face directory or a PEFT adapter."""

import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, define_checkpoint
from medjax.errors import UserError


def _define(values: flags.FlagValues) -> None:
  define_checkpoint(values)
  flags.DEFINE_string("output", None, "Directory to make.", required=True, flag_values=values)
  flags.DEFINE_boolean("adapter", False, "Write the adapters alone, as PEFT loads them.", flag_values=values)
  flags.DEFINE_string(
    "base",
    "",
    "With --adapter: the base model's name for whoever loads it; else the one trained on.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Of the weights; else as the base model stores them, float32 where it is quantized.",
    flag_values=values,
  )


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  if values.base and not values.adapter:
    raise UserError("--base belongs to --adapter; leave it out")
  if values.dtype and values.adapter:
    raise UserError("--dtype is of merged weights; adapters are float32, leave it out")
  from medjax.training import export
  from medjax.training.telemetry import advancing, progress

  output = pathlib.Path(values.output)
  if values.adapter:
    export.export_adapter(values.checkpoint, output, values.base)
  else:
    with progress(0, "export") as bar:
      export.export(values.checkpoint, output, values.dtype or "", advancing(bar))
  print(output)


VERB = Verb(
  "weights as transformers, vLLM and PEFT load them",
  "medjax export --checkpoint=runs/triage-dpo --output=triage-model",
  _define,
  _run,
)
