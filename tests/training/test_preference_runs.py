"""Whole runs with each kind of preference loss: the first loss is checked, and a reference is computed where one is."""

import json
import math

import pytest
import soak
from runs import lines, overrides, train

from medjax.errors import RunError
from medjax.objectives.objective import Objective
from medjax.training import loop
from medjax.training.recorder import check_first_step


@pytest.mark.parametrize(
  ("loss", "more", "reference"),
  soak.some(
    [
      ("ipo_mean", {}, "live"),
      ("robust", {"preference__label_smoothing": 0.1}, "precomputed"),
      ("hinge", {}, "precomputed"),
    ],
    2,
  ),
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


@pytest.mark.parametrize("loss", soak.some(["simpo", "orpo"], 1))
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


@pytest.fixture(scope="module")
def judged(home):
  """The pairs of the home as labelled rows: the chosen answer of the even ones, the rejected one of the others."""
  path = home / "judged.jsonl"
  with open(path, "w") as file:
    for index, line in enumerate(map(json.loads, (home / "dpo.jsonl").read_text().splitlines())):
      chosen, rejected = line.pop("chosen"), line.pop("rejected")
      file.write(json.dumps({**line, "completion": rejected if index % 2 else chosen, "label": index % 2 == 0}) + "\n")
  return path


@pytest.mark.parametrize("reference", soak.some(["precomputed", "live", "lora_base"], 1))
def test_a_kto_run_on_labelled_rows(home, judged, tmp_path, reference):
  """In one microbatch and in several: the first loss is 1/2, answers of both kinds are told apart, z0 is above 0."""
  curves = []
  for rows in (16, 8) if reference == "precomputed" else (16,):  # of one answer each
    settings = overrides(
      *(home, "dpo"),
      data__source=str(judged),
      train__batch_size=16,
      train__steps=8,
      train__row_length=56,
      train__microbatch_rows=rows,
      lora__rank=4 if reference == "lora_base" else 0,
      preference__loss="kto",
      preference__reference=reference,
      evaluation__every=4,
    )
    train(tmp_path / f"run{rows}", settings)
    curves.append(lines(tmp_path / f"run{rows}"))
  first, last = curves[0][0], curves[0][-1]
  assert first["loss"] == pytest.approx(0.5, abs=1e-3) and first["kl"] == pytest.approx(0.0, abs=1e-2)
  assert last["loss"] < first["loss"] and last["rewards/margin"] > 0.01 and last["rewards/accuracy"] > 0.5
  assert max(line["kl"] for line in curves[0]) > 0 and min(line["kl"] for line in curves[0]) >= 0
  assert last["rewards/chosen"] > last["rewards/rejected"]
  assert 0 < last["validation/loss"] < 1 and 0 <= last["validation/rewards/accuracy"] <= 1
  for one, several in zip(curves[0], curves[-1], strict=True):
    for key in ("loss", "kl", "rewards/margin", "rewards/chosen"):
      assert several[key] == pytest.approx(one[key], rel=1e-3, abs=1e-4), (one["step"], key)


def test_a_kto_run_on_pairs_reads_two_answers_of_each(home, tmp_path):
  train(tmp_path / "run", overrides(home, "dpo", train__steps=0, preference__loss="kto"))
  found = lines(tmp_path / "run")
  assert len(found) == 2 * 16 / 8 and found[0]["loss"] == pytest.approx(0.5, abs=1e-3)


def first(loss, chosen=0.0, nll=3.0):
  return {"loss": loss, "grad_norm": 1.0, "rewards/chosen": chosen, "rewards/rejected": 0.0, "nll/chosen": nll}


def test_first_step_check_knows_each_loss():
  ipo = Objective("dpo", "ipo_sum", 0.1, sft_weight=0.5)
  check_first_step(first(25.0 + 1.5), ipo, 0.01)
  check_first_step(first(25.1 + 1.5), ipo, 0.01)  # a margin of 0.01 nats moves this loss by 0.1
  with pytest.raises(RunError, match="the loss is 26.0000.*has loss 25.0000"):
    check_first_step(first(26.0 + 1.5), ipo, 0.01)
  with pytest.raises(RunError, match="rewards reach 0.0100"):
    check_first_step(first(25.0 + 1.5, chosen=0.01), ipo, 0.01)
  check_first_step(first(1.0), Objective("dpo", "hinge", 0.1), 0.01)
  with pytest.raises(RunError, match="has loss 1.0000"):
    check_first_step(first(0.9), Objective("dpo", "hinge", 0.1), 0.01)
  check_first_step(first(0.5004), Objective("dpo", "kto", 0.1), 0.01)  # log-ratio and z0 are both off by 0.01 nats
  with pytest.raises(RunError, match="has loss 0.5000"):
    check_first_step(first(0.501), Objective("dpo", "kto", 0.1), 0.01)
  for name in ("simpo", "orpo"):
    check_first_step(first(7.0, chosen=-3.0), Objective("dpo", name), 0.01)
