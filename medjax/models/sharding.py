"""Where arrays live on the mesh: one rule for each parameter, one for each activation.

The mesh axes are `data` (batch), `fsdp` (batch, and parameters), `tensor` (heads, ffn and vocabulary) and `sequence`
(tokens). A weight is at home cut over `fsdp` and `tensor`; where it is used it is cast to the compute dtype and then
gathered over `fsdp`, and its gradient is reduced in float32 and goes home at once. Outside a mesh the constraints do
nothing, so that the same modules run in a notebook.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from medjax.arrays import Array

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = ("data", "fsdp")

# Dimension letters -> mesh axes; letters that are absent are not sharded.
_ACTIVATION_AXES = {"B": BATCH, "N": (*BATCH, "tensor"), "T": "sequence", "H": "tensor", "K": "tensor", "F": "tensor"}
_HOME_AXES = {"D": "fsdp", "H": "tensor", "K": "tensor", "F": "tensor", "V": "tensor"}
_USE_AXES = _HOME_AXES | {"D": None}
# Rows of the embedding before they go to the devices that hold their tokens.
_LOOKED_UP_AXES = {"B": "data", "T": "sequence", "D": "fsdp"}

# Letters of each kernel's axes in one layer: inputs, outputs.
KERNELS = {
  "q": ("D", "HE"),
  "k": ("D", "KE"),
  "v": ("D", "KE"),
  "o": ("HE", "D"),
  "gate": ("D", "F"),
  "up": ("D", "F"),
  "down": ("F", "D"),
}


def _letters(path: tuple[str, ...]) -> str:
  """The letters of a parameter's axes, by its path in the tree; scales of norms are everywhere."""
  module, name = path[-2:]
  if module in ("embed", "head"):
    return "VD"
  if module not in KERNELS:
    return ""
  inputs, outputs = KERNELS[module]
  kernel = f"L{inputs}{outputs}"
  of_name = {"bias": f"L{outputs}", "lora_a": f"L{inputs}R", "lora_b": f"LR{outputs}"}
  return of_name.get(name, kernel)  # also the codes and scales of a quantized kernel


def _spec(shape: tuple[int, ...], letters: str, axes: dict[str, Any], mesh: Any) -> P:
  """Where an array lives, one letter a dimension; a dimension that its axes do not divide stays whole."""

  def divided(size: int, letter: str):
    names = axes.get(letter) or ()
    devices = math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))
    return names if names and size % devices == 0 else None

  return P(*map(divided, shape, letters))


def _constrain(x: Array, letters: str, axes: dict[str, Any]) -> Array:
  mesh = jax.sharding.get_abstract_mesh()
  return x if mesh.empty else jax.lax.with_sharding_constraint(x, _spec(x.shape, letters, axes, mesh))


def constrain(x: Array, letters: str) -> Array:
  """Constrains an activation on the mesh in use, one letter a dimension (`"BTD"`); the identity outside a mesh.

  A dimension that its axes do not divide stays whole: the one token of a decoding step, for `sequence`.
  """
  return _constrain(x, letters, _ACTIVATION_AXES)


def activation_spec(x: Array | jax.ShapeDtypeStruct, letters: str) -> P:
  """Where `constrain` puts an activation of this shape on the mesh in use."""
  return _spec(x.shape, letters, _ACTIVATION_AXES, jax.sharding.get_abstract_mesh())


def order_in_memory(x: Array, letters: str, order: tuple[int, ...]) -> Array:
  """Fixes the order in which a TPU keeps the axes of an activation in memory, outermost first; else the identity.

  The partitioner takes a constraint on memory for one on devices unless each device's part is constrained by itself.
  """
  if platform() != "tpu":
    return x

  def ordered(x):
    return with_layout_constraint(x, Layout(order))

  if jax.sharding.get_abstract_mesh().empty:
    return ordered(x)
  spec = activation_spec(x, letters)
  return jax.shard_map(ordered, in_specs=spec, out_specs=spec, check_vma=False)(x)


def gather(weight: jax.Array, letters: str, dtype: Any) -> jax.Array:
  """A weight where it is used: cast to the compute dtype while at home, and only then gathered over `fsdp`."""
  return _constrain(send_home(weight.astype(dtype), letters), letters, _USE_AXES)


def send_home(x: jax.Array, letters: str) -> jax.Array:
  """A weight or its gradient, in the pieces that the weight is kept in."""
  return _constrain(x, letters, _HOME_AXES)


def platform() -> str:
  """`cpu`, `gpu` or `tpu`: what the devices of the mesh in use are, or the default device outside a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def tokens_are_split() -> bool:
  """Whether the mesh in use splits the tokens of a row over devices."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.shape["sequence"] > 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table_VD: Float[Array, "V D"], tokens_BT: Int[Array, "B T"], dtype: Any) -> Float[Array, "B T D"]:
  """Rows of the embedding in the compute dtype. Rows travel, the table does not; its gradient is summed in float32."""
  tokens_BT = _constrain(tokens_BT, "BT", _LOOKED_UP_AXES)  # else, with `data` and `fsdp` both, the table travels
  rows_BTD = _constrain(jnp.take(table_VD, tokens_BT, axis=0).astype(dtype), "BTD", _LOOKED_UP_AXES)
  return constrain(rows_BTD, "BTD")


def _look_up_forward(table_VD, tokens_BT, dtype):
  return look_up(table_VD, tokens_BT, dtype), (table_VD, tokens_BT)


def _look_up_backward(dtype, residuals, gradient_BTD):
  table_VD, tokens_BT = residuals
  tokens_BT = _constrain(tokens_BT, "BT", _LOOKED_UP_AXES)
  gradient_BTD = _constrain(gradient_BTD, "BTD", _LOOKED_UP_AXES).astype(jnp.float32)
  empty_VD = send_home(jnp.zeros(table_VD.shape, jnp.float32), "VD")
  table_gradient_VD = empty_VD.at[tokens_BT].add(gradient_BTD)
  return send_home(table_gradient_VD, "VD").astype(table_VD.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


def place(arrays: Any, shardings: Any) -> Any:
  """Host arrays, the same in every process, as arrays on the devices; each process feeds its own devices alone.

  Args:
    arrays: a tree of arrays.
    shardings: where each of them lives: one sharding, or a tree of which `arrays` is a tree or goes deeper. Shardings
      may span processes. None for the default device.
  """
  if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
    return jax.device_put(arrays, shardings)

  def feed(sharding, subtree):
    hosted = jax.tree.map(np.asarray, jax.device_get(subtree))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), hosted)

  with jax.transfer_guard_host_to_device("allow"):  # a call of this function asks for the transfer
    return jax.tree.map(feed, shardings, arrays)


def parameter_specs(params: Any, mesh: Any) -> Any:
  """The PartitionSpec of each parameter of a decoder on a mesh, in a tree of the same structure."""

  def of_parameter(path, x):
    return _spec(x.shape, _letters(tuple(key.key for key in path)), _HOME_AXES, mesh)

  return jax.tree_util.tree_map_with_path(of_parameter, params)
