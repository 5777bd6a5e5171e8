"""What a verb is, and how its command line is read."""

import dataclasses
import difflib
import pathlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from medjax.errors import UserError
from medjax.evaluation.options import CALIBRATIONS, PRIORS

_KINDS = {"string": "TEXT", "multi string": "TEXT", "int": "N", "float": "X"}


@dataclasses.dataclass(frozen=True)
class Verb:
  """A verb of the command line.

  Attributes:
    summary: one line for `medjax`.
    example: a command that works, for `medjax VERB --help`.
    define: adds the verb's own flags to a set of flags.
    run: does the work.
    takes_config: whether `--config` and `--config.key=value` belong to it.
    compiles: whether it runs JAX programs worth keeping on disk.
    takes_words: whether words that are no flags, such as names of files, belong to it.
    joins: whether several processes may run it together, on a mesh that they share.
  """

  summary: str
  example: str
  define: Callable[[flags.FlagValues], None]
  run: Callable[["Arguments"], None]
  takes_config: bool = False
  compiles: bool = False
  takes_words: bool = False
  joins: bool = False


@dataclasses.dataclass(frozen=True)
class Arguments:
  """A command line that was read: the flags, the config's file and overrides as typed, words, and all of it."""

  flags: flags.FlagValues
  config: str
  overrides: Mapping[str, str]
  words: Sequence[str] = ()
  argv: Sequence[str] = ()


def no_flags(values: flags.FlagValues) -> None:
  """For verbs without flags of their own."""
  del values


def define_checkpoint(values: flags.FlagValues, required: bool = True) -> None:
  """Adds `--checkpoint`, what answers."""
  flags.DEFINE_string(
    "checkpoint",
    None,
    "Workdir (its last checkpoint), WORKDIR/best, a checkpoint directory, or a model.",
    required=required,
    flag_values=values,
  )


def define_stop(values: flags.FlagValues) -> None:
  """Adds `--stop`, texts that end what is generated."""
  flags.DEFINE_multi_string(
    "stop",
    None,
    "Ends what is generated, which is cut before it; may be given several times.",
    flag_values=values,
  )


def define_corrections(values: flags.FlagValues) -> None:
  """Adds `--prior` and `--calibrate`, how label probabilities are corrected (`evaluation.options.Options`)."""
  flags.DEFINE_enum(
    "prior",
    "none",
    PRIORS,
    "The label prior that label probabilities are divided by: their mean over these rows, over prompts without "
    "content, or over validation rows (only for targets that it makes better there).",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "calibrate",
    "none",
    CALIBRATIONS,
    "Sharpen or flatten label probabilities by the temperature of least log-loss on validation rows.",
    flag_values=values,
  )


def stop_strings(values: flags.FlagValues) -> tuple[str, ...]:
  """The values of `--stop`; UserError where one is empty."""
  from medjax.evaluation.stops import check_stop

  stop = tuple(values.stop or ())
  check_stop(stop, "--stop")
  return stop


def define_flags(verb: Verb) -> flags.FlagValues:
  """The flags of a verb, with those that every verb has."""
  values = flags.FlagValues()
  verb.define(values)
  if verb.joins:
    flags.DEFINE_boolean(
      "distributed",
      False,
      "One of several processes that run this together, which JAX finds on TPU VM, GKE or Slurm.",
      flag_values=values,
    )
  flags.DEFINE_boolean("debug", False, "Show the traceback of an error.", flag_values=values)
  flags.DEFINE_boolean(
    "show_examples", False, "Let messages show what stands in the data, which may be of patients.", flag_values=values
  )
  flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=values)
  return values


def parse(name: str, verb: Verb, argv: Sequence[str]) -> Arguments:
  """Reads a verb's command line.

  Args:
    name: of the verb.
    verb: the verb.
    argv: what follows the verb.

  Raises:
    UserError: an unknown flag, a value that does not fit, or something that is no flag.
  """
  config, overrides, rest = _split_config(argv)
  if not verb.takes_config and (config or overrides):
    raise UserError(f"{name} takes no --config")
  values = define_flags(verb)
  if {"--help", "-h", "-help"} & set(rest):
    rest = ["--help"]
    for flag in values:
      values[flag].validators.clear()  # a flag that must be set need not be for help
  try:
    extra = values(["medjax", *rest])[1:]
  except flags.UnrecognizedFlagError as error:
    known = [*values, *(["config"] if verb.takes_config else [])]
    near = difflib.get_close_matches(error.flagname, known, 1)
    hint = f"; did you mean --{near[0]}?" if near else f"; see medjax {name} --help"
    raise UserError(f"unknown flag --{error.flagname}{hint}") from None
  except flags.Error as error:
    raise UserError(_reword(error)) from None
  if extra and not verb.takes_words:
    raise UserError(f"{extra[0]!r} is no flag; write --FLAG=VALUE (see medjax {name} --help)")
  return Arguments(values, config, overrides, extra, argv)


def help_text(name: str, verb: Verb) -> str:
  """The help of one verb: its flags only."""
  values = define_flags(verb)
  lines = []
  if verb.takes_config:
    lines += [
      ("--config=FILE[:ARGS]", "Config file with get_config(); without it the defaults of configs/base.py."),
      ("--config.KEY=VALUE", "Overrides a key of the config, such as --config.optimizer.learning_rate=1e-4."),
    ]
  own = [flag for flag in values if flag not in ("show_examples", "debug", "help", "h")]
  for flag in [*own, *(["show_examples"] if verb.takes_config else []), "debug", "help"]:
    shown = "" if values[flag].default in (None, False, "") else f" Default: {values[flag].default}."
    described = values[flag].help
    if isinstance(values[flag], flags.EnumFlag):
      kind = f"={'|'.join(values[flag].parser.enum_values)}"
      described = described.partition(">: ")[2]  # absl puts the values in front
    else:
      kind = "" if values[flag].boolean else f"={_KINDS[values[flag].flag_type()]}"
    lines.append((f"--{flag}{kind}", f"{described}{shown}"))
  width = max(len(left) for left, _ in lines) + 2
  body = [
    textwrap.fill(right, 110, initial_indent=f"  {left:<{width}}", subsequent_indent=" " * (width + 2))
    for left, right in lines
  ]
  return "\n".join([f"medjax {name}: {verb.summary}", "", *body, "", "Example:", f"  {verb.example}"])


def _split_config(argv: Sequence[str]) -> tuple[str, dict[str, str], list[str]]:
  """Takes `--config...` out of a command line; what is left goes to absl."""
  config, overrides, rest = "", {}, []
  words = iter(argv)
  for word in words:
    match = re.fullmatch(r"--?config(?:\.([^=]*))?(?:=(.*))?", word, re.DOTALL)
    if not match:
      rest.append(word)
      continue
    key, value = match.groups()
    if value is None:
      value = next(words, None)
    if value is None:
      raise UserError(f"{word} needs a value")
    if key is None:
      config = value
    else:
      overrides[key] = value
  return config, overrides, rest


def _reword(error: flags.Error) -> str:
  text = " ".join(str(error).split())
  missing = re.match(r"flag --(\w+)=None:", text)
  if missing:
    return f"--{missing.group(1)} is needed"
  bad = re.match(r"flag --(\w+)=(.*?): (.*)", text)
  if bad:
    reason = bad.group(3)
    reason = "it must be a whole number" if "invalid literal for int" in reason else reason
    reason = "it must be a number" if "could not convert string to float" in reason else reason
    reason = "it takes no value, or true or false" if "Non-boolean" in reason else reason
    return f"--{bad.group(1)} is {bad.group(2)!r}: {reason}"
  return text[0].lower() + text[1:]


def run_config(checkpoint: str) -> pathlib.Path:
  """Where the config of the run lies that a checkpoint is of: WORKDIR, WORKDIR/best, WORKDIR/checkpoints[/STEP]."""
  path = pathlib.Path(checkpoint).absolute()
  if (path.name == "best" and not path.exists()) or (path.name.isdigit() and path.parent.name == "checkpoints"):
    path = path.parent
  if path.name == "checkpoints":
    path = path.parent
  return path / "config.json"


def _of_model(path: pathlib.Path) -> bool:
  """Whether a `config.json` is Hugging Face's description of a model, not the config of a run."""
  import json

  try:
    values = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError):
    return False  # whoever reads it next says what is wrong
  return isinstance(values, dict) and bool({"model_type", "architectures"} & values.keys())


def check_task(config: Any, purpose: str, saved: pathlib.Path | None = None) -> None:
  """Raises UserError if the config names no task.

  Args:
    config: of the command.
    purpose: what the task is for, such as `to evaluate`.
    saved: the run's own config.json, named in the error if it is missing from its folder.
  """
  if config.task:
    return
  missing = f" and {saved} is not there" if saved and saved.parent.is_dir() and not saved.exists() else ""
  raise UserError(
    f"config.task is empty{missing}; name the task {purpose} with --config=FILE or --config.task=NAME (`medjax tasks`)"
  )


def load_config(arguments: Arguments, saved: Sequence[Any] = ()) -> Any:
  """The config a command line asks for; without `--config` that of the first of `saved` that exists, else defaults.

  Args:
    arguments: the command line.
    saved: paths of `config.json` files to go by; Hugging Face's, which describe a model, are passed over.

  Returns:
    A locked, validated config.

  Raises:
    UserError: as `config.load` and `config.from_saved`.
  """
  from medjax import config as schema
  from medjax import tasks

  found = None if arguments.config else next((path for path in saved if path.is_file() and not _of_model(path)), None)
  if found is None:
    return tasks.settled(schema.load(arguments.config, arguments.overrides))
  return tasks.settled(schema.from_saved(found, arguments.overrides))
