"""DPO from its reference on a device that rounds the operands of products, as TPUs and GPUs do: emulated on the CPU."""

import json

import jax
import jax.numpy as jnp
import make_home
import pytest
import soak
import tiny
from runs import overrides, train

from medjax.errors import RunError
from medjax.models.pretrained import load_pretrained
from medjax.training import checkpoints, mesh, reference
from medjax.training.policy import load_policy

MANTISSA = {"tpu": 7, "h100": 10}  # bits of bfloat16 and TF32


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
  """A home whose models have weights so large that their answers' log-probabilities are nats apart."""
  path = tmp_path_factory.mktemp("sharp")
  make_home.write(path, lambda model: tiny.write_model(model, initializer_range=0.3))
  tiny.write_model(path / "other", seed=1, initializer_range=0.3)
  return path


@pytest.fixture
def device(monkeypatch):
  """Makes the CPU like a device: products of float32 operands round these unless the highest precision is asked for.

  The list that it gives has the shapes of what was rounded.
  """
  bind, highest, found = jax.lax.dot_general_p.bind, jax.lax.Precision.HIGHEST, []

  def become(name):
    def rounded(x, y, **settings):
      if x.dtype == y.dtype == jnp.float32 and settings["precision"] not in (highest, (highest, highest)):
        found.append((x.shape, y.shape))
        x, y = (jax.lax.reduce_precision(operand, 8, MANTISSA[name]) for operand in (x, y))
      return bind(x, y, **settings)

    jax.clear_caches()  # or programs that were traced before would not be traced again
    monkeypatch.setattr(jax.lax.dot_general_p, "bind", rounded)
    monkeypatch.setattr(mesh, "compute_dtype", lambda name: "bfloat16" if name == "auto" else name)
    return found

  yield become
  monkeypatch.undo()
  jax.clear_caches()


def dpo(home, dtype, steps):
  return overrides(home, "dpo", train__steps=steps, optimizer__warmup_steps=0, model__dtype=dtype)


@pytest.mark.parametrize(
  ("name", "dtype"), soak.some([("tpu", "auto"), ("tpu", "float32"), ("h100", "auto"), ("h100", "float32")], 2)
)
def test_the_first_step_tells_rounding_from_other_weights(sharp, tmp_path, device, monkeypatch, name, dtype):
  rounded = device(name)
  train(tmp_path / "run", dpo(sharp, dtype, 3))
  assert rounded == [], "float32 means float32"
  used = json.loads((tmp_path / "run" / "config.json").read_text())["model"]["dtype"]
  assert used == ("bfloat16" if dtype == "auto" else "float32")

  of = reference.reference_logps
  for planted in (load_policy(str(tmp_path / "run")), load_pretrained(str(sharp / "other"))):

    def of_planted(graph, params, *rest, weights=planted.params):
      return of(graph, jax.tree.map(lambda x, right: jax.device_put(x, right.sharding), weights, params), *rest)

    monkeypatch.setattr(reference, "reference_logps", of_planted)
    with pytest.raises(RunError, match="step 1: .* the reference log-probabilities are of other weights"):
      train(tmp_path / "planted", dpo(sharp, dtype, 1))
    assert not checkpoints.is_checkpoint(str(tmp_path / "planted"))
