"""Candidates of a study's grid."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any


def product(axes: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], ...]:
  """One candidate for each combination of values: `product({"train.steps": (50, 100), "preference.beta": (0.1, 0.3)})`.

  Args:
    axes: key of the config -> its values; the last key varies fastest.
  """
  return tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
