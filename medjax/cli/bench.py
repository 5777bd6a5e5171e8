"""`medjax bench`: throughput on the devices at hand; `bench compare` and `bench ablate`."""

import json

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.errors import UserError

# Flags that stand for keys of the config.
_KEYS = {"model": "model.path", "data": "data.source", "batch": "train.batch_size"}


def _define(values: flags.FlagValues) -> None:
  _define_work(values)
  methods = ["sft", "dpo", "reference", "score", "decode"]
  flags.DEFINE_enum("method", None, methods, "What to time; else config.method.", flag_values=values)
  flags.DEFINE_enum(
    "layout", "shared_prompt", ["shared_prompt", "plain"], "Of the two answers of a pair.", flag_values=values
  )
  flags.DEFINE_integer("new_tokens", 64, "Tokens that decode adds to each prompt.", flag_values=values)


def _define_work(values: flags.FlagValues) -> None:
  flags.DEFINE_string("model", None, "A model, or a preset with random weights (`medjax models`).", flag_values=values)
  flags.DEFINE_string("data", None, "File of examples or pairs; else the task's, else random ids.", flag_values=values)
  flags.DEFINE_enum(
    "workload",
    "clinical",
    ["clinical", "long_answers", "texts", "full"],
    "Lengths of random ids.",
    flag_values=values,
  )
  flags.DEFINE_integer("batch", None, "Examples or pairs of a step; else config.train.batch_size.", flag_values=values)
  flags.DEFINE_integer("steps", 10, "Steps to time, after compilation and warm-up.", flag_values=values)
  flags.DEFINE_boolean("json", False, "Print JSON lines.", flag_values=values)


def _config(arguments: Arguments, method: str | None):
  values = arguments.flags
  given = {key: values[flag].value for flag, key in _KEYS.items() if values[flag].value is not None}
  if method:
    # A reference pass reads pairs; what is scored or decoded, examples.
    given["method"] = {"reference": "dpo", "score": "sft", "decode": "sft"}.get(method, method)
  if values.data and "preference.pairs" not in arguments.overrides:
    given["preference.pairs"] = "given"
  if values.steps < 1:
    raise UserError(f"--steps is {values.steps}: it must be at least 1")
  both = sorted(given.keys() & arguments.overrides.keys())
  if both:
    raise UserError(f"{both[0]} is given twice; leave out --config.{both[0]}")
  return load_config(Arguments(values, arguments.config, {**arguments.overrides, **given}))


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  if values.new_tokens < 1:
    raise UserError(f"--new_tokens is {values.new_tokens}: it must be at least 1")
  config = _config(arguments, values.method)
  method = values.method or config.method
  if method == "base":
    raise UserError("config.method is 'base'; name what to time with --method")
  from medjax.hardware.bench import bench

  line = bench(config, method, values.steps, values.workload, values.layout, values.new_tokens)
  if values.json:
    print(json.dumps(line))
    return
  for key, value in line.items():
    shown = ", ".join(f"{name} {x:.4g}" for name, x in value.items()) if isinstance(value, dict) else value
    print(f"{key:<28}{f'{shown:.5g}' if isinstance(shown, float) else shown}")


def _define_compare(values: flags.FlagValues) -> None:
  flags.DEFINE_string("plot", None, "Also draw the rates here (png, svg or pdf).", flag_values=values)
  flags.DEFINE_boolean("json", False, "Print the lines, joined, instead of the table.", flag_values=values)


def _compare(arguments: Arguments) -> None:
  import pathlib

  from medjax.hardware import compare

  if not arguments.words:
    raise UserError("name the files to compare: medjax bench compare A.jsonl B.jsonl")
  lines = compare.read_lines(arguments.words)
  plot = pathlib.Path(arguments.flags.plot) if arguments.flags.plot else None
  if plot and plot.suffix not in (".png", ".svg", ".pdf"):
    raise UserError(f"--plot is {arguments.flags.plot!r}: it must end in .png, .svg or .pdf")
  if plot:
    compare.plot(lines, plot)
  print("\n".join(map(json.dumps, lines)) if arguments.flags.json else compare.table(lines))


def _define_ablate(values: flags.FlagValues) -> None:
  _define_work(values)
  flags.DEFINE_integer("rung", None, "Run this rung alone, counted from 1.", flag_values=values)


def _ablate(arguments: Arguments) -> None:
  from medjax.hardware import ablation

  config, values = _config(arguments, "dpo"), arguments.flags
  rungs = len(ablation.LADDER)
  if values.rung is not None and not 1 <= values.rung <= rungs:
    raise UserError(f"--rung is {values.rung}: it must be 1 to {rungs}")
  if values.rung:
    lines = [ablation.run(config, ablation.LADDER[values.rung - 1], values.steps, values.workload)]
  else:
    lines = ablation.run_each(arguments.argv, rungs)
  print("\n".join(map(json.dumps, lines)) if values.json else ablation.table(lines))


VERB = Verb(
  "time training, scoring and decoding on the devices at hand; `bench compare`, `bench ablate`",
  "medjax bench --model=embedded:smollm2-135m --method=sft --batch=8 --steps=5",
  _define,
  _run,
  takes_config=True,  # and no programs kept from run to run, or compile_seconds would be the time of reading one
)
MORE = {
  "compare": Verb(
    "files of `medjax bench --json` from several machines, as a table and a plot",
    "medjax bench compare tpu.jsonl gpu.jsonl --plot=rates.png",
    _define_compare,
    _compare,
    takes_words=True,
  ),
  "ablate": Verb(
    "what each lever of DPO training is worth here: the same losses, faster from rung to rung",
    "medjax bench ablate --model=embedded:smollm2-135m --batch=4 --steps=5",
    _define_ablate,
    _ablate,
    takes_config=True,
  ),
}
