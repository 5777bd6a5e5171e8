"""What a run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from medjax.arrays import Array
from medjax.models.decoder import Params
from medjax.models.sharding import parameter_specs


class TrainState(NamedTuple):
  """Steps done, float32 master weights, and the optimizer's state."""

  step: Int[Array, ""]
  params: Params
  optimizer: Any


def create(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state at step 0. To be called under jit, so that the optimizer's state is made where it lives."""
  params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Shapes and dtypes of the state, without arrays."""
  return jax.eval_shape(lambda p: create(p, optimizer), params)


def specs(state: TrainState, optimizer: optax.GradientTransformation, mesh: Any) -> TrainState:
  """The PartitionSpec of each part of the state on a mesh: moments as their parameters, counts everywhere.

  A factored moment lives as its parameter does on the axes that it has.
  """
  of_params = parameter_specs(state.params, mesh)
  of_optimizer = optax.tree_map_params(
    optimizer, _moment_spec, state.optimizer, state.params, of_params, transform_non_params=lambda _: P()
  )
  return TrainState(P(), of_params, of_optimizer)


def _moment_spec(moment: Any, parameter: Any, spec: P) -> P:
  """The spec of a moment of the parameter's shape, of that shape without one axis, or of neither (a placeholder)."""
  if moment.shape == parameter.shape:
    return spec
  axes = tuple(spec) + (None,) * (len(parameter.shape) - len(spec))
  for axis in range(len(parameter.shape)):  # of two axes of one size either will do: what is left is as long
    if moment.shape == parameter.shape[:axis] + parameter.shape[axis + 1 :]:
      return P(*axes[:axis], *axes[axis + 1 :])
  return P()


def shardings(state: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Where each part of the state lives on a mesh."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), specs(state, optimizer, mesh), is_leaf=lambda x: isinstance(x, P)
  )
