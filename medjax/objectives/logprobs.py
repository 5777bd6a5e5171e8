"""Hidden states -> log-probabilities of the scored tokens. The only place where training touches the vocabulary.

The vocabulary is projected a chunk at a time with a running log-sum-exp in float32, and projected again in the
backward pass: a (B, T, V) array never exists, and neither does a (B, S, V) one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from medjax.arrays import Array, product
from medjax.data.packing import Batch
from medjax.models.decoder import Params, bind, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.lora import Adapters
from medjax.models.sharding import gather, send_home
from medjax.models.views import Layout

CHUNK = 8192  # vocabulary entries projected at a time


def token_logps(
  hidden_BTD: Float[Array, "B T D"],
  head_VD: Float[Array, "V D"],
  source_index_BS: Int[Array, "B S"],
  target_token_BS: Int[Array, "B S"],
  chunk: int = CHUNK,
  softcap: float | None = None,
) -> Float[Array, "B S"]:
  """Log-probability of each target token under the hidden state that predicts it.

  Args:
    hidden_BTD: final hidden states, in the compute dtype.
    head_VD: vocabulary projection, as it is stored; a chunk is cast to the compute dtype where it is used.
    source_index_BS: where in its own row the hidden state of a scored token is.
    target_token_BS: the scored token.
    chunk: vocabulary entries projected at a time.
    softcap: of the logits, see `models.layers.soft_capped`.

  Returns:
    float32 [B, S]; what stands at unused slots is finite and without meaning.
  """
  hidden_BSD = jnp.take_along_axis(hidden_BTD, source_index_BS[..., None], axis=1)
  chunks = _Chunks.of(head_VD.shape[0], chunk)
  # Rows and slots as one axis: the gradient of the head then sums over one axis, which no backend needs a copy for.
  hidden_PD = hidden_BSD.reshape(-1, hidden_BSD.shape[-1])
  logps_P = _target_logps(hidden_PD, head_VD, target_token_BS.reshape(-1), chunks, softcap)
  return logps_P.reshape(target_token_BS.shape)


def sequence_logps(logps_BS: Float[Array, "B S"], batch: Batch) -> Float[Array, "B N"]:
  """Sums of the scored tokens' log-probabilities, each times its weight, over each sequence, float32."""
  N = batch.example.shape[-1]
  member_BSN = jax.nn.one_hot(batch.sequence_id, N, dtype=jnp.float32) * batch.weight[..., None]
  return jnp.einsum("BS,BSN->BN", logps_BS, member_BSN, precision=jax.lax.Precision.HIGHEST)


def policy_logps(
  graph: nnx.GraphDef, params: Params, batch: Batch, adapters: Adapters | None = Adapters()
) -> tuple[Float[Array, "B S"], Float[Array, "B N"]]:
  """Log-probabilities of a packed batch under the model: of each scored token, and summed over each sequence."""
  decoder, layout = bind(graph, params), Layout(batch.positions, batch.segments, batch.branches)
  hidden_BTD = decoder(batch.tokens, layout, adapters, ahead=1)
  softcap = decoder.config.logit_softcap
  logps_BS = token_logps(hidden_BTD, head_matrix(params), batch.source_index, batch.target_token, softcap=softcap)
  return logps_BS, sequence_logps(logps_BS, batch)


class _Chunks(NamedTuple):
  """How the vocabulary is cut: `count` chunks, each of `width` entries of every piece that `tensor` keeps."""

  pieces: int
  count: int
  width: int

  @classmethod
  def of(cls, V: int, chunk: int) -> "_Chunks":
    mesh = jax.sharding.get_abstract_mesh()
    split = 1 if mesh.empty else mesh.shape["tensor"]
    pieces = split if V % split == 0 else 1
    width = -(-V // (pieces * -(-V // chunk)))
    return cls(pieces, -(-(V // pieces) // width), width)

  def start(self, index, V: int):
    """Where in its piece a chunk starts: the last one does earlier, to be as wide as the others."""
    return jnp.minimum(index * self.width, V // self.pieces - self.width)

  def slots(self, index, V: int):
    """[W] the vocabulary entry in each slot of a chunk, and whether an earlier chunk has not had it."""
    in_piece_W = self.start(index, V) + jnp.arange(self.width)
    entry_NW = V // self.pieces * jnp.arange(self.pieces)[:, None] + in_piece_W[None, :]
    return entry_NW.reshape(-1), jnp.tile(in_piece_W >= index * self.width, self.pieces)

  def take(self, head_VD, index, dtype):
    """[W, D], a chunk where it is used, in the compute dtype."""
    V, D = head_VD.shape
    head_NVD = head_VD.reshape(self.pieces, V // self.pieces, D)
    head_NWD = jax.lax.dynamic_slice_in_dim(head_NVD, self.start(index, V), self.width, axis=1)
    return gather(head_NWD.reshape(-1, D), "VD", dtype)

  def put(self, gradient_VD, found_WD, index):
    """Writes the gradient of a chunk; what an earlier chunk has had stays."""
    V, D = gradient_VD.shape
    gradient_NVD = gradient_VD.reshape(self.pieces, V // self.pieces, D)
    found_NWD = send_home(found_WD, "VD").astype(gradient_VD.dtype).reshape(self.pieces, self.width, D)
    start = self.start(index, V)
    if V // self.pieces % self.width:
      known_NWD = jax.lax.dynamic_slice_in_dim(gradient_NVD, start, self.width, axis=1)
      had_W = start + jnp.arange(self.width) < index * self.width
      found_NWD = jnp.where(had_W[:, None], known_NWD, found_NWD)
    return jax.lax.dynamic_update_slice_in_dim(gradient_NVD, found_NWD, start, axis=1).reshape(V, D)


def _logits(hidden_PD, head_WD, new_W, softcap: float | None):
  """float32 logits of one chunk; -1e30 where an earlier chunk has had the entry."""
  logits_PW = soft_capped(product("PD,WD->PW", hidden_PD, head_WD), softcap)
  return jnp.where(new_W[None, :], logits_PW, -1e30)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _target_logps(hidden_PD, head_VD, target_P, chunks, softcap):
  return _forward(hidden_PD, head_VD, target_P, chunks, softcap)[0]


def _forward(hidden_PD, head_VD, target_P, chunks, softcap):
  V = head_VD.shape[0]

  def add_chunk(index, carry):
    top_P, total_P, target_logit_P = carry
    entry_W, new_W = chunks.slots(index, V)
    logits_PW = _logits(hidden_PD, chunks.take(head_VD, index, hidden_PD.dtype), new_W, softcap)
    new_top_P = jnp.maximum(top_P, logits_PW.max(axis=-1))
    total_P = total_P * jnp.exp(top_P - new_top_P) + jnp.exp(logits_PW - new_top_P[:, None]).sum(axis=-1)
    here_PW = (target_P[:, None] == entry_W[None, :]) & new_W[None, :]
    return new_top_P, total_P, target_logit_P + jnp.where(here_PW, logits_PW, 0.0).sum(axis=-1)

  start = jnp.full(target_P.shape, -jnp.inf), jnp.zeros(target_P.shape), jnp.zeros(target_P.shape)
  top_P, total_P, target_logit_P = jax.lax.fori_loop(0, chunks.count, add_chunk, start)
  logsumexp_P = top_P + jnp.log(total_P)
  return target_logit_P - logsumexp_P, (hidden_PD, head_VD, target_P, logsumexp_P)


def _backward(chunks, softcap, residuals, gradient_P):
  """Gradient: d logp / d logit = [target] - softmax; projected back through the head, a chunk at a time."""
  hidden_PD, head_VD, target_P, logsumexp_P = residuals
  V, dtype = head_VD.shape[0], hidden_PD.dtype

  def add_chunk(index, carry):
    hidden_gradient_PD, head_gradient_VD = carry
    entry_W, new_W = chunks.slots(index, V)
    head_WD = chunks.take(head_VD, index, dtype)
    logits_PW = _logits(hidden_PD, head_WD, new_W, softcap)
    probability_PW = jnp.exp(logits_PW - logsumexp_P[:, None])
    logit_gradient_PW = gradient_P[:, None] * ((target_P[:, None] == entry_W[None, :]) - probability_PW)
    if softcap is not None:
      logit_gradient_PW *= 1.0 - jnp.square(jnp.maximum(logits_PW, -softcap) / softcap)
    logit_gradient_PW = jnp.where(new_W[None, :], logit_gradient_PW, 0.0).astype(dtype)
    hidden_gradient_PD += product("PW,WD->PD", logit_gradient_PW, head_WD)
    found_WD = product("PW,PD->WD", logit_gradient_PW, hidden_PD)
    return hidden_gradient_PD, chunks.put(head_gradient_VD, found_WD, index)

  start = jnp.zeros(hidden_PD.shape, jnp.float32), send_home(jnp.zeros(head_VD.shape, head_VD.dtype), "VD")
  hidden_gradient_PD, head_gradient_VD = jax.lax.fori_loop(0, chunks.count, add_chunk, start)
  return hidden_gradient_PD.astype(dtype), head_gradient_VD, None


_target_logps.defvjp(_forward, _backward)
