"""`medjax VERB`: finds the verb, runs it, and turns what goes wrong into one line and an exit code."""

import difflib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence

import medjax
from medjax import privacy, processes, runtime
from medjax.cli import verb as verbs
from medjax.console import visible
from medjax.errors import EXIT_DONE, EXIT_FAILED, UserError, verdict

VERBS = (
  *("tasks", "models", "data", "generate", "train", "eval", "predict", "judge", "prefer", "study", "export"),
  *("bench", "plan"),
)


def console() -> None:
  """The console script."""
  sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
  """Runs a command line.

  Args:
    argv: the words after `medjax`.

  Returns:
    The exit code: 0 done, 1 failed, 2 unusable flags, config or data, 75 stopped on request.
  """
  debug = "--debug" in argv
  name = argv[0] if argv else ""
  title = f"medjax {name}" if name in VERBS else "medjax"
  try:
    _run(argv)
    sys.stdout.flush()
    processes.leave(EXIT_DONE)
    return EXIT_DONE
  except (Exception, KeyboardInterrupt) as error:
    if debug:
      traceback.print_exc()
    code, line = _verdict(error, debug)
  line = visible(" ".join(line.split()))
  print(f"{title}: {line}", file=sys.stderr)
  processes.leave(code, line)
  return code


def _verdict(error: BaseException, debug: bool) -> tuple[int, str]:
  """Exit code and reason of what ended a command."""
  if processes.count() > 1 and re.search("Gloo|NCCL|coordination service", str(error)):
    return EXIT_FAILED, f"another process ended or cannot be reached ({error})"
  if isinstance(error, BrokenPipeError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to flush there
    return EXIT_FAILED, "stdout was closed before all was written"
  return verdict(error, debug)


def _run(argv: Sequence[str]) -> None:
  if not argv or argv[0] in ("--help", "-h", "help"):
    print(overview())
    return
  if argv[0] == "--version":
    print(f"medjax {medjax.__version__}")
    return
  name = argv[0]
  if name not in VERBS:
    near = difflib.get_close_matches(name.lstrip("-"), VERBS, 1)
    hint = f"did you mean {near[0]}?" if near else f"verbs are {', '.join(VERBS)}"
    raise UserError(f"unknown {'flag' if name.startswith('-') else 'verb'} {name!r}; {hint}")
  verb, rest = _verb(name), argv[1:]
  more = _more(name)
  if rest and rest[0] in more:
    name, verb, rest = f"{name} {rest[0]}", more[rest[0]], rest[1:]
  arguments = verbs.parse(name, verb, rest)
  if arguments.flags.help:
    print(verbs.help_text(name, verb))
    return
  privacy.allow(arguments.flags.show_examples)
  runtime.quiet()
  processes.join(verb.joins and arguments.flags.distributed)
  if processes.count() > 1 and not verb.joins:
    raise UserError(f"medjax {name} runs in one process, and this is one of {processes.count()}; start it alone")
  if not processes.is_first():
    runtime.errors_only()
  if verb.compiles:
    runtime.keep_compiled_programs()
  verb.run(arguments)


def overview() -> str:
  """The list of verbs."""
  lines = [f"  {name:<10}{_verb(name).summary}" for name in VERBS]
  return "\n".join(
    ["medjax VERB [--flags]: fine-tuning of language models on clinical tasks", "", *lines, ""]
    + ["`medjax VERB --help` lists the flags of a verb; `medjax --version` tells the version."]
  )


def _verb(name: str) -> verbs.Verb:
  return importlib.import_module(f"medjax.cli.{name}").VERB


def _more(name: str) -> dict[str, verbs.Verb]:
  """The verbs that follow a verb, such as `bench compare`."""
  return getattr(importlib.import_module(f"medjax.cli.{name}"), "MORE", {})
