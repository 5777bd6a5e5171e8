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


def optimizer_settings(config) -> tuple[float, float, str, str]:
  """What `make_optimizer` takes, of a run's config."""
  settings = config.optimizer
  return settings.clip_norm, settings.weight_decay, settings.name, settings.moments


def make_optimizer(
  clip_norm: float, weight_decay: float, name: str = "adamw", moments: str = "float32"
) -> optax.GradientTransformation:
  """An optimizer of optax after clipping by global norm, for a rate of 1.

  The step multiplies the update by minus the learning rate, weight decay with it: whatever the optimizer, a step takes
  learning rate times `weight_decay` off each weight (decoupled decay; optax's own Adafactor decays without the rate).

  Args:
    clip_norm: greatest norm of the whole gradient.
    weight_decay: of all that is trained.
    name: `adamw` (Loshchilov & Hutter 2019, arXiv 1711.05101, alg. 2); `lion` (Chen et al. 2023, arXiv 2302.06675,
      alg. 2; b1 0.9, b2 0.99), whose update is a sign, so that it wants a third to a tenth of AdamW's rate; or
      `adafactor` (Shazeer & Stern 2018, arXiv 1804.04235, alg. 4), whose update is clipped to an RMS of 1 and
      multiplied by the parameter's RMS (at least 0.001): its rate is relative, 1e-3 for weights of size 0.02 is like
      AdamW's 2e-5. A parameter whose second largest axis is 128 or longer has its second moment as two means over
      these axes; blocks are stacked, so that a parameter, and its RMS, is of one kind of weight in all layers.
    moments: dtype of the first moment, which Adafactor does not have. AdamW's second moment is float32 always: in
      bfloat16 it could not follow changes of a thousandth a step.
  """
  pieces = {
    "adamw": lambda: (optax.scale_by_adam(mu_dtype=moments),),
    "lion": lambda: (optax.scale_by_lion(mu_dtype=moments),),
    "adafactor": lambda: (
      *(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
      optax.scale_by_param_block_rms(),
    ),
  }[name]()
  return optax.chain(optax.clip_by_global_norm(clip_norm), *pieces, optax.add_decayed_weights(weight_decay))
