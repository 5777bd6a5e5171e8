"""Whole runs with each kind of preference loss: the first loss is checked, and a reference is computed where one is."""

import math

import pytest
from runs import lines, overrides, train

from medjax.errors import RunError
from medjax.objectives.objective import Objective
from medjax.training import loop
from medjax.training.loop import check_first_step


@pytest.mark.parametrize("reference", ["precomputed", "live"])
@pytest.mark.parametrize(
  ("loss", "more"), [("robust", {"preference__label_smoothing": 0.1}), ("ipo_mean", {}), ("hinge", {})]
)
def test_a_run_starts_at_its_reference(home, tmp_path, reference, loss, more):
  """Also with an SFT term beside the loss, at training and at validation."""
  settings = overrides(
    home,
    "dpo",
    train__steps=2,
    preference__loss=loss,
    preference__reference=reference,
    preference__sft_weight=0.5,
    evaluation__every=2,
    **more,
  )
  train(tmp_path / "run", settings)
  first, last = lines(tmp_path / "run")
  at_reference = {"robust": math.log(2), "ipo_mean": 25.0, "hinge": 1.0}[loss]
  assert first["loss"] == pytest.approx(at_reference + 0.5 * first["nll/chosen"], abs=2e-3)
  assert abs(first["kl/chosen"]) < 1e-3 < abs(last["kl/chosen"])
  assert last["validation/loss"] > 0.5 and 0 <= last["validation/rewards/accuracy"] <= 1


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_a_run_without_a_reference_computes_none(home, tmp_path, monkeypatch, loss):
  def refuse(*arguments):
    raise AssertionError("a reference pass")

  monkeypatch.setattr(loop.reference, "reference_logps", refuse)
  settings = overrides(
    home, "dpo", train__batch_size=16, preference__loss=loss, preference__beta=2.0, evaluation__every=6
  )
  train(tmp_path / "run", settings)
  found = lines(tmp_path / "run")
  assert found[-1]["loss"] < found[0]["loss"]
  assert not any(key.startswith("kl/") for key in found[0])
  assert found[-1]["validation/loss"] > 0


def first(loss, chosen=0.0, nll=3.0):
  return {"loss": loss, "grad_norm": 1.0, "rewards/chosen": chosen, "rewards/rejected": 0.0, "nll/chosen": nll}


def test_first_step_check_knows_each_loss():
  ipo = Objective("dpo", "ipo_sum", 0.1, sft_weight=0.5)
  check_first_step(first(25.0 + 1.5), ipo, "float32")
  check_first_step(first(25.1 + 1.5), ipo, "float32")  # a margin of 0.01 nats moves this loss by 0.1
  with pytest.raises(RunError, match="the loss is 26.0000.*has loss 25.0000"):
    check_first_step(first(26.0 + 1.5), ipo, "float32")
  with pytest.raises(RunError, match="rewards reach 0.0100"):
    check_first_step(first(25.0 + 1.5, chosen=0.01), ipo, "float32")
  check_first_step(first(1.0), Objective("dpo", "hinge", 0.1), "float32")
  with pytest.raises(RunError, match="has loss 1.0000"):
    check_first_step(first(0.9), Objective("dpo", "hinge", 0.1), "float32")
  for name in ("simpo", "orpo"):
    check_first_step(first(7.0, chosen=-3.0), Objective("dpo", name), "float32")
