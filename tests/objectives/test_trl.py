"""The losses of TRL's trainers on the same model and the same rows of text."""

import datasets
import jax
import numpy as np
import packed
import pytest
import tiny
import torch
import transformers
from named import by_tensor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from medjax.data.chat import Encoder
from medjax.data.examples import Example, PreferencePair
from medjax.data.packing import assign_rows, shape_of
from medjax.models.decoder import build
from medjax.models.pretrained import load_pretrained
from medjax.training.step import Objective, loss_sums

BETA = 0.4
PAIRS = [
  ("Na 118 mmol/L:", " severe hyponatraemia", " normal"),
  ("ALT 35 U/L, AST 33 U/L:", " normal", " acute liver injury"),
  ("TSH", " low", "?"),
  ("K 6.9 mmol/L with tall T waves:", " emergency", " routine"),
  ("Cr 88:", " ok", " kidney failure"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Directories of a policy and of a reference model."""
  path = tmp_path_factory.mktemp("models")
  return tiny.write_model(path / "policy"), tiny.write_model(path / "reference", seed=1)


def trainer(kind, config, models, rows, out, **more):
  """A trainer of TRL, and its first batch, on CPU in float32."""
  args = config(
    output_dir=str(out),
    per_device_train_batch_size=len(PAIRS),
    use_cpu=True,
    bf16=False,
    activation_checkpointing=False,
    report_to="none",
    **more,
  )
  policy, reference = (transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32) for path in models)
  extra = {"ref_model": reference} if kind is DPOTrainer else {}
  made = kind(
    policy, args=args, processing_class=tiny.tokenizer(), train_dataset=datasets.Dataset.from_list(rows), **extra
  )
  return made, next(iter(made.get_train_dataloader()))


def theirs(made, batch):
  """(loss, gradients by tensor name) of a trainer."""
  made.model.train()
  made.model.zero_grad()
  loss = made.compute_loss(made.model, dict(batch))
  loss.backward()
  return float(loss.detach()), {name: parameter.grad for name, parameter in made.model.named_parameters()}


def ours(objective, models, items):
  """(loss, metrics, gradient, the model's config) of the packed rows."""
  policy, reference = (load_pretrained(str(path)) for path in models)
  groups = Encoder(policy.tokenizer).segments(items)
  batch = packed.pack(groups, shape_of(groups, assign_rows(groups, 160)))
  graph = build(policy.config, "float32")

  def loss(params):
    total, metrics = loss_sums(graph, objective, params, reference.params, batch)
    return total.mean, metrics

  with jax.default_matmul_precision("highest"):
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(policy.params)
  return float(value), {key: float(metric.mean) for key, metric in metrics.items()}, gradient, policy.config


def assert_gradients_equal(config, gradient, torch_gradients):
  got = by_tensor(gradient, config)
  for name, wanted in torch_gradients.items():
    wanted = wanted.numpy()
    assert np.abs(got[name] - wanted).max() < 1e-4 * max(np.abs(wanted).max(), 0.1), name


def test_sft(models, tmp_path):
  rows = [{"prompt": prompt, "completion": answer} for prompt, answer, _ in PAIRS]
  made, batch = trainer(SFTTrainer, SFTConfig, models, rows, tmp_path)
  wanted, torch_gradients = theirs(made, batch)
  items = [Example(str(index), row["prompt"], row["completion"]) for index, row in enumerate(rows)]
  value, _, gradient, config = ours(Objective("sft"), models, items)
  scored = sum(len(answer) + 1 for _, answer, _ in PAIRS)
  assert int((batch["labels"] != -100).sum()) == scored
  assert value == pytest.approx(wanted, rel=1e-5)
  assert_gradients_equal(config, gradient, torch_gradients)


def test_dpo(models, tmp_path):
  rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
  made, batch = trainer(DPOTrainer, DPOConfig, models, rows, tmp_path, beta=BETA)
  wanted, torch_gradients = theirs(made, batch)
  items = [PreferencePair(str(index), *pair) for index, pair in enumerate(PAIRS)]
  value, metrics, gradient, config = ours(Objective("dpo", "sigmoid", BETA), models, items)
  assert abs(wanted - np.log(2)) > 0.05, "far from the start, where every model agrees"
  assert value == pytest.approx(wanted, rel=1e-5)
  logged = made._metrics["train"]
  for our_key, their_key in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
    assert metrics[f"rewards/{our_key}"] == pytest.approx(logged[f"rewards/{their_key}"][-1], abs=1e-5)
  assert metrics["rewards/accuracy"] == pytest.approx(logged["rewards/accuracies"][-1])
  assert_gradients_equal(config, gradient, torch_gradients)

  # For one pair TRL's `aot` is what its `sigmoid` with label smoothing was: conservative DPO.
  made.loss_types, made.label_smoothing = ["aot"], 0.2
  one = made.data_collator([made.train_dataset[3]])
  wanted, torch_gradients = theirs(made, one)
  value, _, gradient, _ = ours(Objective("dpo", "cdpo", BETA, 0.2), models, items[3:4])
  assert value == pytest.approx(wanted, rel=1e-5)
  assert_gradients_equal(config, gradient, torch_gradients)
