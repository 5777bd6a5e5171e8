"""Blocks of 8 and 4 bits: qwix's numbers, half a byte a weight, and the same on devices that share a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
import tiny

from medjax.errors import UserError
from medjax.models.pretrained import load_pretrained
from medjax.models.quantize import NF4, dequantize, quantize, quantized_shapes
from medjax.training import mesh
from medjax.training.policy import base_weights, frozen_weights

KERNEL = np.random.default_rng(0).standard_normal((2, 192, 3, 128)).astype(np.float32)


def of_qwix(kernel, axis, kind):
  others = [place for place in range(kernel.ndim) if place != axis]
  return qwix.dequantize(qwix.quantize(kernel, kind, tiled_axes={axis: 64}, channelwise_axes=others))


@pytest.mark.parametrize("axis", [1, 3])
def test_nf4_is_what_qwix_makes_of_it(axis):
  ours = dequantize(quantize(KERNEL, axis, "nf4"), axis)
  np.testing.assert_allclose(ours, of_qwix(jnp.asarray(KERNEL), axis, "nf4"), rtol=1e-6, atol=1e-7)
  assert set(np.asarray(dequantize(quantize(jnp.asarray(NF4, jnp.float32), 0, "nf4"), 0)).tolist()) == {
    float(np.float32(value)) for value in NF4
  }


def test_int8_errs_by_half_a_step_at_most():
  """qwix's steps are a little smaller, 127.5 of them in the largest weight: its errors are held to, not its bits."""
  kept = quantize(KERNEL, 1, "int8")
  error = np.abs(dequantize(kept, 1) - KERNEL)
  step = np.repeat(np.asarray(kept.scale), 64, axis=1)
  assert (error <= 0.5001 * step).all()
  theirs = np.abs(of_qwix(jnp.asarray(KERNEL), 1, "int8") - KERNEL)
  assert np.sqrt((error**2).mean()) < 1.02 * np.sqrt((theirs**2).mean())


@pytest.mark.parametrize(("kind", "bytes_a_weight"), [("int8", 1), ("nf4", 0.5)])
def test_size(kind, bytes_a_weight):
  kept = quantize(KERNEL, 1, kind)
  assert kept.codes.nbytes == bytes_a_weight * KERNEL.size
  assert kept.scale.nbytes == 4 * KERNEL.size // 64
  shapes = quantized_shapes(KERNEL.shape, 1, kind)
  assert [(x.shape, x.dtype) for x in shapes] == [(x.shape, x.dtype) for x in kept]


def test_zeros_stay_zeros_and_axes_of_other_sizes_have_smaller_blocks():
  kernel = np.zeros((96, 2), np.float32)
  kernel[:32, 0] = np.linspace(-3, 3, 32)
  for kind in ("int8", "nf4"):
    kept = quantize(kernel, 0, kind)
    assert kept.scale.shape == (3, 2)  # 96 is three blocks of 32
    values = np.asarray(dequantize(kept, 0))
    assert (values[32:] == 0).all() and (values[:, 1] == 0).all() and np.abs(values[0, 0] + 3) < 1e-6
  with pytest.raises(UserError, match="nf4 stores weights in pairs"):
    quantize(kernel[:9], 0, "nf4")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_cut_over_devices(kind):
  devices = mesh.make_mesh({"data": 1, "fsdp": 4, "tensor": 2, "sequence": 1})
  kernel = np.random.default_rng(1).standard_normal((2, 512, 4, 8)).astype(np.float32)
  tree = {"q": {"kernel": kernel}}
  placed = mesh.place(tree, mesh.parameter_shardings(tree, devices))["q"]["kernel"]
  kept = jax.jit(lambda x: quantize(x, 1, kind))(placed)
  for got, wanted in zip(kept, quantize(kernel, 1, kind), strict=True):
    np.testing.assert_array_equal(got, wanted)
  text = jax.jit(lambda x: dequantize(quantize(x, 1, kind), 1)).lower(placed).compile().as_text()
  assert "all-gather" not in text, "no device needs another's part"


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_weights_quantized_layer_by_layer_as_they_are_read(tmp_path, kind):
  """On a mesh, the same numbers as the whole model quantized at once, cut over the devices."""
  tiny.write_model(tmp_path, hidden_size=128, intermediate_size=256)
  devices = mesh.make_mesh({"data": 1, "fsdp": 4, "tensor": 2, "sequence": 1})
  wanted = frozen_weights(load_pretrained(str(tmp_path)).params, "float32", kind, None)
  got = base_weights(str(tmp_path), devices, "float32", kind)
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, got, wanted)
  codes = got["blocks"]["mlp"]["up"]["codes"]
  assert codes.addressable_shards[0].data.size == codes.size // 8
