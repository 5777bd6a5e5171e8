"""Runs that train adapters: what they save, how they go on, what their reference is, what is built on them."""

import json
import math
import shutil

import jax
import numpy as np
import peft as reference_peft
import pytest
import soak
import tiny
import torch
import transformers
from runs import curve, lines, overrides, train

import medjax
from medjax.errors import UserError
from medjax.training import checkpoints
from medjax.training.export import export, export_adapter
from medjax.training.policy import load_policy
from medjax.training.telemetry import Telemetry

PROMPTS, ANSWERS = ["sodium 118 mmol/L", "sodium 150 mmol/L again"], [" low", " not low"]


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def lora(home, method="sft", **changes):
  return overrides(home, method, **{"lora__rank": 4, "lora__alpha": 8.0, **changes})


@pytest.fixture(scope="module")
def sft(home, tmp_path_factory):
  """A finished run of adapters on all weights."""
  path = tmp_path_factory.mktemp("adapters") / "sft"
  train(path, lora(home, train__steps=8))
  return path


def test_a_checkpoint_holds_adapters_alone(home, sft, tmp_path):
  seen = lines(sft)
  assert seen[-1]["loss"] < 0.8 * seen[0]["loss"]
  train(tmp_path / "whole", overrides(home, train__steps=8))
  saved, identity = checkpoints.load_params(str(sft))
  whole = checkpoints.load_params(str(tmp_path / "whole"))[0]
  names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(saved)}
  assert names == {"lora_a", "lora_b"}
  assert sum(x.size for x in jax.tree.leaves(saved)) < 0.5 * sum(x.size for x in jax.tree.leaves(whole))
  assert identity["base"] == str(home / "model")
  first = lines(tmp_path / "whole")[0]["loss"]
  assert seen[0]["loss"] == pytest.approx(first, abs=1e-6), "both start from the base model"


@pytest.fixture(scope="module")
def quantized(home, tmp_path_factory):
  """The settings and folder of a finished run of adapters with dropout on a base in nf4."""
  path = tmp_path_factory.mktemp("adapters") / "quantized"
  settings = lora(home, train__steps=6, lora__dropout=0.3, lora__quantize="nf4", seed=2**40 + 3)
  train(path, settings)
  return settings, path


def test_an_interruption_leaves_no_trace(quantized, tmp_path, monkeypatch):
  """With a seed beyond 32 bits."""
  settings, whole = quantized

  class Crash(Exception):
    pass

  write = Telemetry.write

  def writing(self, done, values):
    write(self, done, values)
    if done == 5:
      raise Crash

  with monkeypatch.context() as patch, pytest.raises(Crash):
    patch.setattr(Telemetry, "write", writing)
    train(tmp_path / "broken", settings | {"checkpoint.every": 2})
  train(tmp_path / "broken", settings)
  assert curve(tmp_path / "broken") == curve(whole)
  ended = [checkpoints.load_params(str(path))[0] for path in (whole, tmp_path / "broken")]
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, ended), strict=True))


def test_dropout_changes_the_curve_and_not_what_is_evaluated(home, sft, tmp_path):
  train(tmp_path / "run", lora(home, train__steps=8, lora__dropout=0.5))
  assert lines(tmp_path / "run")[0]["loss"] == lines(sft)[0]["loss"], "B is zero"
  assert lines(tmp_path / "run")[3]["loss"] != lines(sft)[3]["loss"]
  model = medjax.load(str(tmp_path / "run"))
  np.testing.assert_array_equal(model.logp(PROMPTS, ANSWERS), model.logp(PROMPTS, ANSWERS))


@pytest.mark.parametrize("quantize", soak.some(["none", "nf4"], 1))
def test_three_ways_to_the_same_reference(home, tmp_path, quantize):
  """Computed ahead, live from a copy of the adapters, and the base below the adapters: one curve."""
  found = {}
  for reference in ("precomputed", "live", "lora_base"):
    settings = lora(home, "dpo", preference__reference=reference, lora__quantize=quantize, evaluation__every=3)
    train(tmp_path / reference, settings)
    found[reference] = lines(tmp_path / reference)
  for line in zip(*found.values(), strict=True):
    assert line[0]["loss"] == pytest.approx(line[1]["loss"], abs=1e-5) == pytest.approx(line[2]["loss"], abs=1e-5)
  assert found["lora_base"][0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
  assert abs(found["lora_base"][-1]["rewards/margin"]) > 0.01
  assert "validation/rewards/accuracy" in found["lora_base"][2]


def test_dpo_goes_on_with_the_adapters_of_sft(home, sft, tmp_path):
  settings = lora(home, "dpo", train__init_from=str(sft))
  train(tmp_path / "dpo", settings)
  assert lines(tmp_path / "dpo")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "the reference is the SFT model"
  assert checkpoints.load_identity(str(tmp_path / "dpo"))["base"] == str(home / "model")
  start, ended = medjax.load(str(sft)), medjax.load(str(tmp_path / "dpo"))
  assert np.abs(start.logp(PROMPTS, ANSWERS) - ended.logp(PROMPTS, ANSWERS)).max() > 1e-3
  with pytest.raises(UserError, match="lora_base is the model below the adapters.*precomputed, or to live"):
    train(tmp_path / "base", settings | {"preference.reference": "lora_base"})
  with pytest.raises(UserError, match="adapters of rank 4, alpha 8 on all-linear; set lora"):
    train(tmp_path / "rank", settings | {"lora.rank": 8})


def test_all_weights_go_on_from_merged_adapters(home, sft, tmp_path):
  train(tmp_path / "full", overrides(home, "dpo", train__init_from=str(sft)))
  assert lines(tmp_path / "full")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
  assert "base" not in checkpoints.load_identity(str(tmp_path / "full"))


def test_adapters_on_weights_that_a_run_trained(home, tmp_path):
  train(tmp_path / "full", overrides(home))
  train(tmp_path / "dpo", lora(home, "dpo", train__init_from=str(tmp_path / "full"), preference__reference="lora_base"))
  assert lines(tmp_path / "dpo")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
  assert checkpoints.load_identity(str(tmp_path / "dpo"))["base"] == str(tmp_path / "full")
  medjax.load(str(tmp_path / "dpo")).logp(PROMPTS, ANSWERS)
  with pytest.raises(UserError, match="added to weights that were trained in"):
    export_adapter(str(tmp_path / "dpo"), tmp_path / "adapter")
  shutil.rmtree(tmp_path / "full")
  train(tmp_path / "full", overrides(home, seed=1))
  with pytest.raises(UserError, match="does not hold the weights that these adapters were trained on"):
    medjax.load(str(tmp_path / "dpo"))


def test_adapters_in_every_use(home, sft, tmp_path):
  """Loaded, merged, exported whole and exported alone, they give the same log-probabilities."""
  model = medjax.load(str(sft))
  wanted = model.logp(PROMPTS, ANSWERS)
  assert np.abs(wanted - medjax.load(str(home / "model")).logp(PROMPTS, ANSWERS)).max() > 0.1
  policy = load_policy(str(sft))
  merged = medjax.Model(model.config, model.tokenizer, policy.merged, "float32", model.eos)
  np.testing.assert_allclose(merged.logp(PROMPTS, ANSWERS), wanted, rtol=0, atol=1e-4)
  export(str(sft), tmp_path / "merged")
  np.testing.assert_allclose(medjax.load(str(tmp_path / "merged")).logp(PROMPTS, ANSWERS), wanted, rtol=0, atol=1e-4)
  export_adapter(str(sft), tmp_path / "adapter")
  np.testing.assert_allclose(medjax.load(str(tmp_path / "adapter")).logp(PROMPTS, ANSWERS), wanted, rtol=0, atol=1e-4)
  whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
  base = transformers.AutoModelForCausalLM.from_pretrained(home / "model")
  adapted = reference_peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
  ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(tmp_path / "adapter")(PROMPTS[0])["input_ids"]])
  with torch.no_grad():
    got, wanted = adapted(ids).logits, whole(ids).logits
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
  ours = model.logits(ids.numpy().astype(np.int32), np.ones(ids.shape, np.int32))
  np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4)
  card = (tmp_path / "adapter" / "README.md").read_text()
  assert (
    "library_name: peft" in card and f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{home}' in card
  )


def test_training_goes_on_from_an_adapter_of_peft(home, sft, tmp_path):
  export_adapter(str(sft), tmp_path / "adapter")
  config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
  assert config["r"] == 4 and config["base_model_name_or_path"] == str(home / "model")
  for name, start in (("peft", tmp_path / "adapter"), ("ours", sft)):
    train(tmp_path / name, lora(home, "dpo", train__init_from=str(start)))
  np.testing.assert_allclose(
    *([line["loss"] for line in lines(tmp_path / name)] for name in ("peft", "ours")), rtol=0, atol=1e-6
  )
  train(tmp_path / "merged", overrides(home, "dpo", train__init_from=str(tmp_path / "adapter")))
  assert lines(tmp_path / "merged")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_quantized_base_is_what_is_evaluated_and_exported(quantized, tmp_path):
  _, run = quantized
  policy = load_policy(str(run))
  assert policy.quantized == "nf4" and policy.frozen["blocks"]["mlp"]["up"]["codes"].dtype == np.uint8
  wanted = medjax.load(str(run)).logp(PROMPTS, ANSWERS)
  export(str(run), tmp_path / "merged")
  np.testing.assert_allclose(medjax.load(str(tmp_path / "merged")).logp(PROMPTS, ANSWERS), wanted, rtol=0, atol=1e-4)
  assert "which were frozen in nf4" in (tmp_path / "merged" / "README.md").read_text()


def test_other_base_weights_are_refused(home, tmp_path):
  shutil.copytree(home / "model", tmp_path / "model")
  settings = lora(home) | {"model.path": str(tmp_path / "model")}
  train(tmp_path / "run", settings)
  medjax.load(str(tmp_path / "run"))
  tiny.write_model(tmp_path / "model", seed=1)
  with pytest.raises(UserError, match="does not hold the weights that these adapters were trained on"):
    medjax.load(str(tmp_path / "run"))


def test_dpo_from_adapters_with_dropout_starts_at_its_reference(home, sft, tmp_path):
  """Dropout in the policy alone would make it another model than its reference from the first step."""
  settings = lora(home, "dpo", train__init_from=str(sft), preference__reference="live")
  train(tmp_path / "plain", settings)
  train(tmp_path / "dropped", settings | {"lora.dropout": 0.5})
  assert curve(tmp_path / "dropped") == curve(tmp_path / "plain")


def test_adapters_go_on_from_the_very_weights_they_were_trained_on(home, sft, tmp_path):
  settings = lora(home, "dpo", train__init_from=str(sft))
  with pytest.raises(UserError, match=r"trained with lora\.quantize = none; set lora\.quantize to it"):
    train(tmp_path / "quantized", settings | {"lora.quantize": "int8"})
  with pytest.raises(UserError, match=r"trained with model\.dtype = float32; set model\.dtype to it"):
    train(tmp_path / "halved", settings | {"model.dtype": "bfloat16"})
  shutil.copytree(home / "model", tmp_path / "model")
  here = {"model.path": str(tmp_path / "model")}
  train(tmp_path / "sft", lora(home) | here)
  tiny.write_model(tmp_path / "model", seed=1)
  with pytest.raises(UserError, match="does not hold the weights that these adapters were trained on"):
    train(tmp_path / "dpo", lora(home, "dpo", train__init_from=str(tmp_path / "sft")) | here)


def test_an_adapter_of_peft_is_put_on_the_model_that_is_asked_for(home, sft, tmp_path):
  """Its own base may have moved; all weights or adapters are trained from the same start."""
  export_adapter(str(sft), tmp_path / "adapter")
  config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
  (tmp_path / "adapter" / "adapter_config.json").write_text(
    json.dumps(config | {"base_model_name_or_path": "/elsewhere"})
  )
  train(tmp_path / "whole", overrides(home, train__init_from=str(tmp_path / "adapter")))
  train(tmp_path / "adapted", lora(home, train__init_from=str(tmp_path / "adapter")))
  first = [lines(tmp_path / name)[0]["loss"] for name in ("whole", "adapted")]
  assert first[0] == pytest.approx(first[1], abs=1e-5)
  assert first[0] < 0.9 * lines(sft)[0]["loss"]


def test_an_adapter_below_adapters_is_not_lost(home, sft, tmp_path):
  export_adapter(str(sft), tmp_path / "adapter")
  train(tmp_path / "run", lora(home) | {"model.path": str(tmp_path / "adapter")})
  with pytest.raises(UserError, match="export it merged, or give the model it was made from as --base"):
    export_adapter(str(tmp_path / "run"), tmp_path / "out")
  export(str(tmp_path / "run"), tmp_path / "merged")
  np.testing.assert_allclose(
    *(medjax.load(str(tmp_path / name)).logp(PROMPTS, ANSWERS) for name in ("run", "merged")), rtol=0, atol=1e-4
  )
