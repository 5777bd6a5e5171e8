"""Random draws and a small text grammar that give the same result on every machine and library version."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+(?:\.\d)?)-(\d+(?:\.\d)?)$")


class Draws:
  """A stream of draws from a key of whole numbers.

  Only the raw 64-bit output of PCG64 is used: NumPy promises that stream for good, but not the way in which
  `numpy.random.Generator` turns it into integers and choices.
  """

  def __init__(self, *key: int):
    self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

  def below(self, n: int) -> int:
    """A whole number in 0 .. n - 1."""
    return int(self._bits.random_raw()) % n

  def between(self, low: int, high: int) -> int:
    """A whole number in low .. high, both included."""
    return low + self.below(high - low + 1)

  def chance(self, probability: float) -> bool:
    """True with this probability."""
    return (int(self._bits.random_raw()) >> 11) * 2.0**-53 < probability

  def pick(self, items: Sequence, weights: Sequence[float] | None = None):
    """One of the items, each as likely as the next or by weight."""
    if weights is None:
      return items[self.below(len(items))]
    point = (int(self._bits.random_raw()) >> 11) * 2.0**-53 * sum(weights)
    for item, weight in zip(items, weights, strict=True):
      point -= weight
      if point < 0:
        return item
    return items[-1]

  def shuffled(self, items: Sequence) -> list:
    """The items in a drawn order."""
    rest, out = list(items), []
    while rest:
      out.append(rest.pop(self.below(len(rest))))
    return out


def one_or_two_each(
  seed: int, first: int, wanted: int, purposes: tuple[int, int], write: Callable[[int, int, Sequence], Any]
) -> tuple:
  """So many texts, one or two of each patient, in a drawn order.

  Args:
    seed: of the population.
    first: number of the first patient; the others follow.
    wanted: how many texts.
    purposes: last parts of the keys that draw how many texts a patient has, and their order.
    write: (patient's number, number of the text, the patient's earlier texts) -> a text with its ground truth.
  """
  how_many, order = purposes
  out, index = [], first
  while len(out) < wanted:
    own: list = []
    for number in range(Draws(seed, index, how_many).between(1, 2)):
      own.append(write(index, number, own))
    out += own
    index += 1
  return tuple(Draws(seed, first, order).shuffled(out[:wanted]))


def expand(draws: Draws, template: str, slot: Callable[[str], str]) -> str:
  """Writes a template out.

  Args:
    draws: where choices come from.
    template: text with `[this|or this]` (may nest; one is drawn), `{36-48}` or `{38.1-39.4}` (a number of that range,
      with as many decimals as the bounds) and `{name}`.
    slot: text for a `{name}`; may itself be a template.

  Returns:
    The text, with runs of blanks made one.
  """

  def fill(match: re.Match) -> str:
    bounds = _RANGE.match(match[1])
    if bounds is None:
      return expand(draws, slot(match[1]), slot)
    if "." in bounds[1]:
      tenths = draws.between(*(int(bound.replace(".", "")) for bound in bounds.groups()))
      return f"{tenths // 10}.{tenths % 10}"
    return str(draws.between(int(bounds[1]), int(bounds[2])))

  text = template
  while (match := _INNERMOST.search(text)) is not None:
    text = text[: match.start()] + draws.pick(match[1].split("|")) + text[match.end() :]
  text = _SLOT.sub(fill, text)
  return re.sub(r"\s+([,.;?!])", r"\1", re.sub(r"\s+", " ", text)).strip()
