"""KTO on judged answers: each group is an answer, desirable or not, and an unrelated one for the reference point."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from medjax.arrays import Array
from medjax.objectives.objective import Objective
from medjax.objectives.preference import Answer, kto
from medjax.objectives.sums import Sum


def drift(unrelated: Answer, real: Float[Array, "..."]) -> Sum:
  """Log-ratios of policy to reference, in nats an answer, over the unrelated answers that exist (`real` is 1)."""
  return Sum(jnp.sum(unrelated.ratio * real), jnp.sum(real))


def reference_point(of_unrelated: Sum) -> Float[Array, ""]:
  """z0 = max(0, mean log-ratio of unrelated answers): a constant of the loss, estimating KL(policy || reference)."""
  return jax.lax.stop_gradient(jnp.maximum(of_unrelated.mean, 0.0))


def loss(
  answer: Answer,
  unrelated: Answer,
  real: Float[Array, "..."],
  desirable: Bool[Array, "..."],
  objective: Objective,
  point: Float[Array, ""] | None = None,
) -> tuple[Sum, dict[str, Sum]]:
  """The loss an answer and its metrics, over answers that exist.

  Args:
    answer: the judged answers.
    unrelated: answers to other prompts, one for each.
    real: 1 for an answer that exists, 0 for one that does not.
    desirable: which of them are.
    objective: its beta is read.
    point: z0 of the step that these answers are a part of; None where they are all of it.

  Returns:
    The loss an answer, and metrics. A desirable answer: `rewards/chosen` (beta times the log-ratio to the reference)
    and `logps/chosen`; an undesirable one: `rewards/rejected` and `logps/rejected`. Any answer: `rewards/margin`, how
    far its reward is on the right side of beta z0, and `rewards/accuracy`, how often it is there. `kl`: z0, in nats.
  """
  z0 = reference_point(drift(unrelated, real)) if point is None else point
  rest = Answer(z0, jnp.zeros_like(z0), jnp.ones_like(z0))
  reward, sign = objective.beta * answer.ratio, jnp.where(desirable, 1.0, -1.0)
  margin = sign * (reward - objective.beta * z0)
  chosen, rejected = real * desirable, real * ~desirable

  def over(x, counted):
    return Sum(jnp.sum(x * counted), jnp.sum(counted))

  total = over(jnp.where(desirable, kto(answer, rest, objective), kto(rest, answer, objective)), real)
  return total, {
    "rewards/chosen": over(reward, chosen),
    "rewards/rejected": over(reward, rejected),
    "rewards/margin": over(margin, real),
    "rewards/accuracy": over((margin > 0).astype(jnp.float32), real),
    "logps/chosen": over(answer.logp, chosen),
    "logps/rejected": over(answer.logp, rejected),
    "kl": over(z0, real),
  }
