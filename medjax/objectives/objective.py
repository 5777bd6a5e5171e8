"""What a run minimises, as the compiled step sees it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: `method` is `sft` or `dpo`, the rest is read by `dpo` (see `objectives.preference`).

  Attributes:
    method: `sft`, or `dpo` for any preference loss.
    loss: key of `preference.LOSSES`.
    beta: weight of the implicit KL penalty; each loss says what else it is.
    label_smoothing: chance that a pair's labels are swapped (`cdpo`, `robust`).
    lora_base: the reference is the policy without its adapters.
    gamma: target margin (`simpo`).
    sft_weight: of the chosen answers' negative log-likelihood, added to the loss.
  """

  method: str
  loss: str = "sigmoid"
  beta: float = 0.1
  label_smoothing: float = 0.0
  lora_base: bool = False
  gamma: float = 1.0
  sft_weight: float = 0.0


def objective_of(config) -> Objective:
  """The objective that a run's config asks for."""
  if config.method == "sft":
    return Objective("sft")
  settings = config.preference
  return Objective(
    "dpo",
    settings.loss,
    settings.beta,
    settings.label_smoothing,
    settings.reference == "lora_base",
    settings.gamma,
    settings.sft_weight,
  )
