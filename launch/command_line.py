"""The command line of a launcher: an action, absl flags, and after `--` the medjax command to run elsewhere."""

import dataclasses
import difflib
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import flags
from commands import Runner

from medjax.cli.main import VERBS
from medjax.errors import EXIT_DONE, EXIT_FAILED, EXIT_UNUSABLE, RunError, UserError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a launcher: the action, its flags, the words after `--`, and how to run commands."""

  action: str
  flags: flags.FlagValues
  words: Sequence[str]
  runner: Runner


@dataclasses.dataclass(frozen=True)
class Launcher:
  """A script of this folder.

  Attributes:
    script: its path, as a user types it.
    summary: one line.
    actions: what each action does; the first word of a command line names one. Empty where there is one thing to do.
    runs: the actions that need a medjax command after `--`.
    example: a command that works.
    define: adds the launcher's own flags to a set of flags.
    act: does the work and returns the exit code.
  """

  script: str
  summary: str
  actions: Mapping[str, str]
  runs: Sequence[str]
  example: str
  define: Callable[[flags.FlagValues], None]
  act: Callable[[Request], int]


def main(launcher: Launcher, argv: Sequence[str]) -> int:
  """Runs a launcher.

  Args:
    launcher: which.
    argv: the words after the script.

  Returns:
    The exit code, with the meanings of `medjax`: 0 done, 1 failed, 2 unusable, 75 stopped (the same command goes on).
  """
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    request = parse(launcher, argv)
    if request is None:
      print(help_text(launcher))
      return EXIT_DONE
    return launcher.act(request)
  except (UserError, RunError) as error:
    print(f"{launcher.script}: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_UNUSABLE if isinstance(error, UserError) else EXIT_FAILED
  except KeyboardInterrupt:
    print(f"{launcher.script}: interrupted; what was started elsewhere goes on", file=sys.stderr)
    return EXIT_FAILED


def parse(launcher: Launcher, argv: Sequence[str]) -> Request | None:
  """Reads a command line; None where help is asked for.

  Raises:
    UserError: an unknown action, flag or verb, a value that does not fit, or no command where one is needed.
  """
  argv = list(argv)
  cut = argv.index("--") if "--" in argv else len(argv)
  own, words = argv[:cut], argv[cut + 1 :]
  if {"--help", "-h", "help"} & set(own) or (launcher.actions and not argv):
    return None
  values = _flags(launcher)
  values.set_gnu_getopt(True)
  try:
    rest = values([launcher.script, *own])[1:]
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, list(values), 1)
    hint = f"did you mean --{near[0]}?" if near else f"see {launcher.script} --help"
    raise UserError(f"unknown flag --{error.flagname}; {hint}") from None
  except flags.Error as error:
    missing = re.match(r"flag --(\w+)=None:", str(error))
    raise UserError(f"--{missing.group(1)} is needed" if missing else str(error)) from None
  action = rest.pop(0) if launcher.actions and rest else ""
  if launcher.actions and action not in launcher.actions:
    raise UserError(f"{action!r} is no action of {launcher.script}; write one of {', '.join(launcher.actions)} first")
  if rest:
    raise UserError(f"{rest[0]!r} is no flag; the medjax command comes after --, as in: {launcher.example}")
  if action in launcher.runs or not launcher.actions:
    if not words:
      raise UserError(f"nothing to run: write -- and a medjax command at the end, as in: {launcher.example}")
    if words[0] not in VERBS:
      raise UserError(f"{words[0]!r} after -- is no verb of medjax; verbs are {', '.join(VERBS)}")
  elif words:
    raise UserError(f"{action} takes no medjax command; leave out -- and what follows")
  runner = Runner(values.dry_run, values.attempts, values.retry_seconds, values.timeout_seconds)
  return Request(action, values, words, runner)


def check_name(name: str) -> str:
  """Returns a name that every cloud and cluster takes.

  Raises:
    UserError: it is not one.
  """
  if not _NAME.fullmatch(name):
    raise UserError(f"--name is {name!r}: use up to 40 of a-z, 0-9 and -, a letter first, no - at the end")
  return name


def say(text: str) -> None:
  """Tells the user what a launcher does; stdout is left to what was asked for."""
  print(text, file=sys.stderr, flush=True)


def help_text(launcher: Launcher) -> str:
  """The help of a launcher: its actions and flags."""
  values = _flags(launcher)
  rows = []
  for name in (name for name in values if name not in ("help", "h")):
    flag = values[name]
    described = flag.help.partition(">: ")[2] if isinstance(flag, flags.EnumFlag) else flag.help
    kind = "" if flag.boolean else f"={'|'.join(flag.parser.enum_values)}" if described != flag.help else "=..."
    shown = "" if flag.default in (None, False, "") else f" Default: {flag.default}."
    rows.append((f"--{name}{kind}", f"{described}{shown}"))
  width = max(len(left) for left, _ in [*rows, *((action, "") for action in launcher.actions)]) + 2

  def table(pairs):
    indent = " " * (width + 2)
    return [
      textwrap.fill(right, 116, initial_indent=f"  {left:<{width}}", subsequent_indent=indent) for left, right in pairs
    ]

  usage = f"{launcher.script} {'ACTION ' if launcher.actions else ''}[--flags] -- VERB [--flags of medjax VERB]"
  return "\n".join(
    [f"{launcher.script}: {launcher.summary}", "", f"  {usage}", ""]
    + (["Actions:", *table(launcher.actions.items()), ""] if launcher.actions else [])
    + ["Flags:", *table(rows), "", "Example:", f"  {launcher.example}"]
  )


def _flags(launcher: Launcher) -> flags.FlagValues:
  values = flags.FlagValues()
  launcher.define(values)
  flags.DEFINE_boolean("dry_run", False, "Print every command instead of running it.", flag_values=values)
  flags.DEFINE_integer(
    "attempts", 4, "How often a command that fails is tried, where trying again is safe.", 1, flag_values=values
  )
  flags.DEFINE_float(
    "retry_seconds", 5.0, "Wait before the second attempt; it doubles with each, up to a minute.", 0, flag_values=values
  )
  flags.DEFINE_float("timeout_seconds", 180.0, "How long a single command may take.", 0, flag_values=values)
  return values
