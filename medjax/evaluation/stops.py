"""Stop strings: texts at which an answer ends, however they are cut into tokens."""

from collections.abc import Callable, Sequence
from typing import Any

from medjax.errors import UserError


def check_stop(stop: Sequence[str], named: str = "stop") -> None:
  """Refuses what no answer can be cut at.

  Args:
    stop: the stop strings.
    named: what a user calls them.

  Raises:
    UserError: one text instead of several, or an empty one.
  """
  if isinstance(stop, str):
    raise UserError(f"{named} is one text; give a list of texts")
  if not all(isinstance(text, str) and text for text in stop):
    raise UserError(f"{named} holds an empty text, or something that is none; every answer would end before it begins")


def has_stop(text: str, stop: Sequence[str]) -> bool:
  """Whether one of them is in the text."""
  return any(each in text for each in stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
  """The text before the first of them, all of it where there is none."""
  return text[: min((text.find(each) for each in stop if each in text), default=len(text))]


def end_at_stop(tokenizer: Any, stop: Sequence[str]) -> Callable[[Sequence[int]], int | None] | None:
  """How `decode.generate` learns where an answer ends: after the token that completes a stop string.

  Texts are looked at, not tokens, since the same text may be cut into tokens in many ways.

  Args:
    tokenizer: the transformers tokenizer.
    stop: the stop strings; None is given back where there are none.
  """
  if not stop:
    return None

  def ends(tokens: Sequence[int]) -> bool:
    return has_stop(tokenizer.decode(tokens, skip_special_tokens=True), stop)

  def end_of(tokens: Sequence[int]) -> int | None:
    if not ends(tokens):
      return None
    count = len(tokens)
    while count > 1 and ends(tokens[: count - 1]):
      count -= 1
    return count

  return end_of
