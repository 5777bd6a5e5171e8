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
  """The PartitionSpec of each part of the state on a mesh: moments as their parameters, counts everywhere."""
  of_params = parameter_specs(state.params, mesh)
  of_optimizer = optax.tree_map_params(
    optimizer, lambda _, spec: spec, state.optimizer, of_params, transform_non_params=lambda _: P()
  )
  return TrainState(P(), of_params, of_optimizer)


def shardings(state: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Where each part of the state lives on a mesh."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), specs(state, optimizer, mesh), is_leaf=lambda x: isinstance(x, P)
  )
