"""Commands of other programs: run without a shell, shown by a dry run, tried again, ended when they hang.

Secrets reach a command through its stdin, its environment or a file, never through its words, which any user of a
machine can read; a dry run and error messages show the names of secrets only.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from medjax.errors import RunError, UserError

# What trying again cannot mend, as gcloud and kubectl word it.
_FINAL = re.compile(
  r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|NOT_FOUND|ALREADY_EXISTS|"
  r"\(NotFound\)|\(AlreadyExists\)|\(Forbidden\)|\(Unauthorized\)|\(Invalid\)|unrecognized arguments|unknown flag"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_WAIT = 60.0


@dataclasses.dataclass(frozen=True)
class Result:
  """How a command ended: exit code (None where it was ended for taking too long) and what it printed."""

  code: int | None
  stdout: str = ""
  stderr: str = ""

  @property
  def last_line(self) -> str:
    """What it said last, for messages."""
    lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else "it printed nothing"


@dataclasses.dataclass(frozen=True)
class Runner:
  """Runs commands.

  Attributes:
    dry_run: print them instead.
    attempts: how often a command is tried at most.
    retry_seconds: wait before the second attempt, doubled with each further one.
    timeout_seconds: how long one attempt may take.
  """

  dry_run: bool = False
  attempts: int = 4
  retry_seconds: float = 5.0
  timeout_seconds: float = 180.0

  def call(
    self,
    argv: Sequence[str],
    *,
    stdin: str = "",
    shown: str | None = None,
    secrets: Mapping[str, str] | None = None,
    timeout: float | None = None,
    attempts: int | None = None,
  ) -> Result:
    """Runs a command and returns how it ended, whichever way.

    Args:
      argv: the words of the command.
      stdin: what it reads.
      shown: what a dry run shows in place of `stdin`, where that holds secrets.
      secrets: environment variables that it gets beside those of this process.
      timeout: seconds in place of `timeout_seconds`.
      attempts: 1 for a command that must not run twice.

    Raises:
      UserError: there is no such program.
    """
    secrets = secrets or {}
    if self.dry_run:
      print(display(argv, stdin if shown is None else shown, secrets), flush=True)
      return Result(0)
    wait = self.retry_seconds
    for left in reversed(range(self.attempts if attempts is None else attempts)):
      result = _attempt(argv, stdin, secrets, self.timeout_seconds if timeout is None else timeout)
      # gcloud and kubectl exit with 2 where they cannot read their own flags.
      if result.code in (0, 2) or _FINAL.search(result.stderr) or not left:
        return result
      print(f"{_title(argv)}: {reason(result)}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
      time.sleep(wait)
      wait = min(2 * wait, _LONGEST_WAIT)
    raise AssertionError("unreachable: the last attempt returns")

  def check(self, argv: Sequence[str], **options) -> Result:
    """As `call`, for a command that has to succeed.

    Raises:
      RunError: it did not.
    """
    result = self.call(argv, **options)
    if result.code != 0:
      raise RunError(f"{_title(argv)}: {reason(result)}")
    return result

  def show(self, argv: Sequence[str]) -> int:
    """Runs a command that talks to the user, for as long as it likes, and returns its exit code."""
    if self.dry_run:
      print(display(argv), flush=True)
      return 0
    try:
      return subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    except FileNotFoundError:
      raise _missing(argv) from None

  def wait(self, seconds: float) -> None:
    """Waits, unless this is a dry run."""
    if not self.dry_run:
      time.sleep(seconds)


def display(argv: Sequence[str], stdin: str = "", secrets: Mapping[str, str] | None = None) -> str:
  """A command as it can be pasted into a shell; of secrets the names only."""
  lines = [f"# with {', '.join(sorted(secrets))} in its environment"] if secrets else []
  if not stdin:
    return "\n".join([*lines, shlex.join(argv)])
  end = "END"
  while end in stdin.splitlines():
    end += "_"
  return "\n".join([*lines, f"{shlex.join(argv)} <<'{end}'", stdin.removesuffix("\n"), end])


def reason(result: Result) -> str:
  """Why a command did not succeed, in a few words."""
  if result.code is None:
    return result.stderr
  return f"exit code {result.code}, {result.last_line}"


def read_secrets(path: str) -> dict[str, str]:
  """Reads a file of `NAME=value` lines, as `kubectl create secret --from-env-file` does; values are taken literally.

  Args:
    path: of the file, or "" for none.

  Raises:
    UserError: it cannot be read, others may read it, or a line is something else.
  """
  if not path:
    return {}
  try:
    mode, text = pathlib.Path(path).stat().st_mode, pathlib.Path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"--env_file={path} cannot be read ({type(error).__name__}); give a file of NAME=value lines"
    ) from None
  if mode & 0o077:
    raise UserError(f"--env_file={path} can be read by other users; run chmod 600 {shlex.quote(path)}")
  found = {}
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip() or line.lstrip().startswith("#"):
      continue
    name, equals, value = line.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
      raise UserError(f"{path}:{number}: not a NAME=value line; write the name of a variable, = and its value")
    found[name] = value
  return found


def _attempt(argv: Sequence[str], stdin: str, secrets: Mapping[str, str], timeout: float) -> Result:
  """One attempt, in a session of its own: ended with all that it started."""
  try:
    process = subprocess.Popen(
      argv,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env={**os.environ, **secrets},
      text=True,
      errors="replace",
      start_new_session=True,
    )
  except FileNotFoundError:
    raise _missing(argv) from None
  try:
    stdout, stderr = process.communicate(stdin, timeout)
    return Result(process.returncode, stdout, stderr)
  except subprocess.TimeoutExpired:
    return Result(None, stderr=f"it did not end in {timeout:g} s")
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()


def _title(argv: Sequence[str]) -> str:
  """The words of a command up to its first flag: what it is, without values."""
  words = [*argv[:1], *(argv[1:5])]
  flags = [index for index, word in enumerate(words) if word.startswith("-")]
  return " ".join(words[: flags[0]] if flags else words)


def _missing(argv: Sequence[str]) -> UserError:
  return UserError(f"there is no {argv[0]} on this machine's PATH; install it, or use --dry_run to see what would run")
