"""The optimizer and its schedule. The learning rate is an argument of the step: one program serves all rates."""

import optax


def learning_rates(config, steps: int) -> optax.Schedule:
  """Learning rate by step, from 0: linear warm-up to the peak, then constant, or down to 0 after the last step.

  Args:
    config: a run's config; reads `optimizer`.
    steps: optimizer steps of the run.
  """
  peak, warmup = config.optimizer.learning_rate, min(config.optimizer.warmup_steps, steps)
  decay = max(steps - warmup, 1)
  after = {
    "cosine": optax.cosine_decay_schedule(peak, decay),
    "constant": optax.constant_schedule(peak),
    "linear": optax.linear_schedule(peak, 0.0, decay),
  }[config.optimizer.schedule]
  # The first step learns already: peak / warmup, 2 peak / warmup, ... peak.
  rising = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
  return optax.join_schedules([rising, after], [warmup])


def make_optimizer(clip_norm: float, weight_decay: float) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, alg. 2) after clipping by global norm, for a rate of 1.

  Moments are float32. The step multiplies the update by minus the learning rate.
  """
  return optax.chain(
    optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(), optax.add_decayed_weights(weight_decay)
  )
