"""Hidden states -> log-probabilities of the scored tokens. The only place where training touches the vocabulary.

The vocabulary is projected a chunk at a time with a running log-sum-exp in float32, and projected again in the
backward pass: a (B, T, V) array never exists, and neither does a (B, S, V) one.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from medjax.arrays import Array
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
    head_VD: vocabulary projection; cast to the compute dtype.
    source_index_BS: where in its own row the hidden state of a scored token is.
    target_token_BS: the scored token.
    chunk: vocabulary entries projected at a time.
    softcap: of the logits, see `models.layers.soft_capped`.

  Returns:
    float32 [B, S]; what stands at unused slots is finite and without meaning.
  """
  hidden_BSD = jnp.take_along_axis(hidden_BTD, source_index_BS[..., None], axis=1)
  chunks = -(-head_VD.shape[0] // chunk)
  # Rows and slots as one axis: the gradient of the head then sums over one axis, which no backend needs a copy for.
  hidden_PD = hidden_BSD.reshape(-1, hidden_BSD.shape[-1])
  logps_P = _target_logps(hidden_PD, head_VD.astype(hidden_BTD.dtype), target_token_BS.reshape(-1), chunks, softcap)
  return logps_P.reshape(target_token_BS.shape)


def sequence_logps(logps_BS: Float[Array, "B S"], batch: Batch) -> Float[Array, "B N"]:
  """Sums of the scored tokens' log-probabilities over each sequence, float32."""
  N = batch.example.shape[-1]
  member_BSN = jax.nn.one_hot(batch.sequence_id, N, dtype=jnp.float32) * batch.weight[..., None]
  return jnp.einsum("BS,BSN->BN", logps_BS, member_BSN, precision=jax.lax.Precision.HIGHEST)


def policy_logps(
  graph: nnx.GraphDef, params: Params, batch: Batch, adapters: Adapters | None = Adapters()
) -> tuple[Float[Array, "B S"], Float[Array, "B N"]]:
  """Log-probabilities of a packed batch under the model: of each scored token, and summed over each sequence."""
  decoder, layout = bind(graph, params), Layout(batch.positions, batch.segments, batch.branches)
  hidden_BTD = decoder(batch.tokens, layout, adapters)
  softcap = decoder.config.logit_softcap
  logps_BS = token_logps(hidden_BTD, head_matrix(params), batch.source_index, batch.target_token, softcap=softcap)
  return logps_BS, sequence_logps(logps_BS, batch)


def _chunked(head_VD, chunks: int):
  """[chunks, V / chunks, D]. Entry v goes to chunk v % chunks: each chunk takes equally from every vocabulary shard."""
  V, D = head_VD.shape
  width = -(-V // chunks)
  padded = jnp.pad(head_VD, ((0, width * chunks - V), (0, 0))) if width * chunks != V else head_VD
  return padded.reshape(width, chunks, D).swapaxes(0, 1)


def _logits(hidden_PD, head_WD, chunk_index, chunks: int, V: int, softcap: float | None):
  """float32 logits of one chunk; -1e30 where the last entries are padding."""
  logits_PW = soft_capped(jnp.einsum("PD,WD->PW", hidden_PD, head_WD, preferred_element_type=jnp.float32), softcap)
  token_W = jnp.arange(head_WD.shape[0]) * chunks + chunk_index
  return jnp.where(token_W[None, :] < V, logits_PW, -1e30)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _target_logps(hidden_PD, head_VD, target_P, chunks, softcap):
  return _forward(hidden_PD, head_VD, target_P, chunks, softcap)[0]


def _forward(hidden_PD, head_VD, target_P, chunks, softcap):
  V = head_VD.shape[0]

  def step(carry, chunk):
    top_P, total_P, target_logit_P = carry
    index, head_WD = chunk[0], gather(chunk[1], "VD", chunk[1].dtype)
    logits_PW = _logits(hidden_PD, head_WD, index, chunks, V, softcap)
    new_top_P = jnp.maximum(top_P, logits_PW.max(axis=-1))
    total_P = total_P * jnp.exp(top_P - new_top_P) + jnp.exp(logits_PW - new_top_P[..., None]).sum(axis=-1)
    here_P = jnp.take_along_axis(logits_PW, (target_P // chunks)[..., None], axis=-1)[..., 0]
    target_logit_P = jnp.where(target_P % chunks == index, here_P, target_logit_P)
    return (new_top_P, total_P, target_logit_P), None

  start = (jnp.full(target_P.shape, -jnp.inf), jnp.zeros(target_P.shape), jnp.zeros(target_P.shape))
  (top_P, total_P, target_logit_P), _ = jax.lax.scan(step, start, (jnp.arange(chunks), _chunked(head_VD, chunks)))
  logsumexp_P = top_P + jnp.log(total_P)
  return target_logit_P - logsumexp_P, (hidden_PD, head_VD, target_P, logsumexp_P)


def _backward(chunks, softcap, residuals, gradient_P):
  """Gradient: d logp / d logit = [target] - softmax; projected back through the head, a chunk at a time."""
  hidden_PD, head_VD, target_P, logsumexp_P = residuals
  V, D = head_VD.shape
  dtype = hidden_PD.dtype

  def step(hidden_gradient_PD, chunk):
    index, head_WD = chunk[0], gather(chunk[1], "VD", chunk[1].dtype)
    logits_PW = _logits(hidden_PD, head_WD, index, chunks, V, softcap)
    probability_PW = jnp.exp(logits_PW - logsumexp_P[..., None])
    slot_P = jnp.where(target_P % chunks == index, target_P // chunks, -1)
    target_PW = slot_P[..., None] == jnp.arange(head_WD.shape[0])[None, :]
    logit_gradient_PW = gradient_P[..., None] * (target_PW - probability_PW)
    if softcap is not None:
      logit_gradient_PW *= 1.0 - jnp.square(jnp.maximum(logits_PW, -softcap) / softcap)
    logit_gradient_PW = logit_gradient_PW.astype(dtype)
    hidden_gradient_PD += jnp.einsum("PW,WD->PD", logit_gradient_PW, head_WD, preferred_element_type=jnp.float32)
    head_gradient_WD = jnp.einsum("PW,PD->WD", logit_gradient_PW, hidden_PD, preferred_element_type=jnp.float32)
    return hidden_gradient_PD, send_home(head_gradient_WD, "VD").astype(head_VD.dtype)

  hidden_gradient_PD, head_gradient_CWD = jax.lax.scan(
    step, jnp.zeros(hidden_PD.shape, jnp.float32), (jnp.arange(chunks), _chunked(head_VD, chunks))
  )
  head_gradient_VD = head_gradient_CWD.swapaxes(0, 1).reshape(-1, D)[:V]
  return hidden_gradient_PD.astype(dtype), head_gradient_VD, None


_target_logps.defvjp(_forward, _backward)
