"""The two ways a command ends badly, and the one way it stops on request."""


class UserError(Exception):
  """Flags, config, data or a model directory that cannot be used; exit code 2.

  The message is one line: what is wrong (naming the file, row, key or tensor) and what to do about it.
  """


class RunError(Exception):
  """A run that started well and could not go on; exit code 1, one line of reason."""


class Stopped(Exception):
  """Stopped on request with a checkpoint saved; exit code 75: run the same command again."""
