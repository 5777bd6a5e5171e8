"""Each optimizer does what optax's own does, lives on a mesh as the weights do, and comes back from a checkpoint."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import packed
import pytest
import soak
from jax.sharding import PartitionSpec as P
from runs import curve, overrides, train

from medjax import config as schema
from medjax.errors import Stopped
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params
from medjax.objectives.objective import Objective
from medjax.training import checkpoints, mesh, state
from medjax.training.optimizer import make_optimizer, optimizer_settings
from medjax.training.step import jitted_step

DECAY, CLIP = 0.1, 0.5
# Wide enough for Adafactor to factor the moments of the MLP and of the embedding.
WIDE = ModelConfig(256, 128, 2, 4, 2, 32, 256, max_positions=64)


def whole_chain(name, rate, moments):
  """Optax's optimizer of the same hyperparameters, its rate and weight decay inside."""
  clipping = optax.clip_by_global_norm(CLIP)
  if name == "adamw":
    return optax.chain(clipping, optax.adamw(rate, weight_decay=DECAY, mu_dtype=moments))
  if name == "lion":
    return optax.chain(clipping, optax.lion(rate, weight_decay=DECAY, mu_dtype=moments))
  return optax.chain(clipping, optax.adafactor(rate, weight_decay_rate=lambda count: rate(count) * DECAY))


CASES = [
  ("adamw", "float32"),
  ("adamw", "bfloat16"),
  ("lion", "float32"),
  ("lion", "bfloat16"),
  ("adafactor", "float32"),
]


@functools.cache
def wide():
  return packed.decoder(WIDE)


@functools.cache
def batches(members=8, rows=8):
  groups = packed.random_groups(members, 1, seed=4)
  return jax.tree.map(lambda x: x.reshape(1, *x.shape), packed.one_by_one(groups, rows=rows))


def steps(name, moments, count=3, sizes=None, rate=1e-2):
  """(state, metrics) after so many steps on the same rows."""
  graph, params = wide()
  settings = CLIP, DECAY, name, moments
  optimizer = make_optimizer(*settings)
  devices = mesh.make_mesh(sizes, jax.devices() if sizes else None) if sizes else None
  with jax.default_matmul_precision("highest"), jax.set_mesh(devices) if sizes else contextlib.nullcontext():
    current = state.create(jax.tree.map(jnp.copy, params), optimizer)
    rows = batches()
    if sizes:
      current = jax.device_put(current, state.shardings(current, optimizer, devices))
      rows = mesh.place(rows, mesh.batch_sharding(devices, leading=1))
    step = jitted_step(graph, Objective("sft"), *settings)
    for _ in range(count):
      current, metrics = step(current, None, None, rows, np.int32(1), np.float32(rate), np.uint32(0))
  return current, jax.device_get(metrics)


@pytest.mark.parametrize(("name", "moments"), CASES)
def test_steps_equal_those_of_optax(name, moments):
  """Three updates of a model's parameters by random gradients, some of them clipped, at changing rates."""
  _, ours = packed.decoder(WIDE)
  theirs = ours
  optimizer = make_optimizer(CLIP, DECAY, name, moments)
  rate_of_step = jnp.array([0.01, 0.02, 0.005])
  wanted = whole_chain(name, lambda count: rate_of_step[count], moments)
  moments_of_ours, moments_of_theirs = optimizer.init(ours), wanted.init(theirs)
  update, wanted_update = jax.jit(optimizer.update), jax.jit(wanted.update)
  draw = np.random.default_rng(0)
  for rate, scale in zip(rate_of_step, (1e-4, 1e-2, 1.0), strict=True):
    gradient = jax.tree.map(lambda x, scale=scale: scale * draw.standard_normal(x.shape, np.float32), ours)
    changes, moments_of_ours = update(gradient, moments_of_ours, ours)
    ours = jax.tree.map(lambda p, u, rate=rate: p - rate * u, ours, changes)
    changes, moments_of_theirs = wanted_update(gradient, moments_of_theirs, theirs)
    theirs = optax.apply_updates(theirs, changes)
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_weight_decay_takes_rate_times_decay_off():
  """Without a gradient, of every weight, whatever the optimizer."""
  weights = {"w": jnp.array([[1.0, -2.0], [0.5, 4.0]])}
  for name in ("adamw", "lion", "adafactor"):
    optimizer = make_optimizer(1.0, 0.3, name)
    update, _ = optimizer.update({"w": jnp.zeros((2, 2))}, optimizer.init(weights), weights)
    np.testing.assert_allclose(update["w"], 0.3 * weights["w"], rtol=1e-6)


def test_first_moments_are_of_the_dtype_that_was_asked_for():
  params = {"w": jnp.ones((4, 4))}
  adamw = make_optimizer(1.0, 0.0, "adamw", "bfloat16").init(params)[1]
  assert (adamw.mu["w"].dtype, adamw.nu["w"].dtype) == (jnp.bfloat16, jnp.float32)
  assert make_optimizer(1.0, 0.0, "lion", "bfloat16").init(params)[1].mu["w"].dtype == jnp.bfloat16
  assert make_optimizer(1.0, 0.0, "lion").init(params)[1].mu["w"].dtype == jnp.float32


def test_settings_of_a_config():
  config = schema.load("", {"optimizer.name": "lion", "optimizer.moments": "bfloat16", "optimizer.weight_decay": 0.2})
  assert optimizer_settings(config) == (1.0, 0.2, "lion", "bfloat16")


ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


def test_factored_moments_live_as_their_weights_do():
  """v_row lacks the longest axis, v_col the second longest; what is not factored is as the weight."""
  devices = mesh.make_mesh({**ONE, "fsdp": 4, "tensor": 2}, jax.devices())
  optimizer = make_optimizer(1.0, 0.0, "adafactor")
  abstract = state.abstract(abstract_params(WIDE), optimizer)
  factored, spec = abstract.optimizer[1], state.specs(abstract, optimizer, devices).optimizer[1]
  shapes = [moment["blocks"]["mlp"]["down"]["kernel"].shape for moment in (factored.v_row, factored.v_col)]
  assert shapes == [(2, 128), (2, 256)]  # of [L, F, D] = [2, 256, 128]
  assert spec.v_row["blocks"]["mlp"]["down"]["kernel"] == P(None, "fsdp")
  assert spec.v_col["blocks"]["mlp"]["down"]["kernel"] == P(None, "tensor")
  assert spec.v["blocks"]["mlp"]["down"]["kernel"] == P()
  assert spec.v_row["embed"]["embedding"] == P("fsdp") and spec.v_col["embed"]["embedding"] == P("tensor")
  assert spec.v["blocks"]["attention"]["q"]["kernel"] == P(None, "fsdp", "tensor", None)
  assert spec.v_row["blocks"]["attention"]["q"]["kernel"] == P()
  assert spec.count == P()


@functools.cache
def alone(name, moments):
  return steps(name, moments, 2)


@pytest.mark.parametrize(
  ("name", "moments", "sizes"),
  soak.some(
    [
      ("adafactor", "float32", {"fsdp": 4, "tensor": 2}),
      ("adafactor", "float32", {"fsdp": 8}),
      ("lion", "bfloat16", {"fsdp": 4, "tensor": 2}),
    ],
    1,
  ),
)
def test_eight_devices_equal_one(name, moments, sizes):
  wanted, wanted_metrics = alone(name, moments)
  got, metrics = steps(name, moments, 2, {**ONE, **sizes})
  assert float(metrics["loss"]) == pytest.approx(float(wanted_metrics["loss"]), rel=1e-4)
  assert float(metrics["grad_norm"]) == pytest.approx(float(wanted_metrics["grad_norm"]), rel=1e-3)
  optimizer = make_optimizer(CLIP, DECAY, name, moments)
  placed = state.shardings(got, optimizer, got.step.sharding.mesh)
  for x, place in zip(jax.tree.leaves(got), jax.tree.leaves(placed), strict=True):
    assert x.sharding.is_equivalent_to(place, x.ndim)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
  # Where a gradient is no more than rounding error its sign is, too, and may move a weight either way.
  moved = [
    np.abs(np.asarray(x - y)) > 1e-4 for x, y in zip(*map(jax.tree.leaves, (got.params, wanted.params)), strict=True)
  ]
  assert np.mean(np.concatenate([x.ravel() for x in moved])) < 0.01
  big = got.params["blocks"]["mlp"]["down"]["kernel"]
  assert big.size // big.addressable_shards[0].data.size == 8


@pytest.mark.parametrize(("name", "moments"), [("lion", "bfloat16"), ("adafactor", "float32")])
def test_a_checkpoint_brings_the_state_back(home, tmp_path, monkeypatch, name, moments):
  """A run that is stopped and goes on repeats the curve of one that is not, bit for bit."""
  settings = overrides(
    home, train__steps=4, optimizer__name=name, optimizer__moments=moments, checkpoint__every=2, checkpoint__keep=9
  )
  train(tmp_path / "whole", settings)
  real, seen = checkpoints.Checkpoints.save, []

  def save_and_stop(self, step, current, *rest):
    real(self, step, current, *rest)
    seen.append(current.optimizer[1])
    raise Stopped("as if SIGTERM had come")

  with monkeypatch.context() as patched:
    patched.setattr(checkpoints.Checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
      train(tmp_path / "stopped", settings)
  if moments == "bfloat16":
    assert {x.dtype for x in jax.tree.leaves(seen[0].mu)} == {jnp.dtype("bfloat16")}
  restored = []
  real_restore = checkpoints.Checkpoints.restore

  def restore(self, *arguments):
    restored.append(real_restore(self, *arguments))
    return restored[-1]

  monkeypatch.setattr(checkpoints.Checkpoints, "restore", restore)
  train(tmp_path / "stopped", settings)
  assert len(restored) == 1
  assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
