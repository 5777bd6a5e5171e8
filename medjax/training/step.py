"""One optimizer step: microbatches summed, one update. SFT and preference losses share everything but the last line."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Float

from medjax.arrays import Array
from medjax.data.packing import Batch
from medjax.models.lora import Adapters, Params, join
from medjax.objectives import kto, preference, sft
from medjax.objectives.logprobs import policy_logps
from medjax.objectives.objective import Objective
from medjax.objectives.sums import Sum
from medjax.training.optimizer import make_optimizer
from medjax.training.state import TrainState, specs


def loss_sums(
  graph: nnx.GraphDef,
  objective: Objective,
  params: Params,
  reference: Params | None,
  batch: Batch,
  adapters: Adapters = Adapters(),
  tokens_per_pair: Float[Array, ""] | None = None,
  point: Float[Array, ""] | None = None,
) -> tuple[Sum, dict[str, Sum]]:
  """The loss of a batch and its metrics, as totals and counts.

  The reference's log-probabilities are those of `with_reference`. Of a batch that is part of a step, `tokens_per_pair`
  (`preference.loss_of_pairs`) and `point` (`kto.loss`) are the step's.
  """
  logps_BS, logp_BN = policy_logps(graph, params, batch, adapters)
  if objective.method == "sft":
    return sft.loss(logps_BS, batch)
  batch = with_reference(graph, objective, params, reference, batch)
  if objective.loss == "kto":
    return kto.loss(*preference.answers_of(logp_BN, batch), batch.desirable[:, ::2], objective, point)
  return preference.loss(logp_BN, batch, objective, tokens_per_pair)


def with_reference(
  graph: nnx.GraphDef, objective: Objective, params: Params, reference: Params | None, batch: Batch
) -> Batch:
  """A batch of a preference loss with the reference's log-probabilities.

  Where `reference` is given, or is the base below the adapters, they are computed here (`preference.reference = live`
  and `lora_base`); otherwise the batch has them, where a loss has a reference.
  """
  if objective.lora_base:
    return batch._replace(reference_logp=jax.lax.stop_gradient(policy_logps(graph, params, batch, None)[1]))
  if reference is not None:
    return batch._replace(reference_logp=jax.lax.stop_gradient(policy_logps(graph, reference, batch)[1]))
  return batch


def add_microbatches(function: Callable, batches: Batch, used):
  """Sums of `function(batch, index)` over the first `used` of the microbatches stacked on the leading axis."""
  if batches.tokens.shape[0] == 1:
    return function(jax.tree.map(lambda x: x[0], batches), 0)

  def body(index, totals):
    batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches)
    return jax.tree.map(jnp.add, totals, function(batch, index))

  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], batches), 0)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.fori_loop(0, used, body, zeros)


def gradients(graph: nnx.GraphDef, objective: Objective, params, frozen, reference, batches: Batch, used, key=None):
  """Gradient of the mean loss, the loss and the metrics, each as (its sum over microbatches) / (its summed count).

  k microbatches so equal one big batch: per token, by its weight, for SFT, per pair for preference losses. An SFT term
  beside these is per token of the whole step, whose count is taken ahead; so is the reference point of KTO, for which
  several microbatches are computed once more, without gradients.

  Several microbatches add to one set of gradients in place: the backward pass adds a layer's gradient to those of the
  microbatches before it, so that no second set exists.

  Args:
    graph: the decoder.
    objective: what is minimised.
    params: what is trained: all weights, or adapters.
    frozen: the weights that adapters are added to, None without adapters.
    reference: what `params` were at the start (`preference.reference = live`), else None.
    batches: stacked microbatches.
    used: how many of them hold anything.
    key: of the adapters' dropout; None for none.
  """

  def whole(tree):
    return tree if frozen is None else join(frozen, tree)

  started = None if reference is None else whole(reference)
  # The reference has no dropout: a policy with it would differ from its reference before it has learned anything.
  drops = Adapters(key if objective.method == "sft" else None)
  tokens_per_pair = preference.chosen_tokens_per_pair(batches) if objective.sft_weight else None
  point = None
  if objective.loss == "kto" and batches.tokens.shape[0] > 1:

    def drift(batch: Batch, _):
      batch = with_reference(graph, objective, whole(params), started, batch)
      _, unrelated, real_BP = preference.answers_of(policy_logps(graph, whole(params), batch)[1], batch)
      return kto.drift(unrelated, real_BP)

    point = kto.reference_point(add_microbatches(drift, batches, used))

  def differentiated(batch: Batch, index):
    """The backward pass of a microbatch, its loss and metrics."""

    def total(params):
      of_step = tokens_per_pair, point
      loss, metrics = loss_sums(graph, objective, whole(params), started, batch, drops.fold(index), *of_step)
      return loss.total, (loss, metrics)

    _, backward, sums = jax.vjp(total, params, has_aux=True)
    return backward, sums

  if batches.tokens.shape[0] == 1:
    backward, (loss, metrics) = differentiated(jax.tree.map(lambda x: x[0], batches), 0)
    (grads,) = backward(jnp.ones(()))
  else:
    refs = jax.tree.map(lambda x: jax.new_ref(jnp.zeros(x.shape, x.dtype)), params)

    def add(batch: Batch, index):
      backward, sums = differentiated(batch, index)
      backward.with_refs(refs)(jnp.ones(()))  # a layer's gradient is added where it is made
      return sums

    loss, metrics = add_microbatches(add, batches, used)
    grads = jax.tree.map(jax.freeze, refs)
  grads = jax.tree.map(lambda g: g / loss.divisor, grads)
  return grads, loss.mean, {key: value.mean for key, value in metrics.items()}


@functools.lru_cache(maxsize=16)
def jitted_step(
  graph: nnx.GraphDef,
  objective: Objective,
  clip_norm: float,
  weight_decay: float,
  name: str = "adamw",
  moments: str = "float32",
  skip_nonfinite: bool = False,
):
  """(state, frozen, reference, batches, used, learning rate, seed) -> (new state, metrics); the state is donated.

  `frozen` and `reference` are as in `gradients`, what follows `objective` as in `make_optimizer`; `seed` is that of the
  adapters' dropout. With `skip_nonfinite` a step whose loss or gradient is not finite changes nothing but the step's
  number. Cached, so that runs of one process that differ in data, seed or learning rate share a compiled
  program.
  """
  optimizer = make_optimizer(clip_norm, weight_decay, name, moments)

  def train_step(state: TrainState, frozen, reference, batches: Batch, used, learning_rate, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, loss, metrics = gradients(graph, objective, state.params, frozen, reference, batches, used, key)
    updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    metrics |= {"loss": loss, "grad_norm": optax.global_norm(grads)}
    if skip_nonfinite:
      finite = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"])
      kept = state.params, state.optimizer
      params, optimizer_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), (params, optimizer_state), kept)
    new = TrainState(state.step + 1, params, optimizer_state)
    devices = jax.sharding.get_abstract_mesh()
    if not devices.empty:
      new = jax.lax.with_sharding_constraint(new, specs(new, optimizer, devices))
    return new, metrics

  return jax.jit(train_step, donate_argnums=0)
