"""KTO: by hand, by sign, with z0 of the whole step, and as TRL has it on the same models and rows."""

import dataclasses
import functools
import math

import datasets
import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
import tiny
import torch
import transformers
from named import by_tensor
from trl import KTOConfig, KTOTrainer

from medjax.data.chat import Encoder
from medjax.data.examples import JudgedAnswer
from medjax.data.packing import RowShape, assign_rows, fill_rows, shape_of
from medjax.models.decoder import build
from medjax.models.pretrained import load_pretrained
from medjax.objectives import kto
from medjax.objectives.objective import Objective
from medjax.objectives.preference import Answer
from medjax.training.step import gradients, loss_sums

OBJECTIVE = Objective("dpo", "kto", 0.5)
DESIRABLE = jnp.array([True, False, False, True])
REAL = jnp.array([1.0, 1.0, 1.0, 0.0])


def answers(ratios, logps=(-9.0, -9.0, -9.0, -9.0)):
  logps = jnp.array(logps)
  return Answer(logps, logps - jnp.array(ratios), jnp.full(4, 3.0))


def sigmoid(x):
  return 1 / (1 + math.exp(-x))


def value(ratios, unrelated, **more):
  total, metrics = jax.jit(kto.loss, static_argnums=4)(
    answers(ratios), answers(unrelated), REAL, DESIRABLE, OBJECTIVE, **more
  )
  return float(total.mean), {key: float(metric.mean) for key, metric in metrics.items()}


def test_value_and_metrics_by_hand():
  """One desirable answer of log-ratio 3, undesirable ones of 1 and -2, z0 = (2 + 3 - 2) / 3 = 1; the last is none."""
  loss, metrics = value((3.0, 1.0, -2.0, 50.0), (2.0, 3.0, -2.0, 50.0))
  assert loss == pytest.approx(((1 - sigmoid(1.0)) + 0.5 + (1 - sigmoid(1.5))) / 3, rel=1e-6)
  assert metrics == pytest.approx(
    {
      "rewards/chosen": 1.5,
      "rewards/rejected": 0.5 * (1 - 2) / 2,
      "rewards/margin": 0.5 * (2 + 0 + 3) / 3,
      "rewards/accuracy": 2 / 3,
      "logps/chosen": -9.0,
      "logps/rejected": -9.0,
      "kl": 1.0,
    },
    rel=1e-6,
  )


def test_the_reference_point_is_never_negative_and_that_of_the_step_wins():
  ratios = 1.0, 1.0, -1.0, 0.0
  loss, metrics = value(ratios, (-4.0, 1.0, 1.0, 50.0))
  assert loss == pytest.approx(((1 - sigmoid(0.5)) + (1 - sigmoid(-0.5)) + (1 - sigmoid(0.5))) / 3, rel=1e-6)
  assert metrics["kl"] == 0.0
  loss, metrics = value(ratios, (-4.0, 1.0, 1.0, 50.0), point=jnp.float32(2.0))
  assert loss == pytest.approx(((1 - sigmoid(-0.5)) + (1 - sigmoid(0.5)) + (1 - sigmoid(1.5))) / 3, rel=1e-6)
  assert metrics["kl"] == 2.0


def test_gradients_raise_desirable_answers_lower_others_and_leave_unrelated_ones():
  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def slopes(logps, unrelated_logps):
    first, second = (Answer(x, jnp.full(4, -9.0), jnp.full(4, 3.0)) for x in (logps, unrelated_logps))
    return kto.loss(first, second, REAL, DESIRABLE, OBJECTIVE)[0].mean

  of_answers, of_unrelated = slopes(jnp.array([-8.0, -8.0, -11.0, -9.0]), jnp.array([-6.0, -8.0, -9.0, -9.0]))
  assert of_answers[0] < 0 < of_answers[1] and of_answers[2] > 0 and of_answers[3] == 0
  assert not of_unrelated.any()
  # z0 is 4/3: beta s(x) (1 - s(x)) / 3 with x = 0.5 (1 - 4/3).
  assert float(of_answers[0]) == pytest.approx(-0.5 * sigmoid(-1 / 6) * sigmoid(1 / 6) / 3, rel=1e-5)


@functools.cache
def jitted():
  graph, _ = packed.decoder()
  return jax.jit(functools.partial(gradients, graph, OBJECTIVE))


@pytest.mark.parametrize("seeds", [(0, 1), (1, 0)])
def test_microbatches_equal_one_big_batch(seeds):
  """Seven answers, two of them desirable, one a row; z0 is above 0, and where policy and reference are swapped 0."""
  members = packed.random_groups(7, 2, seed=2)
  members = [dataclasses.replace(group, desirable=index % 3 == 1) for index, group in enumerate(members)]
  rows = fill_rows(members, range(7), [[i] for i in range(7)], RowShape(40, 16, 2), 8)
  params, reference = (packed.decoder(seed=seed)[1] for seed in seeds)

  def found(microbatches, used):
    stacked = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), rows)
    return jitted()(params, None, reference, stacked, used)

  with jax.default_matmul_precision("highest"):
    whole, split = found(1, 1), found(8, 7)
  packed.assert_trees_close(split[0], whole[0], 1e-5)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole[0])) > 1e-3
  np.testing.assert_allclose(split[1], whole[1], rtol=1e-5)
  assert split[2].keys() == whole[2].keys()
  for key, metric in whole[2].items():
    np.testing.assert_allclose(split[2][key], metric, rtol=1e-5, atol=1e-6, err_msg=key)
  assert (whole[2]["kl"] > 0.3) == (seeds == (0, 1)) and whole[2]["kl"] >= 0


ROWS = [
  ("Na 118 mmol/L:", " severe hyponatraemia", True),
  ("ALT 35 U/L, AST 33 U/L:", " normal", True),
  ("TSH", " low", False),
  ("K 6.9 mmol/L with tall T waves:", " emergency", True),
  ("Cr 88:", " kidney failure", False),
  ("Ca 2.4 mmol/L:", " raised", False),
  ("Mg 0.8 mmol/L:", " fine", True),
]
BETA = 0.4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  path = tmp_path_factory.mktemp("models")
  return tiny.write_model(path / "one"), tiny.write_model(path / "other", seed=1)


def test_loss_gradient_and_metrics_of_trl(models, tmp_path):
  """TRL pairs each prompt of a batch with the answer before it, the first with the last.

  Both ways round: the mean log-ratio of unrelated answers is above 0 in one of them, and z0 is cut off in the other.
  """
  points = [compare_with_trl(*pair, tmp_path) for pair in (models, models[::-1])]
  assert min(points) == 0.0 and max(points) > 1.0


def compare_with_trl(policy_path, reference_path, tmp_path):
  tokenizer = tiny.tokenizer()
  tokenizer.bos_token = None
  policy, reference = (
    transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (policy_path, reference_path)
  )
  made = KTOTrainer(
    policy,
    reference,
    KTOConfig(
      str(tmp_path),
      per_device_train_batch_size=len(ROWS),
      beta=BETA,
      use_cpu=True,
      bf16=False,
      report_to="none",
      activation_checkpointing=False,
    ),
    train_dataset=datasets.Dataset.from_list(
      [dict(zip(("prompt", "completion", "label"), row, strict=True)) for row in ROWS]
    ),
    processing_class=tokenizer,
  )
  made.model.train()
  wanted = made.compute_loss(made.model, dict(next(iter(made.get_train_dataloader()))))
  wanted.backward()
  logged = {key: values[-1] for key, values in made._metrics["train"].items()}

  policy, reference = (load_pretrained(str(path)) for path in (policy_path, reference_path))
  items = [JudgedAnswer(str(i), *row, unrelated=ROWS[i - 1][1]) for i, row in enumerate(ROWS)]
  groups = Encoder(policy.tokenizer).segments(items)
  assignment = assign_rows(groups, 160)
  batch = fill_rows(groups, range(len(groups)), assignment, shape_of(groups, assignment), len(assignment))
  graph = build(policy.config, "float32")

  def loss(params):
    total, metrics = loss_sums(graph, Objective("dpo", "kto", BETA), params, reference.params, batch)
    return total.mean, metrics

  with jax.default_matmul_precision("highest"):
    (found, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(policy.params)
  assert float(found) == pytest.approx(float(wanted.detach()), rel=1e-5)
  for key in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "kl"):
    assert float(metrics[key].mean) == pytest.approx(logged[key], rel=1e-5, abs=1e-5), key
  got = by_tensor(gradient, policy.config)
  for name, parameter in made.model.named_parameters():
    theirs = parameter.grad.numpy()
    assert np.abs(got[name] - theirs).max() < 1e-4 * max(np.abs(theirs).max(), 0.1), name
  return float(metrics["kl"].mean)
