"""Text of data on a terminal: what could move its cursor, colour it or turn its direction is shown, not done."""

import re

# Control characters, marks and overrides of direction, line separators, halves of characters that no encoding has.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(line: str) -> str:
  r"""Returns one line with each control character as Python writes it, such as `\x1b` or `\n`."""
  return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), line)


def visible_lines(text: str) -> str:
  """Returns a text with its line breaks kept, and each of its lines as `visible` shows it."""
  return "\n".join(map(visible, text.split("\n")))
