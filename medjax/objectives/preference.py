"""Losses on preference pairs: one table, each entry a function of the margin between two log-ratios."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array
from medjax.data.packing import Batch
from medjax.objectives.sums import Sum

Loss = Callable[[Float[Array, "..."], float, float], Float[Array, "..."]]


def sigmoid(margin: Float[Array, "..."], beta: float, label_smoothing: float) -> Float[Array, "..."]:
  """DPO: -log sigmoid(beta m), Rafailov et al. 2023, arXiv 2305.18290, eq. 7. Reads no label smoothing."""
  del label_smoothing
  return -jax.nn.log_sigmoid(beta * margin)


def cdpo(margin: Float[Array, "..."], beta: float, label_smoothing: float) -> Float[Array, "..."]:
  """Conservative DPO: -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m).

  `e` is the chance that a pair's labels are swapped (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3).
  Until version 1.0 TRL's `sigmoid` with `label_smoothing` was this loss; now it ignores the smoothing.
  """
  agree, disagree = jax.nn.log_sigmoid(beta * margin), jax.nn.log_sigmoid(-beta * margin)
  return -(1 - label_smoothing) * agree - label_smoothing * disagree


# Each loss is a function of (m, beta, label_smoothing), where m [pairs] is the chosen answer's log-ratio of policy to
# reference less the rejected answer's, in nats.
LOSSES: dict[str, Loss] = {"sigmoid": sigmoid, "cdpo": cdpo}


def loss_at_reference(name: str, beta: float, label_smoothing: float) -> float:
  """The loss where the policy is the reference (margin 0): what step 0 must show."""
  return float(LOSSES[name](jnp.zeros(()), beta, label_smoothing))


def loss(
  logp_BN: Float[Array, "B N"], batch: Batch, name: str, beta: float, label_smoothing: float
) -> tuple[Sum, dict[str, Sum]]:
  """The named loss over the pairs of a batch: sequences 2i (chosen) and 2i + 1 (rejected) of a row.

  Args:
    logp_BN: float32 sums of the policy's log-probabilities over each sequence.
    batch: carries `reference_logp` [B, N] and which sequences exist.
    name: key of `LOSSES`.
    beta: weight of the implicit KL penalty.
    label_smoothing: chance that a pair's labels are swapped, for the losses that read it.

  Returns:
    The loss a pair, and metrics: rewards (beta times the log-ratio to the reference, eq. 5 of the DPO paper) of the
    chosen and the rejected answer, their margin, and how often it is above 0.
  """
  ratio_BP2 = (logp_BN - batch.reference_logp).reshape(logp_BN.shape[0], -1, 2)
  chosen_BP, rejected_BP = ratio_BP2[..., 0], ratio_BP2[..., 1]
  margin_BP = chosen_BP - rejected_BP
  real_BP = (batch.example.reshape(ratio_BP2.shape)[..., 0] >= 0).astype(jnp.float32)

  def over_pairs(x_BP):
    return Sum(jnp.sum(x_BP * real_BP), jnp.sum(real_BP))

  metrics = {
    "rewards/chosen": over_pairs(beta * chosen_BP),
    "rewards/rejected": over_pairs(beta * rejected_BP),
    "rewards/margin": over_pairs(beta * margin_BP),
    "rewards/accuracy": over_pairs((margin_BP > 0).astype(jnp.float32)),
  }
  return over_pairs(LOSSES[name](margin_BP, beta, label_smoothing)), metrics
