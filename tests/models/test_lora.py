"""Adapters: nothing at the start, the same merged or not, trained alone, and on every mesh."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
import soak

from medjax.errors import UserError
from medjax.models import lora as adapters
from medjax.models.decoder import abstract_params, build, init_params
from medjax.models.lora import Adapters, LoraConfig
from medjax.objectives.logprobs import policy_logps
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.policy import Policy, frozen_weights, new_adapters
from medjax.training.step import Objective, jitted_step

LORA = LoraConfig(rank=4, alpha=8.0)
CONFIG = dataclasses.replace(packed.CONFIG, qkv_bias=True)
KINDS = ("none", "int8", "nf4")


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


@functools.cache
def policy(lora: LoraConfig = LORA, kind: str = "none", trained: bool = True) -> Policy:
  """Adapters on the tiny decoder; B is drawn where they are `trained`."""
  _, base = packed.decoder(CONFIG)
  fresh = new_adapters(CONFIG, lora, 0, None)
  if trained:
    draw = np.random.default_rng(3)
    fresh = jax.tree_util.tree_map_with_path(
      lambda path, x: jnp.asarray(0.3 * draw.standard_normal(x.shape, np.float32)) if path[-1].key == "lora_b" else x,
      fresh,
    )
  return Policy(frozen_weights(base, "float32", kind, None), fresh, lora, kind)


def logps(graph, params, adapters=Adapters()):
  return jax.jit(lambda p: policy_logps(graph, p, packed.pack(packed.random_groups(4, 2)), adapters)[0])(params)


def test_new_adapters_change_no_bit():
  start = policy(trained=False)
  graph, base = packed.decoder(CONFIG)
  got = logps(start.graph(CONFIG, "float32"), start.params)
  np.testing.assert_array_equal(got, logps(graph, base))
  ends = [x for path, x in jax.tree_util.tree_leaves_with_path(start.trainable) if path[-1].key == "lora_a"]
  assert len(ends) == 7 and all(0 < np.abs(a).max() <= 1 / math.sqrt(16) for a in ends[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_unmerged(kind):
  trained = policy(kind=kind)
  got = logps(trained.graph(CONFIG, "float32"), trained.params)
  np.testing.assert_allclose(got, logps(build(CONFIG, "float32"), trained.merged), rtol=0, atol=1e-5)
  assert np.abs(got - logps(build(CONFIG, "float32"), packed.decoder(CONFIG)[1])).max() > 0.3, "the adapters act"


def test_without_adapters_it_is_the_base():
  trained = policy()
  graph, base = packed.decoder(CONFIG)
  np.testing.assert_array_equal(logps(trained.graph(CONFIG, "float32"), trained.params, None), logps(graph, base))


def test_scale_and_targets():
  assert LORA.scale == 2.0
  assert dataclasses.replace(LORA, rslora=True).scale == 4.0
  some = dataclasses.replace(LORA, targets="[qv]_proj|down_proj")
  assert [name for name in adapters.TARGETS if some.adapts(name)] == ["q", "v", "down"]
  assert set(policy(some).trainable["blocks"]) == {"attention", "mlp"}
  assert set(policy(some).trainable["blocks"]["attention"]) == {"q", "v"}
  with pytest.raises(UserError, match="lora.targets = 'query' matches none of q_proj, k_proj"):
    dataclasses.replace(LORA, targets="query")
  with pytest.raises(UserError, match="no regular expression"):
    dataclasses.replace(LORA, targets="q_proj(")


def test_split_and_join():
  params = policy().params
  base, trained = adapters.split(params)
  assert jax.tree.structure(adapters.join(base, trained)) == jax.tree.structure(params)
  assert jax.tree.structure(base) == jax.tree.structure(abstract_params(CONFIG))


def test_dropout_zeroes_a_share_and_keeps_the_mean():
  x = jnp.ones((64, 64, 16))
  dropped = adapters.dropped(x, Adapters(jax.random.key(0)), 0.25)
  assert set(np.unique(dropped).tolist()) == {0.0, float(np.float32(1 / 0.75))}
  assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
  assert adapters.dropped(x, Adapters(), 0.25) is x
  trained = policy(dataclasses.replace(LORA, dropout=0.5))
  graph = trained.graph(CONFIG, "float32")
  draws = [logps(graph, trained.params, Adapters(jax.random.key(seed))) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert np.abs(draws[0] - draws[2]).max() > 0.01
  np.testing.assert_array_equal(logps(graph, trained.params), logps(policy().graph(CONFIG, "float32"), trained.params))


ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
MESHES = {
  "sequence": {**ONE, "data": 2, "sequence": 4},
  "fsdp_tensor": {**ONE, "fsdp": 4, "tensor": 2},
}


def step_of(trained: Policy, objective: Objective, sizes=ONE, devices=None):
  """(state, metrics) after a step of two microbatches."""
  devices = mesh.make_mesh(sizes, devices or jax.devices()[:1])
  optimizer = make_optimizer(1.0, 0.0)
  branches = 1 if objective.method == "sft" else 2
  rows = packed.one_by_one(packed.random_groups(16, branches, seed=4), rows=16)
  batches = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), rows)
  with jax.set_mesh(devices):
    frozen = mesh.place(trained.frozen, mesh.parameter_shardings(trained.frozen, devices))
    start = state.create(jax.tree.map(jnp.copy, trained.trainable), optimizer)
    current = jax.device_put(start, state.shardings(start, optimizer, devices))
    step = jitted_step(trained.graph(CONFIG, "float32"), objective, 1.0, 0.0)
    batches = mesh.place(batches, mesh.batch_sharding(devices, leading=1))
    return step(current, frozen, None, batches, np.int32(2), np.float32(0.01), np.uint32(7))


@functools.cache
def alone(kind: str, method: str):
  return step_of(policy(dataclasses.replace(LORA, dropout=0.3), kind), Objective(method, lora_base=method == "dpo"))


@pytest.mark.parametrize(
  ("name", "kind", "method"), soak.some([("sequence", "int8", "sft"), ("fsdp_tensor", "nf4", "dpo")], 1)
)
def test_eight_devices_equal_one(name, kind, method):
  """With dropout, whose draws do not depend on the mesh."""
  wanted_state, wanted = alone(kind, method)
  objective = Objective(method, lora_base=method == "dpo")
  trained = policy(dataclasses.replace(LORA, dropout=0.3), kind)
  got_state, got = step_of(trained, objective, MESHES[name], jax.devices())
  for key, value in wanted.items():
    np.testing.assert_allclose(got[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
  packed.assert_trees_close(got_state.optimizer[1].mu, wanted_state.optimizer[1].mu)


def test_only_adapters_are_trained_and_the_base_has_no_gradient():
  trained = policy()
  current, metrics = step_of(trained, Objective("sft"))
  assert jax.tree.structure(current.params) == jax.tree.structure(trained.trainable)
  assert float(metrics["grad_norm"]) > 0
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), current.params, trained.trainable)
  assert min(jax.tree.leaves(moved)) > 1e-4


def test_frozen_kernels_and_the_head_have_no_gradient():
  """No product of the compiled program makes an array of a frozen kernel's shape."""
  config = dataclasses.replace(CONFIG, width=72, ffn_width=112, vocab_size=20011)
  base, trainable = adapters.split(init_params(config, 0, LORA))
  batch = packed.pack(packed.random_groups(4, 1))

  def products(free, frozen, lora) -> set[str]:
    graph = build(config, "float32", lora=lora)

    def total(free, frozen):
      return policy_logps(graph, adapters.join(frozen, free), batch)[0].sum()

    text = jax.jit(jax.grad(total)).lower(free, frozen).compile().as_text()
    return set(re.findall(r"= f32\[([\d,]*)\]\S* dot\(", text))

  kernels = {"72,16", "72,8", "16,72", "72,112", "112,72", "6671,72"}  # the last: a third of the head
  assert kernels <= products(base, {}, None)
  assert not kernels & products(trainable, base, LORA)


def test_lora_base_is_the_policy_before_its_first_step():
  start = policy(trained=False)
  _, metrics = step_of(start, Objective("dpo", beta=0.3, lora_base=True))
  assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=1e-6)
  _, metrics = step_of(policy(), Objective("dpo", beta=0.3, lora_base=True))
  assert abs(float(metrics["loss"]) - math.log(2)) > 1e-3
