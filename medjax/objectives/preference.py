"""Losses on preference pairs: one table, each entry a function of the two implicit-reward differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.data.packing import Batch
from medjax.objectives.sums import Sum

Loss = Callable[[Float[Array, "..."], float, float], Float[Array, "..."]]


def sigmoid(margin: Float[Array, "..."], beta: float, label_smoothing: float) -> Float[Array, "..."]:
  """DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), conservative DPO where `label_smoothing` > 0.

  `-(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)` with `e` the chance that a pair's labels are swapped
  (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3; without label smoothing it is plain DPO). TRL's
  `sigmoid` loss reads no label smoothing since 1.0; this one does.
  """
  return -(1 - label_smoothing) * jax.nn.log_sigmoid(beta * margin) - label_smoothing * jax.nn.log_sigmoid(
    -beta * margin
  )


LOSSES: dict[str, Loss] = {"sigmoid": sigmoid}

# The loss where policy and reference agree (margin 0), by name: what step 0 must show.
STEP_0: dict[str, float] = {"sigmoid": 0.6931471805599453}


def loss(
  logp_BN: Float[Array, "B N"], batch: Batch, name: str, beta: float, label_smoothing: float
) -> tuple[Sum, dict[str, Sum]]:
  """The named loss over the pairs of a batch: sequences 2i (chosen) and 2i + 1 (rejected) of a row.

  Args:
    logp_BN: float32 sums of the policy's log-probabilities over each sequence.
    batch: carries `reference_logp` [B, N] and which sequences exist.
    name: key of `LOSSES`.
    beta: weight of the implicit KL penalty.
    label_smoothing: chance that a pair's labels are swapped.

  Returns:
    The loss a pair, and metrics: rewards (beta times the log-ratio to the reference, eq. 5 of the DPO paper) of the
    chosen and the rejected answer, their margin, and how often it is above 0.
  """
  rewards_BN = beta * (logp_BN - batch.reference_logp)
  pairs = lambda x_BN: x_BN.reshape(x_BN.shape[0], -1, 2)
  chosen_BP, rejected_BP = pairs(rewards_BN)[..., 0], pairs(rewards_BN)[..., 1]
  real_BP = (pairs(batch.example)[..., 0] >= 0).astype(jnp.float32)
  margin_BP = chosen_BP - rejected_BP
  losses_BP = LOSSES[name](margin_BP / beta, beta, label_smoothing)
  over_pairs = lambda x_BP: Sum(jnp.sum(x_BP * real_BP), jnp.sum(real_BP))
  metrics = {
    "rewards/chosen": chosen_BP,
    "rewards/rejected": rejected_BP,
    "rewards/margin": margin_BP,
    "rewards/accuracy": (margin_BP > 0).astype(jnp.float32),
  }
  return over_pairs(losses_BP), {key: over_pairs(value) for key, value in metrics.items()}
