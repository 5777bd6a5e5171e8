"""Losses on preference pairs: one table, each entry a pure function of what is known of the two answers of a pair.

`m` is the margin: the chosen answer's log-ratio of policy to reference less the rejected answer's, in nats.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array
from medjax.data.packing import Batch
from medjax.objectives.logprobs import sequence_logps
from medjax.objectives.objective import Objective
from medjax.objectives.sums import Sum

Loss = Callable[["Answer", "Answer", Objective], Float[Array, "..."]]


class Answer(NamedTuple):
  """One of the two answers of each pair; float32 arrays of one shape [...], an entry a pair.

  Attributes:
    logp: sum of the policy's log-probabilities over the answer's scored tokens, in nats.
    reference: the same of the reference model; not read by the losses of `REFERENCE_FREE`.
    length: scored tokens, the end of the turn among them.
  """

  logp: Float[Array, "..."]
  reference: Float[Array, "..."]
  length: Float[Array, "..."]

  @property
  def ratio(self) -> Float[Array, "..."]:
    """Log-ratio of policy to reference, in nats an answer."""
    return self.logp - self.reference

  @property
  def mean_ratio(self) -> Float[Array, "..."]:
    """Log-ratio of policy to reference, in nats a token."""
    return self.ratio / self.length

  @property
  def mean_logp(self) -> Float[Array, "..."]:
    """The policy's log-probability, in nats a token."""
    return self.logp / self.length


def sigmoid(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """DPO: -log sigmoid(beta m), Rafailov et al. 2023, arXiv 2305.18290, eq. 7. Reads no label smoothing."""
  return -jax.nn.log_sigmoid(objective.beta * (chosen.ratio - rejected.ratio))


def sigmoid_norm(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """Length-normalised DPO: `sigmoid` with each log-ratio divided by its own answer's length.

  Lambert et al. 2024 (Tulu 3), arXiv 2411.15124, section 5. TRL has it under this name.
  """
  return -jax.nn.log_sigmoid(objective.beta * (chosen.mean_ratio - rejected.mean_ratio))


def cdpo(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """Conservative DPO: -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m).

  `e` is the chance that a pair's labels are swapped (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3).
  Until version 1.0 TRL's `sigmoid` with `label_smoothing` was this loss; now it ignores the smoothing.
  """
  e = objective.label_smoothing
  return (1 - e) * sigmoid(chosen, rejected, objective) + e * sigmoid(rejected, chosen, objective)


def robust(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """Robust DPO: (-(1 - e) log sigmoid(beta m) + e log sigmoid(-beta m)) / (1 - 2 e).

  The mean of this loss over labels of which a share `e` is swapped is that of `sigmoid` over the true ones (Chowdhury
  et al. 2024, arXiv 2403.00409, the loss of rDPO). It has no lower bound for e > 0, unlike `cdpo`.
  """
  e = objective.label_smoothing
  return ((1 - e) * sigmoid(chosen, rejected, objective) - e * sigmoid(rejected, chosen, objective)) / (1 - 2 * e)


def ipo_sum(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """IPO as it is written: (m - 1 / (2 beta))^2, Azar et al. 2023, arXiv 2310.12036, eq. 17, where beta is tau."""
  return jnp.square(chosen.ratio - rejected.ratio - 1 / (2 * objective.beta))


def ipo_mean(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """IPO with each log-ratio divided by its own answer's length: the margin that is aimed at is in nats a token.

  TRL's `ipo` is this loss; its authors report that those of the paper computed it so.
  """
  return jnp.square(chosen.mean_ratio - rejected.mean_ratio - 1 / (2 * objective.beta))


def hinge(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """max(0, 1 - beta m): the hinge of SLiC on log-ratios, `hinge-norm` of Liu et al. 2023 (RSO), arXiv 2309.06657."""
  return jax.nn.relu(1 - objective.beta * (chosen.ratio - rejected.ratio))


def kto(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """KTO: 1 - sigmoid(beta (r - z0)) of a desirable answer of log-ratio r, 1 - sigmoid(beta (z0 - r)) of another one.

  Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7 and 8, with both weights 1. Here `chosen` is the answer and `rejected`
  the reference point z0, or the other way round where the answer is undesirable; `objectives.kto` makes them.
  """
  return jax.nn.sigmoid(objective.beta * (rejected.ratio - chosen.ratio))


def simpo(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """SimPO: -log sigmoid(beta (a_chosen - a_rejected) - gamma), Meng et al. 2024, arXiv 2405.14734, eq. 6.

  `a` is the policy's log-probability a token; there is no reference. Its authors use a beta of 2 and more, not 0.1.
  """
  return -jax.nn.log_sigmoid(objective.beta * (chosen.mean_logp - rejected.mean_logp) - objective.gamma)


def orpo(chosen: Answer, rejected: Answer, objective: Objective) -> Float[Array, "..."]:
  """ORPO: -a_chosen - beta log sigmoid(log odds(chosen) - log odds(rejected)); beta is the paper's lambda.

  Hong et al. 2024, arXiv 2403.07691, eq. 6 with eq. 2, 4 and 7: `a` is the policy's log-probability a token, and
  odds = P / (1 - P) with P = exp(a). Each answer is divided by its own length; there is no reference. TRL's first term
  is another: the mean over all tokens of the batch, those of the prompts among them.
  """
  log_odds = _log_odds(chosen.mean_logp) - _log_odds(rejected.mean_logp)
  return -chosen.mean_logp - objective.beta * jax.nn.log_sigmoid(log_odds)


def _log_odds(log_p: Float[Array, "..."]) -> Float[Array, "..."]:
  """log(p / (1 - p)), finite where p rounds to 1."""
  log_p = jnp.minimum(log_p, -1e-7)
  return log_p - jnp.log(-jnp.expm1(log_p))


LOSSES: dict[str, Loss] = {
  "sigmoid": sigmoid,
  "sigmoid_norm": sigmoid_norm,
  "cdpo": cdpo,
  "robust": robust,
  "ipo_sum": ipo_sum,
  "ipo_mean": ipo_mean,
  "hinge": hinge,
  "kto": kto,
  "simpo": simpo,
  "orpo": orpo,
}
REFERENCE_FREE = ("simpo", "orpo")


def reads_reference(objective: Objective) -> bool:
  """Whether the objective is a preference loss that compares the policy with a reference model."""
  return objective.method == "dpo" and objective.loss not in REFERENCE_FREE


def loss_at_reference(objective: Objective) -> float | None:
  """The loss (without the SFT term) where the policy is the reference: what step 0 must show. None without one.

  ln 2 for `sigmoid`, `sigmoid_norm`, `cdpo` and `robust`, 1 / (4 beta^2) for `ipo_sum` and `ipo_mean`, 1 for `hinge`,
  1/2 for `kto`.
  """
  return _loss_of_ratios(objective, 0.0, 0.0) if reads_reference(objective) else None


def error_at_reference(objective: Objective, nats: float) -> float:
  """How far the loss may be from `loss_at_reference` where each answer's log-ratio is off by up to `nats`."""
  here = _loss_of_ratios(objective, 0.0, 0.0)
  return max(abs(_loss_of_ratios(objective, *pair) - here) for pair in ((nats, -nats), (-nats, nats)))


def _loss_of_ratios(objective: Objective, chosen: float, rejected: float) -> float:
  """The loss of one pair of answers, one token long, of these log-ratios."""
  answers = (Answer(jnp.float32(ratio), jnp.zeros(()), jnp.ones(())) for ratio in (chosen, rejected))
  return float(LOSSES[objective.loss](*answers, objective))


def chosen_tokens_per_pair(batch: Batch) -> Float[Array, ""]:
  """Scored tokens of the chosen answers for each pair of a batch, whatever its leading axes."""
  tokens = jnp.sum(batch.weight * (batch.sequence_id % 2 == 0))
  return tokens / jnp.maximum(jnp.sum(batch.example[..., ::2] >= 0), 1)


def loss(
  logp_BN: Float[Array, "B N"], batch: Batch, objective: Objective, tokens_per_pair: Float[Array, ""] | None = None
) -> tuple[Sum, dict[str, Sum]]:
  """The loss over the pairs of a batch: sequences 2i (chosen) and 2i + 1 (rejected) of a row.

  Args:
    logp_BN: float32 sums of the policy's log-probabilities over each sequence.
    batch: carries `reference_logp` [B, N] and which sequences exist.
    objective: which loss.
    tokens_per_pair: see `loss_of_pairs`.

  Returns:
    As `loss_of_pairs`.
  """
  return loss_of_pairs(*answers_of(logp_BN, batch), objective, tokens_per_pair)


def answers_of(logp_BN: Float[Array, "B N"], batch: Batch) -> tuple[Answer, Answer, Float[Array, "B P"]]:
  """The first and the second answer of each group of two, and 1 for the groups that exist; arguments as of `loss`."""
  real_BN = batch.example >= 0
  length_BN = sequence_logps(jnp.ones_like(batch.weight), batch)
  # What no pair fills is given values at which every loss and its gradient are finite; it counts for nothing.
  filled = (
    jnp.where(real_BN, logp_BN, -1.0),
    jnp.where(real_BN, batch.reference_logp, -1.0),
    jnp.maximum(length_BN, 1.0),
  )
  first, second = (Answer(*(x_BN[:, place::2] for x_BN in filled)) for place in (0, 1))
  return first, second, real_BN[:, ::2].astype(jnp.float32)


def loss_of_pairs(
  chosen: Answer,
  rejected: Answer,
  real: Float[Array, "..."],
  objective: Objective,
  tokens_per_pair: Float[Array, ""] | None = None,
) -> tuple[Sum, dict[str, Sum]]:
  """The loss a pair and its metrics, over pairs that exist.

  With `sft_weight` w the mean loss is (sum of the pairs' losses) / pairs + w (NLL of the chosen answers) / (their
  scored tokens): the SFT term is a mean over all tokens of a step, as in `objectives.sft` and in TRL's loss type `sft`
  (its `loss_weights`, formerly `rpo_alpha`). RPO (Pang et al. 2024, arXiv 2404.19733, eq. 1) divides each answer by its
  own length instead.

  Args:
    chosen: the preferred answers.
    rejected: the others.
    real: 1 for a pair that exists, 0 for one that does not.
    objective: which loss.
    tokens_per_pair: scored tokens of chosen answers for each pair of the step that these pairs are a part of; None
      where they are all of it.

  Returns:
    The loss a pair, and metrics. A pair: `logps/chosen` and `logps/rejected` (sums over the answer), `rewards/chosen`
    and `rewards/rejected` (beta times the log-ratio to the reference, eq. 5 of the DPO paper; without a reference beta
    times the log-probability a token), `rewards/margin`, and `rewards/accuracy`, how often it is above 0. A scored
    token: `nll/chosen` (where the loss has an SFT term), `kl/chosen` and `kl/rejected` (with a reference), the mean
    log-ratio of policy to reference. It estimates KL(policy || reference) a token where the answers are the policy's
    own samples, and minus KL(reference || policy) where they are the reference's; on other texts it says how far, and
    in which direction, the policy has moved on them.
  """

  def over_pairs(x):
    return Sum(jnp.sum(x * real), jnp.sum(real))

  def over_tokens(x, answer):
    return Sum(jnp.sum(x * real), jnp.sum(answer.length * real))

  total = over_pairs(LOSSES[objective.loss](chosen, rejected, objective))
  nll = over_tokens(-chosen.logp, chosen)
  if objective.sft_weight:
    if tokens_per_pair is None:
      tokens_per_pair = nll.count / jnp.maximum(total.count, 1.0)
    total = total._replace(total=total.total + objective.sft_weight * nll.total / jnp.maximum(tokens_per_pair, 1.0))

  with_reference = reads_reference(objective)
  rewards = [objective.beta * (answer.ratio if with_reference else answer.mean_logp) for answer in (chosen, rejected)]
  margin = rewards[0] - rewards[1]
  metrics = {
    "rewards/chosen": over_pairs(rewards[0]),
    "rewards/rejected": over_pairs(rewards[1]),
    "rewards/margin": over_pairs(margin),
    "rewards/accuracy": over_pairs((margin > 0).astype(jnp.float32)),
    "logps/chosen": over_pairs(chosen.logp),
    "logps/rejected": over_pairs(rejected.logp),
  }
  if with_reference:
    metrics |= {"kl/chosen": over_tokens(chosen.ratio, chosen), "kl/rejected": over_tokens(rejected.ratio, rejected)}
  if objective.sft_weight or objective.loss == "orpo":
    metrics["nll/chosen"] = nll
  return total, metrics
