"""How much of what takes minutes a test does: a short form in the suite, the long one in `make soak`."""

import os


def some(cases: list, short: int) -> list:
  """Cases that repeat one point: the first few, and all of them where MEDJAX_SOAK is set."""
  return cases[: count(short, len(cases))]


def count(short: int, long: int) -> int:
  """The number for this run: `long` where MEDJAX_SOAK is set."""
  return long if os.environ.get("MEDJAX_SOAK") else short
