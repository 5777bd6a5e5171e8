"""A mean kept as total and count, so that microbatches and hosts add up to one big batch."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array


class Sum(NamedTuple):
  """Total of a quantity and how many it was summed over, or the sum of their weights; both float32 scalars."""

  total: Float[Array, ""]
  count: Float[Array, ""]

  @property
  def divisor(self) -> Float[Array, ""]:
    """What makes a mean of a total: the count, which weights may bring below 1, and 1 where nothing was counted."""
    return jnp.where(self.count > 0, self.count, 1.0)

  @property
  def mean(self) -> Float[Array, ""]:
    """The mean: total / count, and 0 where nothing was counted."""
    return self.total / self.divisor
