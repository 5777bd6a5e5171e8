"""`medjax plan`: whether a train step, decoding or scoring fits a TPU or GPU machine, without the machine."""

import json
import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.errors import UserError

# Flags that stand for keys of the config.
_KEYS = {"model": "model.path", "method": "method", "batch": "train.batch_size"}
_INFERENCE = ("decode", "score")


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "topology", None, "The machine: v5e:4x4, v5litepod-16, v5p-8, v6e-256, h100:1x1x8.", flag_values=values
  )
  flags.DEFINE_string(
    "model", None, "A preset (`medjax models`) or a model; its weights are not read.", flag_values=values
  )
  flags.DEFINE_enum(
    "method",
    None,
    ["sft", "dpo", *_INFERENCE],
    "What to train, else config.method; or `decode` answers, or `score` labels.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "batch",
    None,
    "Examples or pairs of a step, each filling a row; else the config's, else a row a device. Of decode and score the "
    "rows at once; else as many as `medjax eval` would take.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "answer", 0, "Tokens of an answer; 0: all of a row of sft, a quarter of dpo and decode, 8.", flag_values=values
  )
  flags.DEFINE_float("price", 0.0, "Of a chip and hour: adds what a million tokens cost.", flag_values=values)
  flags.DEFINE_boolean(
    "search", False, "Try meshes, remat, rows at once and kernels, and print the best.", flag_values=values
  )
  flags.DEFINE_integer("compiles", 12, "Programs that --search may compile, a minute or so each.", flag_values=values)
  flags.DEFINE_boolean(
    "quick", False, "Compile in a quarter of the time; estimates of time are then of the peaks.", flag_values=values
  )
  flags.DEFINE_boolean("json", False, "Print a JSON line (with --search one for each that fits).", flag_values=values)


def _config(arguments: Arguments):
  """(the config, whether it says how many examples a step has)."""
  from medjax.config import with_overrides

  values = arguments.flags
  given = {key: values[flag].value for flag, key in _KEYS.items() if values[flag].value is not None}
  if values.method in _INFERENCE:
    del given["method"]
  both = sorted(given.keys() & arguments.overrides.keys())
  if both:
    raise UserError(f"{both[0]} is given twice; leave out --config.{both[0]}")
  config = load_config(Arguments(values, arguments.config, {**arguments.overrides, **given}))
  if config.model.dtype == "auto":
    config = with_overrides(config, {"model.dtype": "bfloat16"})  # every topology is of accelerators
  path = pathlib.Path(config.model.path)
  if path.name == "config.json":  # of a directory, which is what training takes
    config = with_overrides(config, {"model.path": str(path.parent)})
  if config.method == "base" and values.method not in _INFERENCE:
    raise UserError("config.method is 'base', which trains nothing; name what to plan with --method")
  return config, bool(arguments.config) or "train.batch_size" in {**arguments.overrides, **given}


def _run(arguments: Arguments) -> None:
  values = arguments.flags
  if values.topology is None:
    raise UserError("--topology is needed, such as --topology=v5e:4x4")
  for flag, least in (("answer", 0), ("price", 0), ("compiles", 1)):
    if values[flag].value < least:
      raise UserError(f"--{flag} is {values[flag].value}: it must be at least {least}")
  if values.method in _INFERENCE and (values.search or values.price):
    raise UserError(f"--search and --price are of train steps; leave them out with --method={values.method}")
  from medjax.hardware import topologies

  topology = topologies.parse(values.topology)
  config, says_batch = _config(arguments)
  devices = topologies.compile_devices(topology)
  batch = config.train.batch_size if says_batch else 0
  from medjax.config import base_config
  from medjax.hardware import plan, plan_inference, plan_search

  if values.method in _INFERENCE:
    asked = values.method, topology, devices, values.answer, values.batch or 0, values.quick
    line = plan_inference.plan(config, *asked)
    print(json.dumps(line) if values.json else plan_inference.table(line))
    return
  if not values.search:
    line = plan.plan(config, topology, devices, values.answer, batch, values.price, values.quick)
    print(json.dumps(line) if values.json else plan.table(line))
    if not values.json and line["fits"]:
      print(f"{'train it':<20}{plan.train_flags(config, base_config(), line['batch'])}")
    return

  def tell(candidate: plan_search.Candidate) -> None:
    if not values.json:
      print(plan_search.table([candidate]).splitlines()[1], flush=True)

  if not values.json:
    print(plan_search.table([]))
  found = plan_search.search(
    *(config, topology, devices, values.answer, batch, values.price, values.compiles, values.quick),
    tell=tell,
  )
  if values.json:
    for candidate in found:
      flags_ = plan.train_flags(candidate.config, base_config(), candidate.line["batch"])
      print(json.dumps({**candidate.line, "command": flags_}))
    return
  print(f"\nthe best\n{plan.table(found[0].line)}")
  print(f"{'train it':<20}{plan.train_flags(found[0].config, base_config(), found[0].line['batch'])}")


VERB = Verb(
  "whether a train step, decoding or scoring fits a TPU or GPU machine, compiled without the machine",
  "medjax plan --model=llama3-8b --method=sft --topology=v5e:4x4",
  _define,
  _run,
  takes_config=True,
)
