"""The two ways a command ends badly, the one way it stops on request, and what is told of an exception."""

from medjax import privacy

# Exceptions of Python whose message may be a text of the data; other ones' messages are shown.
_MAY_QUOTE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError)
EXIT_DONE, EXIT_FAILED, EXIT_UNUSABLE, EXIT_STOPPED = 0, 1, 2, 75


class UserError(Exception):
  """Flags, config, data or a model directory that cannot be used; exit code 2.

  The message is one line: what is wrong (naming the file, row, key or tensor) and what to do about it.
  """


class RunError(Exception):
  """A run that started well and could not go on; exit code 1, one line of reason."""


class Stopped(Exception):
  """Stopped on request with a checkpoint saved; exit code 75: run the same command again."""


def verdict(error: BaseException, debug: bool = False) -> tuple[int, str]:
  """Exit code and reason of what ended a command; `debug` shows messages that may quote the data."""
  if isinstance(error, UserError):
    return EXIT_UNUSABLE, str(error)
  if isinstance(error, Stopped):
    return EXIT_STOPPED, str(error)
  if isinstance(error, RunError):
    return EXIT_FAILED, str(error)
  if isinstance(error, KeyboardInterrupt):
    return EXIT_FAILED, "interrupted"
  if isinstance(error, _MAY_QUOTE) and not (debug or privacy.allowed()):  # what stands in the data, say
    return EXIT_FAILED, f"unexpected {type(error).__name__} (--debug shows its message and where it came from)"
  return EXIT_FAILED, f"unexpected {type(error).__name__}: {error} (--debug shows where)"
