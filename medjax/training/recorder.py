"""What a step came to: fetched, checked, counted, and passed on."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from medjax import privacy
from medjax.data.loader import StepBatch
from medjax.errors import RunError
from medjax.objectives import preference
from medjax.objectives.objective import Objective
from medjax.training.telemetry import Telemetry

# Bounds on rounding errors in nats, by compute dtype: those that a step's answers share, and those of one answer for
# each square root of a token. They are several times what tests/training/measure_rounding.py measures.
_SHARED = {"float32": 0.01, "bfloat16": 0.5}
_OWN = {"float32": 0.0001, "bfloat16": 0.6}


class Recorder:
  """Fetches a step's metrics, checks them, and passes them on.

  Args:
    telemetry: where they go.
    objective: what is minimised.
    dtype: of the computation.
    most_skipped: steps that may be left out because loss or gradient is not finite.
    before: `so_far` of the checkpoint that the run goes on from, else empty.
  """

  def __init__(
    self, telemetry: Telemetry, objective: Objective, dtype: str, most_skipped: int, before: Mapping[str, Any]
  ):
    self._telemetry, self._objective, self._dtype, self._most_skipped = telemetry, objective, dtype, most_skipped
    self._clock = time.perf_counter()
    self.tokens, self.seconds = before.get("tokens", 0), before.get("seconds", 0.0)
    self._skipped, self.last = before.get("skipped", 0), {}

  @property
  def so_far(self) -> dict[str, Any]:
    """Real tokens, seconds in the loop and steps left out, since the run began."""
    return {"tokens": self.tokens, "seconds": self.seconds, "skipped": self._skipped}

  def record(self, step: int, metrics: Any, item: StepBatch, more: dict[str, float]) -> None:
    """Waits for the metrics of a step.

    Raises:
      RunError: loss or gradient is not finite and the step is not to be left out, or `check_first_step` says no.
    """
    values = {key: float(value) for key, value in jax.device_get(metrics).items()} | more
    now = time.perf_counter()
    seconds, self._clock = now - self._clock, now
    self.tokens, self.seconds = self.tokens + item.tokens, self.seconds + seconds
    if not np.isfinite([values["loss"], values["grad_norm"]]).all():
      self._skip(step, values, item)
    elif step == 1:
      with jax.transfer_guard("allow"):
        check_first_step(values, self._objective, tolerance_in_nats(self._dtype, item))
    values |= {"tokens": item.tokens, "tokens_per_second": item.tokens / seconds, "padded_share": item.padded_share}
    if self._most_skipped:
      values["skipped"] = self._skipped
    self.last = values
    self._telemetry.write(step, values)

  def _skip(self, step: int, values: dict[str, float], item: StepBatch) -> None:
    rows = f"rows {', '.join(item.ids)}" if privacy.allowed() else f"{len(item.ids)} rows (--show_examples names them)"
    what = f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; {rows}"
    self._skipped += 1
    if self._skipped <= self._most_skipped:
      logging.warning("%s; left out, %d of %d that may be", what, self._skipped, self._most_skipped)
      return
    left_out = f" ({self._most_skipped} such steps were left out)" if self._most_skipped else ""
    raise RunError(f"{what}; lower optimizer.learning_rate or look at these rows{left_out}")


def tolerance_in_nats(dtype: str, item: StepBatch) -> float:
  """Returns how far rounding may move the mean log-probability of a step's answers from the reference's, in nats.

  Policy and reference are the same weights, computed in rows of different shapes. The errors of an answer's n tokens
  are nearly independent and grow as sqrt(n); a mean over P pairs divides them by sqrt(P). Errors that answers share,
  such as those of common first tokens, do not average out. The bound is max(shared, own * sqrt(n / P)).
  """
  answers = np.count_nonzero(item.batches.example >= 0)
  tokens = np.count_nonzero(item.batches.weight) / max(answers, 1)
  return max(_SHARED[dtype], _OWN[dtype] * float(np.sqrt(tokens / len(item.ids))))


def check_first_step(values: dict[str, float], objective: Objective, nats: float) -> None:
  """Checks that the first step has a gradient and starts at its reference.

  Args:
    values: its metrics.
    objective: what is minimised.
    nats: see `tolerance_in_nats`.

  Raises:
    RunError: there is no gradient, or policy and reference are not one model.
  """
  if values["grad_norm"] == 0.0:
    raise RunError("step 1: the gradient is zero; every scored token is certain already, or nothing is scored")
  expected = preference.loss_at_reference(objective)
  if expected is None:
    return
  tolerance, of_rewards = preference.error_at_reference(objective, nats), objective.beta * nats
  loss = values["loss"] - (objective.sft_weight * values["nll/chosen"] if objective.sft_weight else 0.0)
  rewards = max(abs(values["rewards/chosen"]), abs(values["rewards/rejected"]))
  if abs(loss - expected) > tolerance or rewards > of_rewards:
    raise RunError(
      f"step 1: the loss is {loss:.6f} and rewards reach {rewards:.6f}, but a policy that starts as its "
      f"reference has loss {expected:.6f} and rewards 0 (tolerances {tolerance:.3g} and {of_rewards:.3g}); the "
      "reference log-probabilities are of other weights, texts or dtype"
    )
