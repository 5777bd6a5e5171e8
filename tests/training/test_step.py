"""The train step: microbatches, the update, the first step's check, the schedule."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
import torch

from medjax import config as schema
from medjax.data.packing import Batch
from medjax.errors import RunError
from medjax.training import state
from medjax.training.optimizer import learning_rates, make_optimizer
from medjax.training.recorder import check_first_step
from medjax.training.step import Objective, gradients, jitted_step, loss_sums

OBJECTIVES = {"sft": Objective("sft"), "dpo": Objective("dpo", "cdpo", 0.3, 0.1)}
BRANCHES = {"sft": 1, "dpo": 2}


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


@functools.cache
def jitted_gradients(method: str):
  graph, _ = packed.decoder()
  return jax.jit(functools.partial(gradients, graph, OBJECTIVES[method]))


def stacked(rows: Batch, microbatches: int) -> Batch:
  return jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), rows)


@pytest.mark.parametrize("method", OBJECTIVES)
def test_microbatches_equal_one_big_batch(method):
  """Rows with 1 to 24 scored tokens, one row of padding: means of means would differ."""
  _, params = packed.decoder()
  reference = packed.decoder(seed=1)[1] if method == "dpo" else None
  members = packed.random_groups(7, BRANCHES[method], seed=2)
  rows = packed.one_by_one(members, rows=8)
  counts = rows.weight.sum(1)
  assert len(set(counts.tolist())) > 3
  whole = jitted_gradients(method)(params, None, reference, stacked(rows, 1), 1)
  wanted = jax.jit(jax.grad(lambda p: loss_sums(packed.decoder()[0], OBJECTIVES[method], p, reference, rows)[0].mean))(
    params
  )
  packed.assert_trees_close(whole[0], wanted)
  split = jitted_gradients(method)(params, None, reference, stacked(rows, 8), 7)
  packed.assert_trees_close(split[0], whole[0])
  np.testing.assert_allclose(split[1], whole[1], rtol=1e-5)
  assert {k: float(v) for k, v in split[2].items()} == pytest.approx(
    {k: float(v) for k, v in whole[2].items()}, rel=1e-5
  )


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_weighted_microbatches_equal_one_big_batch(scale):
  """sum(w nll) / sum(w), also where the weights of a step sum to less than 1."""
  _, params = packed.decoder()
  draw = np.random.default_rng(5)
  members = []
  for group in packed.random_groups(7, 1, seed=2):
    weights = draw.choice([0.0, 0.5, 1.0, 3.0], len(group.completions[0]))
    weights[-1] = 1.0
    members.append(dataclasses.replace(group, weights=(tuple(scale * weights),)))
  rows = packed.one_by_one(members, rows=8)
  sums = rows.weight.sum(1)
  assert len(set(sums.tolist())) > 3 and (sums.sum() < 1) == (scale < 1)
  tokens_BT, mask_BT, scored_BT = packed.plain_arrays(packed.separate(members), rows=8)
  weight_BT = np.zeros(scored_BT.shape, np.float32)
  for row, group in enumerate(members):
    weight_BT[row, scored_BT[row] > 0] = group.weights[0]

  def textbook(params):
    graph, _ = packed.decoder()
    return -jnp.sum(packed.plain_logps(graph, params, tokens_BT, mask_BT, weight_BT)) / weight_BT.sum()

  wanted_loss, wanted = jax.jit(jax.value_and_grad(textbook))(params)
  for batches, used in ((stacked(rows, 1), 1), (stacked(rows, 8), 7)):
    grads, loss, _ = jitted_gradients("sft")(params, None, None, batches, used)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    packed.assert_trees_close(grads, wanted)


def test_microbatches_that_are_not_used_are_not_read():
  _, params = packed.decoder()
  rows = stacked(packed.one_by_one(packed.random_groups(8, 1, seed=2), rows=8), 8)
  some = jitted_gradients("sft")(params, None, None, rows, 3)
  first = jax.tree.map(lambda x: x.copy(), rows)
  first.weight[3:] = np.nan
  again = jitted_gradients("sft")(params, None, None, first, 3)
  assert float(some[1]) == float(again[1])
  assert float(some[1]) != float(jitted_gradients("sft")(params, None, None, rows, 8)[1])


def one_step(rate=0.1, clip_norm=1.0, steps=1):
  graph, params = packed.decoder()
  optimizer = make_optimizer(clip_norm, 0.0)
  current = state.create(jax.tree.map(jnp.copy, params), optimizer)
  batches = stacked(packed.pack(packed.random_groups(4, 1)), 1)
  step = jitted_step(graph, OBJECTIVES["sft"], clip_norm, 0.0)
  losses = []
  for _ in range(steps):
    current, metrics = step(current, None, None, batches, np.int32(1), np.float32(rate), np.uint32(0))
    losses.append(float(metrics["loss"]))
  return current, metrics, losses


def test_first_adam_step_moves_each_weight_by_the_rate():
  """From zero moments Adam's update is the gradient's sign (Kingma & Ba 2015, alg. 1, t = 1), whatever the clipping."""
  _, params = packed.decoder()
  current, metrics, _ = one_step(rate=0.1, clip_norm=0.01)
  assert float(metrics["grad_norm"]) > 0.1, "of the gradient before clipping"
  batches = stacked(packed.pack(packed.random_groups(4, 1)), 1)
  gradient = jitted_gradients("sft")(params, None, None, batches, 1)[0]
  norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
  assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
  for before, after, g in zip(*map(jax.tree.leaves, (params, current.params, gradient)), strict=True):
    clear = np.abs(g) * 0.01 / norm > 1e-4  # far above Adam's epsilon, 1e-8
    np.testing.assert_allclose((after - before)[clear], -0.1 * np.sign(g)[clear], rtol=1e-3)
  assert int(current.step) == 1


def test_updates_equal_adamw_of_torch():
  """Five steps, some of them clipped, with weight decay."""
  draw = np.random.default_rng(0)
  start, rates, gradients = draw.standard_normal(7), (0.1, 0.2, 0.3, 0.2, 0.1), draw.standard_normal((5, 7)) * 0.6
  theirs = torch.nn.Parameter(torch.tensor(start))
  torch_optimizer = torch.optim.AdamW([theirs], lr=1.0, weight_decay=0.1)
  optimizer = make_optimizer(1.5, 0.1)
  ours = jnp.asarray(start, jnp.float32)
  moments = optimizer.init(ours)
  for rate, gradient in zip(rates, gradients, strict=True):
    theirs.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([theirs], 1.5)
    torch_optimizer.param_groups[0]["lr"] = rate
    torch_optimizer.step()
    update, moments = optimizer.update(jnp.asarray(gradient, jnp.float32), moments, ours)
    ours = ours - rate * update
  norms = np.linalg.norm(gradients, axis=1)
  assert norms.min() < 1.5 < norms.max()
  np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=2e-6)


def test_loss_falls():
  _, _, losses = one_step(rate=0.02, steps=8)
  assert losses[-1] < 0.7 * losses[0]


def values(loss=math.log(2), chosen=0.0, rejected=0.0, grad_norm=1.0):
  return {"loss": loss, "grad_norm": grad_norm, "rewards/chosen": chosen, "rewards/rejected": rejected}


def test_first_step_check():
  dpo = OBJECTIVES["dpo"]
  check_first_step(values(), dpo, 0.01)
  check_first_step(values(loss=math.log(2) + 1e-4, chosen=1e-3), dpo, 0.01)
  check_first_step(values(chosen=0.2), dpo, 1.0)
  check_first_step({"loss": 5.0, "grad_norm": 1.0}, OBJECTIVES["sft"], 0.01)
  with pytest.raises(RunError, match="step 1: the loss is 0.800000 .* 0.693147 and rewards 0 .*reference"):
    check_first_step(values(loss=0.8), dpo, 0.01)
  with pytest.raises(RunError, match="rewards reach 0.0200"):
    check_first_step(values(rejected=-0.02), dpo, 0.01)
  for objective in OBJECTIVES.values():
    with pytest.raises(RunError, match="step 1: the gradient is zero"):
      check_first_step(values(grad_norm=0.0), objective, 0.01)


def rates(schedule: str, warmup: int, steps: int):
  overrides = {"schedule": schedule, "warmup_steps": warmup, "learning_rate": 0.5}
  config = schema.with_overrides(schema.base_config(), {f"optimizer.{key}": v for key, v in overrides.items()})
  of_step = learning_rates(config, steps)
  return [float(of_step(step)) for step in range(steps)]


def test_schedules():
  assert rates("constant", 4, 7) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])
  assert rates("linear", 1, 6) == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.2, 0.1])
  cosine = [0.25 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
  assert rates("cosine", 0, 6) == pytest.approx(cosine)
  assert rates("cosine", 2, 8) == pytest.approx([0.25, 0.5, *cosine])
  assert rates("cosine", 10, 4) == pytest.approx([0.125, 0.25, 0.375, 0.5]), "a warm-up longer than the run"
