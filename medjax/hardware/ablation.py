"""What each lever of DPO training is worth: the same pairs, losses and updates, with one lever more at each rung.

The first rungs are what training code usually does, written here for comparison; the last is medjax's train step.
"""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from medjax.arrays import Array, product
from medjax.data.examples import Segments
from medjax.data.loader import Plan
from medjax.data.packing import TILE, Batch, fill_rows, plain_tokens, row_tokens, shape_of
from medjax.errors import RunError, UserError
from medjax.hardware.bench import policy_of, workload_of
from medjax.hardware.clock import Clock, peak_bytes
from medjax.models.decoder import bind, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.views import Layout
from medjax.objectives import preference
from medjax.objectives.logprobs import sequence_logps, token_logps
from medjax.objectives.objective import objective_of
from medjax.objectives.preference import Answer
from medjax.objectives.scoring import score
from medjax.objectives.sums import Sum
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer, optimizer_settings

_AHEAD = 1000  # steps that shapes are chosen for


@dataclasses.dataclass(frozen=True)
class Rung:
  """One way to run the same steps.

  Attributes:
    name: what is new.
    rows: `longest` (each sequence in a row as long as the longest of the data), `buckets` (as long as the longest of
      the step, in a few lengths) or `packed`.
    logits: `all` positions, `scored` positions, or `chunked` (scored positions, the vocabulary in chunks).
    precomputed: whether the reference's log-probabilities are computed once, ahead.
    shared: whether chosen and rejected share the prompt.
  """

  name: str
  rows: str
  logits: str
  precomputed: bool = False
  shared: bool = False


LADDER = (
  Rung("plain padded", "longest", "all"),
  Rung("length buckets", "buckets", "all"),
  Rung("packing", "packed", "all"),
  Rung("scored positions only", "packed", "scored"),
  Rung("chunked vocabulary", "packed", "chunked"),
  Rung("precomputed reference", "packed", "chunked", precomputed=True),
  Rung("prefix sharing", "packed", "chunked", precomputed=True, shared=True),
)


def run(config, rung: Rung, steps: int, workload: str) -> dict[str, Any]:
  """Times a rung; see `climb`. The model and pairs are those of `medjax bench --method=dpo`.

  Raises:
    UserError: what the ladder does not have: several devices, adapters, or another loss than plain DPO.
  """
  preferences = config.preference
  if jax.device_count() > 1 or config.lora.rank or preferences.loss != "sigmoid" or config.train.init_from:
    raise UserError("the ablation runs plain DPO of all weights of model.path on one device; change the config")
  devices = mesh.make_mesh(config.mesh.to_dict())
  described, groups = workload_of(config, "dpo", workload)
  with jax.set_mesh(devices):
    policy = policy_of(config, described, devices)
    graph = policy.graph(described, mesh.compute_dtype(config.model.dtype), config.model.attention, config.model.remat)
    return climb(rung, config, described, graph, policy.params, groups, steps)


def run_each(argv: Sequence[str], rungs: int) -> list[dict[str, Any]]:
  """All rungs, each in a process of its own: so peak memory is the rung's."""
  lines = []
  for rung in range(1, rungs + 1):
    command = [sys.executable, "-m", "medjax", "bench", "ablate", *argv, f"--rung={rung}", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
      raise RunError(f"rung {rung} ended with exit code {done.returncode}")
    lines.append(json.loads(done.stdout))
  return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
  """A Markdown table of the rungs."""
  rows = ["| lever added | pairs/s | of the first | real tokens/s | padding | peak memory | loss: first, last |"]
  rows.append("|---|---|---|---|---|---|---|")
  for line in lines:
    faster = line["pairs_per_second"] / lines[0]["pairs_per_second"]
    losses = line["losses"]
    rows.append(
      f"| {line['rung']} | {line['pairs_per_second']:.3g} | {faster:.2f}x | {line['tokens_per_second']:,.0f} "
      f"| {100 * line['padded_share']:.0f} % | {line['peak_bytes'] / 1e9:.2f} GB "
      f"| {losses[0]:.6f}, {losses[min(map(len, (each['losses'] for each in lines))) - 1]:.6f} |"
    )
  return "\n".join(rows)


def climb(rung: Rung, config, described, graph, params, groups: Sequence[Segments], steps: int) -> dict[str, Any]:
  """Times `steps` steps of DPO as the rung has them, on one device.

  Args:
    rung: of `LADDER`.
    config: a validated run config; `preference` must be the plain DPO loss.
    described: the model's config.
    graph: the decoder.
    params: float32 weights to start from; donated.
    groups: pairs.
    steps: how many to time.

  Returns:
    `rung`, `pairs_per_second`, `tokens_per_second` (real tokens of the plain layout), `padded_share`, `step_seconds`,
    `steps`, `steps_undisturbed`, `peak_bytes`, and `losses` of all steps, those before the clock included.
  """
  known = np.stack(score(graph, params, groups, config.train.row_length, 1)) if rung.precomputed else None
  optimizer = make_optimizer(*optimizer_settings(config))
  reference = None if rung.precomputed else jax.tree.map(jnp.copy, params)
  current, compiled = state.create(params, optimizer), {}
  step_fn = jax.jit(_step(rung, config, graph, described.logit_softcap, optimizer), donate_argnums=0)
  batches = _Batches(rung, config, groups, known)
  clock, timed, losses, step = Clock(), [], [], 0
  while len(timed) < steps:
    members, batch = batches[step]
    shape = tuple(x.shape for x in batch)
    warm = shape in compiled and step >= 2
    if shape not in compiled:
      compiled[shape] = step_fn.lower(current, reference, batch).compile()
    current, loss = clock.time(compiled[shape], current, reference, batch, keep=warm)
    losses.append(float(loss))
    if warm:
      timed.append((members, batch))
    step += 1
    if step == _AHEAD:
      raise UserError(f"{steps} steps cannot be timed in {_AHEAD}; lower --steps")
  padded = [1 - sum(row_tokens(group, rung.shared) for group in groups) / batch.tokens.size for groups, batch in timed]
  return {
    "rung": rung.name,
    "pairs_per_second": clock.rate([len(members) for members, _ in timed]),
    "tokens_per_second": clock.rate([sum(map(plain_tokens, members)) for members, _ in timed]),
    "padded_share": float(np.mean(padded)),
    "step_seconds": clock.spread(),
    "steps": steps,
    "steps_undisturbed": sum(clock.undisturbed),
    "peak_bytes": peak_bytes(),
    "losses": losses,
  }


class _Batches:
  """The rows of each step. With `longest` and `buckets` rows 2i and 2i + 1 hold the two sequences of pair i."""

  def __init__(self, rung: Rung, config, groups: Sequence[Segments], known: np.ndarray | None):
    self._rung, self._groups = rung, groups
    # Which pairs a step has is the plan's choice on every rung.
    self._plan = Plan(
      *(groups, _AHEAD, config.seed, config.train.batch_size, config.train.row_length, 0, 1, TILE, known),
      shared=rung.shared,
    )
    self._longest = max(map(_longest, groups))

  def __getitem__(self, step: int) -> tuple[list[Segments], Batch]:
    members = [self._groups[index] for index in self._plan.indices(step)]
    if self._rung.rows == "packed":
      batches = self._plan[step].batches
      if batches.tokens.shape[0] > 1:
        raise UserError("the ablation packs a step into one row; raise train.row_length or lower train.batch_size")
      return members, Batch(*(x[0] for x in batches))
    apart = [Segments(group.id, group.prompt, (completion,)) for group in members for completion in group.completions]
    tokens = self._longest if self._rung.rows == "longest" else max(map(_longest, members))
    tokens = TILE // 2 * math.ceil(tokens / (TILE // 2)) if self._rung.rows == "buckets" else tokens
    rows = [[index] for index in range(len(apart))]
    shape = dataclasses.replace(shape_of(apart, rows), tokens=tokens)
    return members, fill_rows(apart, range(len(apart)), rows, shape, len(rows))


def _longest(group: Segments) -> int:
  return len(group.prompt) + max(map(len, group.completions)) - 1


def _step(rung: Rung, config, graph, softcap: float | None, optimizer: optax.GradientTransformation) -> Callable:
  rate, objective = config.optimizer.learning_rate, objective_of(config)

  def logp_BN(params, batch: Batch) -> Float[Array, "B N"]:
    hidden_BTD = bind(graph, params)(batch.tokens, Layout(batch.positions, batch.segments, batch.branches))
    head_VD = head_matrix(params)
    if rung.logits == "chunked":
      logps_BS = token_logps(hidden_BTD, head_VD, batch.source_index, batch.target_token, softcap=softcap)
    else:
      logps_BS = _whole_logps(hidden_BTD, head_VD, batch, rung.logits == "scored", softcap)
    return sequence_logps(logps_BS, batch)

  def loss(params, reference, batch: Batch) -> Sum:
    if reference is not None:
      batch = batch._replace(reference_logp=jax.lax.stop_gradient(logp_BN(reference, batch)))
    real_BN, length_BN = batch.example >= 0, sequence_logps(jnp.ones_like(batch.weight), batch)
    known = logp_BN(params, batch), batch.reference_logp, jnp.maximum(length_BN, 1.0), real_BN.astype(jnp.float32)
    # The two of a pair are beside each other in a row, or in two rows.
    (*chosen, real_P), (*rejected, _) = ([x.reshape(-1, 2)[:, place] for x in known] for place in (0, 1))
    return preference.loss_of_pairs(Answer(*chosen), Answer(*rejected), real_P, objective)[0]

  def step(current: state.TrainState, reference, batch: Batch):
    mean, grads = jax.value_and_grad(lambda params: loss(params, reference, batch).mean)(current.params)
    updates, moments = optimizer.update(grads, current.optimizer, current.params)
    params = jax.tree.map(lambda p, u: p - rate * u, current.params, updates)
    return state.TrainState(current.step + 1, params, moments), mean

  return step


def _whole_logps(hidden_BTD, head_VD, batch: Batch, scored_only: bool, softcap) -> Float[Array, "B S"]:
  """Log-probabilities by a softmax over the whole vocabulary at once, as most training code has it."""
  source_BS = batch.source_index
  if scored_only:
    hidden_BTD = jnp.take_along_axis(hidden_BTD, source_BS[..., None], axis=1)
    source_BS = jnp.broadcast_to(jnp.arange(source_BS.shape[1])[None, :], source_BS.shape)
  logits_BTV = product("BTD,VD->BTV", hidden_BTD, head_VD.astype(hidden_BTD.dtype), hidden_BTD.dtype)
  logits_BTV = soft_capped(logits_BTV.astype(jnp.float32), softcap)
  rows_B1 = jnp.arange(source_BS.shape[0])[:, None]
  logsumexp_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  return logits_BTV[rows_B1, source_BS, batch.target_token] - logsumexp_BT[rows_B1, source_BS]
