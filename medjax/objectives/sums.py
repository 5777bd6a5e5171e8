"""A mean kept as total and count, so that microbatches and hosts add up to one big batch."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array


class Sum(NamedTuple):
  """Total of a quantity and how many it was summed over; both float32 scalars."""

  total: Float[Array, ""]
  count: Float[Array, ""]

  @property
  def mean(self) -> Float[Array, ""]:
    """The mean: total / count, and 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, 1.0)
