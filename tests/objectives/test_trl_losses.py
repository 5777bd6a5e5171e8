"""Every loss that TRL computes too, on the same models and the same rows of text; and where TRL's is another."""

import dataclasses

import datasets
import jax
import numpy as np
import pytest
import tiny
import torch
import transformers
from named import by_tensor
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from medjax.data.chat import Encoder
from medjax.data.examples import PreferencePair
from medjax.data.packing import assign_rows, fill_rows, shape_of
from medjax.models.decoder import build
from medjax.models.pretrained import load_pretrained
from medjax.objectives.objective import Objective
from medjax.training.step import loss_sums

BETA, SMOOTHING = 0.4, 0.2
# Answers of very unequal lengths: a mean over tokens is then none over answers.
PAIRS = [
  ("Na 118 mmol/L:", " severe hyponatraemia", " normal"),
  ("ALT 35 U/L, AST 33 U/L:", " normal", " acute liver injury"),
  ("TSH", " low", "?"),
  ("K 6.9 mmol/L with tall T waves:", " emergency", " routine"),
  ("Cr 88:", " ok", " kidney failure"),
  ("Ca 2.4 mmol/L:", " normal", " raised"),
]
ITEMS = [PreferencePair(str(index), *pair) for index, pair in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Directories of a policy and of a reference model."""
  path = tmp_path_factory.mktemp("models")
  return tiny.write_model(path / "policy"), tiny.write_model(path / "reference", seed=1)


@pytest.fixture(scope="module")
def loaded(models):
  return [load_pretrained(str(path)) for path in models]


def settings(path, **more):
  common = {"per_device_train_batch_size": len(PAIRS), "use_cpu": True, "bf16": False, "report_to": "none"}
  return {"output_dir": str(path), **common, **more}


@pytest.fixture(scope="module")
def dpo(models, tmp_path_factory):
  """TRL's DPO trainer and its first batch; the loss is changed from test to test."""
  args = DPOConfig(**settings(tmp_path_factory.mktemp("dpo"), beta=BETA, activation_checkpointing=False))
  return trainer(DPOTrainer, args, models, ref_model=torch_model(models[1]))


def torch_model(path):
  return transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)


def trainer(kind, args, models, **more):
  rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
  tokenizer = tiny.tokenizer()
  tokenizer.bos_token = None  # the CPO and ORPO trainers put one before every prompt, where there is one
  data = datasets.Dataset.from_list(rows)
  made = kind(torch_model(models[0]), args=args, processing_class=tokenizer, train_dataset=data, **more)
  return made, next(iter(made.get_train_dataloader()))


def theirs(made, batch):
  """(loss, gradients by tensor name) of a trainer."""
  made.model.train()
  made.model.zero_grad()
  loss = made.compute_loss(made.model, dict(batch))
  loss.backward()
  return float(loss.detach()), {name: parameter.grad for name, parameter in made.model.named_parameters()}


def ours(objective, loaded, items=ITEMS):
  """(loss, metrics, gradient, the model's config) of the packed rows."""
  policy, reference = loaded
  groups = Encoder(policy.tokenizer).segments(items)
  assignment = assign_rows(groups, 160)
  batch = fill_rows(groups, range(len(groups)), assignment, shape_of(groups, assignment), len(assignment))
  graph = build(policy.config, "float32")
  known = reference.params if objective.loss not in ("simpo", "orpo") else None

  def loss(params):
    total, metrics = loss_sums(graph, objective, params, known, batch)
    return total.mean, metrics

  with jax.default_matmul_precision("highest"):
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(policy.params)
  return float(value), {key: float(metric.mean) for key, metric in metrics.items()}, gradient, policy.config


def assert_equal(found, wanted, relative=1e-5):
  value, _, gradient, config = found
  wanted_value, torch_gradients = wanted
  assert value == pytest.approx(wanted_value, rel=relative)
  got = by_tensor(gradient, config)
  for name, theirs_ in torch_gradients.items():
    theirs_ = theirs_.numpy()
    assert np.abs(got[name] - theirs_).max() < 1e-4 * max(np.abs(theirs_).max(), 0.1), name


@pytest.mark.parametrize(
  ("name", "trl", "more", "sft_weight"),
  [
    ("sigmoid", "sigmoid", {}, 0.0),
    ("sigmoid", "sigmoid", {}, 0.7),
    ("sigmoid_norm", "sigmoid_norm", {}, 0.0),
    ("robust", "robust", {"label_smoothing": SMOOTHING}, 0.7),
    ("ipo_mean", "ipo", {}, 0.7),
    ("hinge", "hinge", {}, 0.0),
  ],
)
def test_dpo_losses(dpo, loaded, name, trl, more, sft_weight):
  """Alone, and with TRL's loss type `sft` beside them: a mean over the chosen answers' tokens of the batch."""
  made, batch = dpo
  made.loss_types, made.loss_weights = [trl], [1.0]
  if sft_weight:
    made.loss_types, made.loss_weights = [trl, "sft"], [1.0, sft_weight]
  made.label_smoothing = more.get("label_smoothing", 0.0)
  found = ours(Objective("dpo", name, BETA, sft_weight=sft_weight, **more), loaded)
  assert_equal(found, theirs(made, batch))
  logged = made._metrics["train"]
  names = {"chosen": "chosen", "rejected": "rejected", "margin": "margins", "accuracy": "accuracies"}
  for our_key, their_key in names.items():
    assert found[1][f"rewards/{our_key}"] == pytest.approx(logged[f"rewards/{their_key}"][-1], abs=1e-5)
  for key in ("logps/chosen", "logps/rejected"):
    assert found[1][key] == pytest.approx(logged[key][-1], rel=1e-5)


def test_ipo_on_sums(dpo, loaded):
  """TRL's `ipo` is on means. Of answers of one length n, ipo_sum(beta) = n^2 ipo_mean(n beta); of others it is not."""
  made, batch = dpo
  made.loss_types, made.loss_weights = ["ipo"], [1.0]
  found = ours(Objective("dpo", "ipo_sum", BETA), loaded)
  assert abs(found[0] - theirs(made, batch)[0]) > 1.0
  length = len(PAIRS[5][1]) + 1
  made.beta = length * BETA
  value, gradients = theirs(made, made.data_collator([made.train_dataset[5]]))
  made.beta = BETA
  scaled = length**2 * value, {name: length**2 * gradient for name, gradient in gradients.items()}
  # A square of the difference of sums of some 40 nats, which are right to float32's seventh digit.
  assert_equal(ours(Objective("dpo", "ipo_sum", BETA), loaded, ITEMS[5:]), scaled, 1e-4)


def test_conservative_dpo(dpo, loaded):
  """For one pair TRL's `aot` is what its `sigmoid` with label smoothing was."""
  made, _ = dpo
  made.loss_types, made.loss_weights, made.label_smoothing = ["aot"], [1.0], SMOOTHING
  wanted = theirs(made, made.data_collator([made.train_dataset[3]]))
  assert_equal(ours(Objective("dpo", "cdpo", BETA, SMOOTHING), loaded, ITEMS[3:4]), wanted)


@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_simpo(models, loaded, tmp_path, sft_weight):
  """TRL has it in its CPO trainer, with an NLL over the chosen answers' tokens of the batch as `cpo_alpha`."""
  args = CPOConfig(**settings(tmp_path, beta=2.0, loss_type="simpo", simpo_gamma=0.8, cpo_alpha=sft_weight))
  made, batch = trainer(CPOTrainer, args, models)
  found = ours(Objective("dpo", "simpo", 2.0, gamma=0.8, sft_weight=sft_weight), loaded)
  assert_equal(found, theirs(made, batch))
  for our_key, their_key in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
    logged = made._stored_metrics["train"][f"rewards/{their_key}"][-1]
    assert found[1][f"rewards/{our_key}"] == pytest.approx(logged, abs=1e-5)


def test_orpo(models, loaded, tmp_path):
  """The odds ratio is TRL's. Its NLL is over the prompts' tokens too, and over all tokens of the batch."""
  args = ORPOConfig(**settings(tmp_path, beta=BETA))
  made, batch = trainer(ORPOTrainer, args, models)
  whole = theirs(made, batch)[0]
  logged = {key: values[-1] for key, values in made._stored_metrics["train"].items()}
  value, metrics, _, _ = ours(Objective("dpo", "orpo", BETA), loaded)
  without, _, _, _ = ours(dataclasses.replace(Objective("dpo", "orpo"), beta=1e-9), loaded)
  assert value - without == pytest.approx(-BETA * logged["log_odds_ratio"], rel=1e-4)
  assert whole == pytest.approx(logged["nll_loss"] - BETA * logged["log_odds_ratio"], rel=1e-5)
  assert abs(logged["nll_loss"] - metrics["nll/chosen"]) > 0.01, "the prompts are in TRL's"
  for our_key, their_key in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
    assert metrics[f"rewards/{our_key}"] == pytest.approx(logged[f"rewards/{their_key}"], abs=1e-5)

  # Of one pair whose NLL leaves the prompt out, as in the paper, TRL's loss is ours, gradients and all.
  one = dict(made.data_collator([made.train_dataset[3]]))
  forward = made.concatenated_forward

  def answer_only(model, inputs):
    logps = forward(model, inputs)
    return (*logps[:4], -logps[0].mean())

  made.concatenated_forward = answer_only
  assert_equal(ours(Objective("dpo", "orpo", BETA), loaded, ITEMS[3:4]), theirs(made, one))
