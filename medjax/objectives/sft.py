"""Supervised fine-tuning: cross-entropy of the completion's tokens."""

import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array
from medjax.data.packing import Batch
from medjax.objectives.sums import Sum


def loss(logps_BS: Float[Array, "B S"], batch: Batch) -> tuple[Sum, dict[str, Sum]]:
  """Negative log-likelihood in nats a token, over scored tokens: sum(weight * nll) and sum(weight).

  Returns:
    The loss, and no further metrics.
  """
  return Sum(-jnp.sum(logps_BS * batch.weight), jnp.sum(batch.weight)), {}
