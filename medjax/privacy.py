"""Whether texts of the data may be shown: in no message, log or report unless the user asks for it."""

from typing import Any

_allowed = False


def allow(show_examples: bool) -> None:
  """Says for the whole process whether messages may show what stands in the data (`--show_examples`)."""
  global _allowed
  _allowed = show_examples


def allowed() -> bool:
  """Whether messages may show what stands in the data."""
  return _allowed


def shown(value: Any) -> str:
  """The end of a message: the value where it may be shown, else how to see it."""
  return f": {value!r}" if _allowed else " (--show_examples shows it)"


def row(id_: str) -> str:
  """The name of a row in a message: its id, which may be a patient's number, only where it may be shown."""
  return f"row {id_}" if _allowed else "a row (--show_examples names it)"
