"""One optimizer step: microbatches summed, one update. SFT and preference losses share everything but the last line."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from medjax.data.packing import Batch
from medjax.models.decoder import Params
from medjax.models.sharding import parameter_specs
from medjax.objectives import preference, sft
from medjax.objectives.logprobs import policy_logps
from medjax.objectives.sums import Sum
from medjax.training.state import TrainState

LossSums = Callable[[Params, Params | None, Batch], tuple[Sum, dict[str, Sum]]]


def make_loss(config, graph: nnx.GraphDef) -> LossSums:
  """(params, reference params or None, batch) -> the loss and metrics of `config.method` as sums.

  Where reference params are given, the reference log-probabilities are computed here (`preference.reference = live`);
  otherwise they are read from the batch.
  """

  def loss(params: Params, reference: Params | None, batch: Batch):
    logps_BS, logp_BN = policy_logps(graph, params, batch)
    if config.method == "sft":
      return sft.loss(logps_BS, batch)
    if reference is not None:
      batch = batch._replace(reference_logp=jax.lax.stop_gradient(policy_logps(graph, reference, batch)[1]))
    options = config.preference
    return preference.loss(logp_BN, batch, options.loss, options.beta, options.label_smoothing)

  return loss


def add_microbatches(function: Callable, batches: Batch, used):
  """Sums of `function(batch)` over the first `used` of the microbatches stacked on the leading axis."""
  if batches.tokens.shape[0] == 1:
    return function(jax.tree.map(lambda x: x[0], batches))

  def body(index, totals):
    batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches)
    return jax.tree.map(jnp.add, totals, function(batch))

  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], batches))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.fori_loop(0, used, body, zeros)


def make_train_step(loss: LossSums, optimizer: optax.GradientTransformation):
  """(state, reference params or None, batches, used) -> (new state, metrics), to be jitted with the state donated.

  Gradients of the summed loss are added over microbatches and divided once by the summed count, so that k
  microbatches equal one big batch: per token for SFT, per pair for preference losses.
  """

  def train_step(state: TrainState, reference: Params | None, batches: Batch, used):
    def gradients(batch: Batch):
      def total(params):
        loss_sum, metrics = loss(params, reference, batch)
        return loss_sum.total, (loss_sum, metrics)

      grads, sums = jax.grad(total, has_aux=True)(state.params)
      return grads, sums

    grads, (loss_sum, metrics) = add_microbatches(gradients, batches, used)
    grads = jax.tree.map(lambda g: g / jnp.maximum(loss_sum.count, 1.0), grads)
    if not jax.sharding.get_abstract_mesh().empty:
      grads = jax.lax.with_sharding_constraint(grads, parameter_specs(grads))
    updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    means = {key: value.mean for key, value in metrics.items()}
    means |= {"loss": loss_sum.mean, "grad_norm": optax.global_norm(grads)}
    return TrainState(state.step + 1, params, optimizer_state), means

  return train_step
