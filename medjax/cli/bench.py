"""`medjax bench`: throughput on the devices at hand."""

import json

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.errors import UserError

# Flags that stand for keys of the config.
_KEYS = {"model": "model.path", "data": "data.source", "method": "method", "batch": "train.batch_size"}


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string("model", None, "A model, or a preset with random weights (`medjax models`).", flag_values=values)
  flags.DEFINE_string("data", None, "File of examples or pairs; else the task's, else random ids.", flag_values=values)
  flags.DEFINE_enum("method", None, ["sft", "dpo"], "What to train; else config.method.", flag_values=values)
  flags.DEFINE_integer("batch", None, "Examples or pairs of a step; else config.train.batch_size.", flag_values=values)
  flags.DEFINE_integer("steps", 10, "Steps to time, after compilation and warm-up.", flag_values=values)
  flags.DEFINE_boolean("json", False, "Print one JSON line.", flag_values=values)


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  given = {key: values[flag].value for flag, key in _KEYS.items() if values[flag].value is not None}
  if values.data and "preference.pairs" not in arguments.overrides:
    given["preference.pairs"] = "given"
  if values.steps < 1:
    raise UserError(f"--steps is {values.steps}: it must be at least 1")
  both = sorted(given.keys() & arguments.overrides.keys())
  if both:
    raise UserError(f"{both[0]} is given twice; leave out --config.{both[0]}")
  config = load_config(Arguments(values, arguments.config, {**arguments.overrides, **given}))
  from medjax.hardware.bench import bench

  line = bench(config, values.steps)
  if values.json:
    print(json.dumps(line))
    return
  for key, value in line.items():
    shown = ", ".join(f"{name} {x:.4g}" for name, x in value.items()) if isinstance(value, dict) else value
    print(f"{key:<28}{f'{shown:.5g}' if isinstance(shown, float) else shown}")


VERB = Verb(
  "time train steps, and forward passes beside them, on the devices at hand",
  "medjax bench --model=embedded:smollm2-135m --method=sft --batch=8 --steps=5",
  _define,
  _run,
  takes_config=True,  # and no programs kept from run to run, or compile_seconds would be the time of reading one
)
