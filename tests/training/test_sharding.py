"""Eight devices compute what one computes, hold an eighth of the state each, and refuse what does not divide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest

from medjax.errors import UserError
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import Objective, jitted_step

ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
MESHES = {
  "fsdp": {**ONE, "fsdp": 8},
  "data_fsdp_tensor": {**ONE, "data": 2, "fsdp": 2, "tensor": 2},
  "fsdp_sequence": {**ONE, "fsdp": 4, "sequence": 2},
}
OBJECTIVES = {"sft": Objective("sft"), "dpo": Objective("dpo", beta=0.3)}


def two_steps(method: str, sizes, devices):
  """(state, metrics of each step) after two steps of two microbatches of eight rows each."""
  graph, params = packed.decoder()
  optimizer = make_optimizer(1.0, 0.01)
  members = packed.random_groups(16, 2 if method == "dpo" else 1, seed=4)
  rows = packed.one_by_one(members, rows=16)
  batches = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), rows)
  devices = mesh.make_mesh(sizes, devices)
  mesh.check_divides(packed.CONFIG, devices, packed.SHAPE.tokens)
  with jax.set_mesh(devices), jax.default_matmul_precision("highest"):
    start = state.create(jax.tree.map(jnp.copy, params), optimizer)
    current = jax.device_put(start, state.shardings(start, optimizer, devices))
    reference = packed.decoder(seed=1)[1] if method == "dpo" else None
    if reference is not None:
      reference = jax.device_put(reference, mesh.parameter_shardings(reference, devices))
    batches = jax.device_put(batches, mesh.batch_sharding(devices, leading=1))
    step = jitted_step(graph, OBJECTIVES[method], 1.0, 0.01)
    seen = []
    for _ in range(2):
      current, metrics = step(current, reference, batches, np.int32(2), np.float32(1e-3))
      seen.append(jax.device_get(metrics))
    return current, seen


@pytest.mark.parametrize("method", OBJECTIVES)
def test_eight_devices_equal_one(method):
  alone, wanted = two_steps(method, ONE, jax.devices()[:1])
  for name in ("fsdp", "data_fsdp_tensor", *(["fsdp_sequence"] if method == "sft" else [])):
    sizes = MESHES[name]
    spread, got = two_steps(method, sizes, jax.devices())
    for step in range(2):
      for key, value in wanted[step].items():
        np.testing.assert_allclose(got[step][key], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")
    # The first moments are 0.9 and 0.1 of the two gradients: what was equal in them is equal in the gradients.
    moments = [s.optimizer[1].mu for s in (spread, alone)]
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(moments[1]))
    for one, other in zip(*map(jax.tree.leaves, moments), strict=True):
      np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-5 * scale, err_msg=name)
    assert_spread(spread, sizes)


def assert_spread(current, sizes):
  """Every matrix and its moments are cut over fsdp and tensor, before and after a step."""
  for tree in (current.params, current.optimizer[1].mu, current.optimizer[1].nu):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
      pieces = x.size // x.addressable_shards[0].data.size
      wanted = 1 if "scale" in jax.tree_util.keystr(path) else sizes["fsdp"] * sizes["tensor"]
      assert pieces == wanted, jax.tree_util.keystr(path)


def test_mesh_over_all_devices():
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
    ({"num_kv_heads": 2}, {"tensor": 4}, r"key-value heads \(2\) does not divide by mesh.tensor = 4"),
    ({"ffn_width": 30}, {"tensor": 4}, r"ffn width \(30\)"),
    ({"vocab_size": 61}, {"tensor": 2}, r"vocabulary \(61\)"),
    ({}, {"sequence": 8}, r"train.row_length \(36\) does not divide by mesh.sequence = 8"),
  ],
)
def test_models_that_do_not_fit_the_mesh(changes, sizes, message):
  fits = dataclasses.replace(packed.CONFIG, num_kv_heads=4)
  sizes = {**ONE, "data": -1, **sizes}
  with pytest.raises(UserError, match=message):
    mesh.check_divides(dataclasses.replace(fits, **changes), mesh.make_mesh(sizes), 36)
