"""Eight devices compute what one computes, hold an eighth of the state each, and refuse what does not divide."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
import soak

from medjax.errors import UserError
from medjax.models.decoder import bind, empty_cache
from medjax.models.views import Layout
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import Objective, jitted_step

ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
# The model has two key-value heads, so that `tensor` is 2 at most.
MESHES = {
  "fsdp": {**ONE, "fsdp": 8},
  "tensor": {**ONE, "data": 4, "tensor": 2},
  "sequence": {**ONE, "data": 2, "sequence": 4},
  "fsdp_tensor": {**ONE, "fsdp": 4, "tensor": 2},
}
OBJECTIVES = {
  "sft": Objective("sft"),
  "dpo_precomputed": Objective("dpo", beta=0.3),
  "dpo_live": Objective("dpo", beta=0.3),
}


def two_steps(method: str, sizes, devices):
  """(state, metrics of each step) after two steps of two microbatches of eight rows each."""
  graph, params = packed.decoder()
  optimizer = make_optimizer(1.0, 0.01)
  members = packed.random_groups(16, 1 if method == "sft" else 2, seed=4)
  rows = packed.one_by_one(members, rows=16)
  known_BN = np.random.default_rng(5).normal(-20, 2, rows.reference_logp.shape).astype(np.float32)
  rows = rows._replace(reference_logp=np.where(rows.example >= 0, known_BN, 0))
  batches = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), rows)
  devices = mesh.make_mesh(sizes, devices)
  mesh.check_divides(packed.CONFIG, devices)
  with jax.set_mesh(devices), jax.default_matmul_precision("highest"):
    start = state.create(jax.tree.map(jnp.copy, params), optimizer)
    current = jax.device_put(start, state.shardings(start, optimizer, devices))
    reference = None
    if method == "dpo_live":
      reference = packed.decoder(seed=1)[1]
      reference = jax.device_put(reference, mesh.parameter_shardings(reference, devices))
    batches = mesh.place(batches, mesh.batch_sharding(devices, leading=1))
    step = jitted_step(graph, OBJECTIVES[method], 1.0, 0.01)
    seen = []
    for _ in range(2):
      current, metrics = step(current, None, reference, batches, np.int32(2), np.float32(1e-3), np.uint32(0))
      seen.append(jax.device_get(metrics))
    return current, seen


@functools.cache
def alone(method: str):
  return two_steps(method, ONE, jax.devices()[:1])


@pytest.mark.parametrize(
  ("method", "name"),
  soak.some([("dpo_live", "fsdp_tensor"), ("dpo_precomputed", "sequence"), *(("sft", name) for name in MESHES)], 3),
)
def test_eight_devices_equal_one(method, name):
  wanted_state, wanted = alone(method)
  got_state, got = two_steps(method, MESHES[name], jax.devices())
  for step in range(2):
    assert got[step].keys() == wanted[step].keys()
    for key, value in wanted[step].items():
      np.testing.assert_allclose(got[step][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
  # The first moments are 0.09 and 0.1 of the two (clipped) gradients: what is equal in them is equal in the gradients.
  got_moments, wanted_moments = (s.optimizer[1].mu for s in (got_state, wanted_state))
  scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted_moments))
  for (path, want), have in zip(
    jax.tree_util.tree_leaves_with_path(wanted_moments), jax.tree.leaves(got_moments), strict=True
  ):
    error = np.abs(np.asarray(have) - np.asarray(want)).max()
    assert error <= 1e-5 * scale, f"{jax.tree_util.keystr(path)}: {error / scale}"
  assert_spread(got_state, MESHES[name])


def assert_spread(current, sizes):
  """Every matrix and its moments are cut over fsdp and tensor, before and after a step."""
  for tree in (current.params, current.optimizer[1].mu, current.optimizer[1].nu):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
      pieces = x.size // x.addressable_shards[0].data.size
      wanted = 1 if "scale" in jax.tree_util.keystr(path) else sizes["fsdp"] * sizes["tensor"]
      assert pieces == wanted, jax.tree_util.keystr(path)


def test_one_token_on_a_mesh_that_splits_tokens():
  """A decoding step has one token a row: it is not split."""
  graph, params = packed.decoder()
  tokens_BT = jnp.arange(8, dtype=jnp.int32)[:, None]
  layout = Layout.plain(jnp.ones_like(tokens_BT))

  def hidden(tokens_BT, layout):
    cache = empty_cache(packed.CONFIG, 4, jnp.full((8, 1), 4), jnp.float32)
    return bind(graph, params).extend(tokens_BT, layout, cache, jnp.int32(0))[0]

  with jax.set_mesh(mesh.make_mesh(MESHES["sequence"])):
    got = jax.device_get(jax.jit(hidden)(tokens_BT, layout))
  np.testing.assert_allclose(got, jax.jit(hidden)(tokens_BT, layout), rtol=1e-5, atol=1e-6)


def test_mesh_over_all_devices(eight_devices):
  assert dict(mesh.make_mesh({**ONE, "fsdp": -1}).shape) == {**ONE, "fsdp": 8}
  assert dict(mesh.make_mesh({**ONE, "data": 2, "fsdp": -1, "tensor": 2}).shape)["fsdp"] == 2


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"fsdp": 3}, "mesh.data=1, mesh.fsdp=3, .* does not divide 8 devices"),
    ({"fsdp": -1, "tensor": 3}, "mesh.fsdp=-1, mesh.tensor=3, .* does not divide 8 devices"),
    ({"fsdp": -1, "data": 16}, "does not divide 8 devices"),
    ({"fsdp": 4}, "does not divide 8 devices"),
  ],
)
def test_sizes_that_do_not_fit_the_devices(sizes, message):
  with pytest.raises(UserError, match=message):
    mesh.make_mesh({**ONE, **sizes})


@pytest.mark.parametrize(
  ("changes", "sizes", "message"),
  [
    ({"width": 20}, {"fsdp": 8}, r"width \(20\) does not divide by mesh.fsdp = 8"),
    ({"num_heads": 6}, {"tensor": 4}, r"query heads \(6\) does not divide by mesh.tensor = 4"),
    (
      {"num_kv_heads": 2},
      {"tensor": 4},
      r"key-value heads \(2\) .* mesh.tensor = 4; on 8 devices mesh.tensor may be one of 1, 2$",
    ),
    ({"ffn_width": 30}, {"tensor": 4}, r"ffn width \(30\)"),
    ({"vocab_size": 61}, {"tensor": 2}, r"vocabulary \(61\)"),
  ],
)
def test_models_that_do_not_fit_the_mesh(changes, sizes, message):
  fits = dataclasses.replace(packed.CONFIG, num_kv_heads=4)
  sizes = {**ONE, "data": -1, **sizes}
  with pytest.raises(UserError, match=message):
    mesh.check_divides(dataclasses.replace(fits, **changes), mesh.make_mesh(sizes))


def test_microbatches_that_do_not_fit_the_mesh():
  devices = mesh.make_mesh({**ONE, "data": 2, "fsdp": 2, "tensor": 2})
  mesh.check_divides(packed.CONFIG, devices, microbatch_rows=8)
  with pytest.raises(UserError, match="train.microbatch_rows = 6 does not divide over the 4 devices .* multiple of 4"):
    mesh.check_divides(packed.CONFIG, devices, microbatch_rows=6)
