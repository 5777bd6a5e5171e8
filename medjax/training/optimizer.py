"""The optimizer and its schedule, from the config."""

import optax

SCHEDULES = ("cosine", "constant", "linear")


def schedule(config, steps: int) -> optax.Schedule:
  """Learning rate by step: linear warm-up from 0, then constant, or down to 0 at the last step.

  Args:
    config: a run's config; reads `optimizer`.
    steps: optimizer steps of the run.
  """
  peak, warmup = config.optimizer.learning_rate, min(config.optimizer.warmup_steps, steps)
  decay = max(steps - warmup, 1)
  after = {
    "cosine": lambda: optax.cosine_decay_schedule(peak, decay),
    "constant": lambda: optax.constant_schedule(peak),
    "linear": lambda: optax.linear_schedule(peak, 0.0, decay),
  }[config.optimizer.schedule]()
  # Step 0 already learns: the warm-up is peak / warmup, 2 peak / warmup, ...
  return optax.join_schedules([optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1)), after], [warmup])


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
  """Clipping by global norm, then AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with float32 moments."""
  return optax.chain(
    optax.clip_by_global_norm(config.optimizer.clip_norm),
    optax.adamw(schedule(config, steps), weight_decay=config.optimizer.weight_decay),
  )
