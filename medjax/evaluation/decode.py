"""Jitted generation: one prefill, then one token at a time into a key-value cache, until every row has ended."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from medjax.arrays import Array
from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.decoder import Cache, Params, bind, empty_cache, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.sharding import BATCH, constrain
from medjax.models.views import Layout


class Progress(NamedTuple):
  """A generation under way; N is the most tokens it may add."""

  step: Int[Array, ""]
  cache: Cache
  hidden_BD: Float[Array, "B D"]
  written_BN: Int[Array, "B N"]
  ended_B: Bool[Array, "B"]
  key: Array


class Prompts(NamedTuple):
  """B prompts of up to T tokens in R packed rows: one on each device, with the prompts that it will continue.

  Attributes:
    tokens_RP: token ids.
    layout: what they are; a prompt is a segment.
    start_B: where in its row a prompt starts.
    mask_BT: 1 at the tokens of each prompt, were it in a row of its own.
  """

  tokens_RP: np.ndarray
  layout: Layout
  start_B: np.ndarray
  mask_BT: np.ndarray


def _prefill(decoder, config: ModelConfig, prompts: Prompts, extents_B, room: int, dtype):
  """(cache of a row for each prompt, with `room` free positions; the hidden state of each prompt's last token)."""
  (R, P), (B, T) = prompts.tokens_RP.shape, prompts.mask_BT.shape
  lengths_B, segments_RP = prompts.mask_BT.sum(axis=1), prompts.layout.segments
  extents_RP = jnp.take_along_axis(extents_B.reshape(R, -1), jnp.maximum(segments_RP - 1, 0), axis=1)
  # T positions more than needed, so that T of them can be taken from where the last prompt starts.
  packed = empty_cache(config, P + T, extents_RP, dtype)
  hidden_RPD, packed = decoder.extend(prompts.tokens_RP, prompts.layout, packed, jnp.int32(0))

  def apart(x_LRKEP, axis: int):
    """A row for each prompt: [L, B, ...]."""

    def of_prompt(x_LKEP, start):
      return jax.lax.dynamic_slice_in_dim(x_LKEP, start, T, axis=axis)

    of_row = jax.vmap(of_prompt, in_axes=(None, 0), out_axes=1)
    x_LRbKET = jax.vmap(of_row, in_axes=(1, 0), out_axes=1)(x_LRKEP, prompts.start_B.reshape(R, -1))
    x_LBKET = x_LRbKET.reshape(x_LRbKET.shape[0], B, *x_LRbKET.shape[3:])
    return jnp.pad(x_LBKET, [(0, room if at == axis + 1 else 0) for at in range(x_LBKET.ndim)])

  layout = Layout(*(jnp.pad(x, ((0, 0), (0, room))) for x in Layout.plain(prompts.mask_BT)))
  cache = Cache(apart(packed.k_LBKEC, 3), apart(packed.v_LBKCE, 2), layout, extents_B[:, None])
  last_Rb = (prompts.start_B + lengths_B - 1).reshape(R, -1)
  last_RbD = jnp.take_along_axis(hidden_RPD, jnp.maximum(last_Rb, 0)[..., None], axis=1)
  return cache, last_RbD.reshape(B, -1)


@functools.partial(jax.jit, static_argnames=("graph", "config", "dtype", "new_tokens", "greedy"))
def _generate(
  graph, params, prompts: Prompts, eos_E, temperature, top_p, key, limit, *, config, dtype, new_tokens, greedy
):
  """int32 [B, N] new tokens, -1 after the end of a row. `limit` <= N is how many are wanted."""
  decoder = bind(graph, params)
  head_VD = head_matrix(params).astype(dtype)
  B, T = prompts.mask_BT.shape
  lengths_B = prompts.mask_BT.sum(axis=1)
  cache, first_BD = _prefill(decoder, config, prompts, lengths_B + limit, new_tokens, dtype)

  def body(now: Progress) -> Progress:
    logits_BV = jnp.einsum("BD,VD->BV", now.hidden_BD, head_VD, preferred_element_type=jnp.float32)
    logits_BV = soft_capped(logits_BV, config.logit_softcap)
    key, draw = jax.random.split(now.key)
    chosen_B = jnp.argmax(logits_BV, axis=-1) if greedy else sample(draw, logits_BV, temperature, top_p)
    chosen_B = chosen_B.astype(jnp.int32)
    written_BN = now.written_BN.at[:, now.step].set(jnp.where(now.ended_B, -1, chosen_B))
    ended_B = now.ended_B | jnp.any(chosen_B[:, None] == eos_E[None, :], axis=1)
    ones_B1 = jnp.ones((B, 1), jnp.int32)
    place = Layout((lengths_B + now.step)[:, None], ones_B1, jnp.zeros_like(ones_B1))
    hidden_B1D, cache = decoder.extend(chosen_B[:, None], place, now.cache, T + now.step)
    return Progress(now.step + 1, cache, hidden_B1D[:, 0], written_BN, ended_B, key)

  unwritten_BN = jnp.full((B, new_tokens), -1, jnp.int32)
  start = Progress(jnp.int32(0), cache, first_BD, unwritten_BN, lengths_B == 0, key)
  ended = jax.lax.while_loop(lambda now: (now.step < limit) & ~now.ended_B.all(), body, start)
  return constrain(ended.written_BN, "--")  # whole in every process


def sample(key: Array, logits_BV: Float[Array, "B V"], temperature, top_p) -> Int[Array, "B"]:
  """Draws from softmax(logits / temperature) cut to its nucleus (Holtzman et al. 2020, arXiv 1904.09751, sec. 3.1).

  The nucleus is the smallest set of most likely tokens whose probabilities add up to at least `top_p`.
  """
  scaled_BV = logits_BV / temperature
  descending_BV = jnp.sort(scaled_BV, axis=-1)[:, ::-1]
  probability_BV = jax.nn.softmax(descending_BV, axis=-1)
  before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
  least_B1 = jnp.min(jnp.where(before_BV < top_p, descending_BV, jnp.inf), axis=-1, keepdims=True)
  return jax.random.categorical(key, jnp.where(scaled_BV >= least_B1, scaled_BV, -jnp.inf))


def generate(
  graph: nnx.GraphDef,
  params: Params,
  config: ModelConfig,
  dtype: str,
  prompts: Sequence[Sequence[int]],
  eos: Sequence[int],
  max_new_tokens: int,
  temperature: float = 0.0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
  advance: Callable[[int], None] = lambda prompts: None,
) -> list[list[int]]:
  """New tokens for each prompt, up to and without the first EOS.

  Prompts of like length are decoded together; the last batch is filled up with empty rows. Lengths are rounded up
  (`_bucket`), and a batch is padded to the longest prompt of all unless that more than doubles it: a further shape
  costs more to compile than the padding to compute. Equal prompts that follow one another are read once.

  Args:
    graph: the decoder.
    params: its parameters.
    config: its configuration.
    dtype: dtype of activations and cache.
    prompts: token ids.
    eos: ids that end a row.
    max_new_tokens: most tokens to add.
    temperature: 0 takes the most likely token.
    top_p: nucleus to sample from, in (0, 1].
    seed: of the sampling.
    batch_size: prompts decoded at once.
    advance: told how many prompts have just been done.

  Raises:
    UserError: an empty prompt, a prompt that leaves no room in the model's context, or sampling options out of range.
  """
  if temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
    raise UserError("temperature must be 0 or more, top_p in (0, 1], and max_new_tokens 1 or more")
  for index, prompt in enumerate(prompts):
    if not 0 < len(prompt) <= config.max_positions - max_new_tokens:
      raise UserError(
        f"prompt {index} has {len(prompt)} tokens; with max_new_tokens = {max_new_tokens} this model takes 1 to "
        f"{config.max_positions - max_new_tokens}; shorten the prompt or lower max_new_tokens"
      )
  order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
  rows = min(batch_size, len(prompts))
  longest = _bucket(max(map(len, prompts), default=1))
  batches = [order[start : start + rows] for start in range(0, len(order), max(rows, 1))]
  most = max((_most_in_a_row([prompts[index] for index in members], rows) for members in batches), default=0)
  answers: list[list[int]] = [[] for _ in prompts]
  for number, members in enumerate(batches):
    T = _bucket(max(len(prompts[index]) for index in members))
    T = longest if 2 * T >= longest else T
    written_BN = _generate(
      graph,
      params,
      _packed([prompts[index] for index in members], rows, T, most),
      np.asarray(eos, np.int32),
      np.float32(temperature or 1.0),
      np.float32(top_p),
      jax.random.fold_in(jax.random.key(seed), number),
      np.int32(max_new_tokens),
      config=config,
      dtype=dtype,
      new_tokens=_bucket(max_new_tokens),
      greedy=temperature == 0,
    )
    for index, row in zip(members, np.asarray(written_BN)[: len(members)].tolist(), strict=True):
      ends = (place for place, token in enumerate(row) if token == -1 or token in eos)
      answers[index] = row[: min(next(ends, len(row)), max_new_tokens)]
    advance(len(members))
  return answers


def _packed_rows(rows: int) -> int:
  """How many packed rows the prompts of `rows` rows lie in: one on each device that shares a batch."""
  mesh = jax.sharding.get_abstract_mesh()
  devices = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH)
  return devices if rows % devices == 0 else 1


def _added(prompts: Sequence[Sequence[int]], rows: int) -> list[int]:
  """Tokens that each prompt of a batch adds to its packed row: none where the one before it there is the same."""
  share = max(rows // _packed_rows(rows), 1)
  ids = [tuple(prompt) for prompt in prompts]
  return [0 if b % share and ids[b] == ids[b - 1] else len(ids[b]) for b in range(len(ids))]


def _most_in_a_row(prompts: Sequence[Sequence[int]], rows: int) -> int:
  """Tokens of the fullest packed row."""
  share, added = max(rows // _packed_rows(rows), 1), _added(prompts, rows)
  return max((sum(added[first : first + share]) for first in range(0, len(added), share)), default=0)


def _packed(prompts: Sequence[Sequence[int]], rows: int, T: int, most: int) -> Prompts:
  """The prompts of a batch, filled up with empty ones; rows as long as the longest batch needs, or as this one does.

  A prompt that stands several times in a row of prompts, to be sampled from, is there once and read once.
  """
  R = _packed_rows(rows)
  needed, longest = _bucket(_most_in_a_row(prompts, rows)), _bucket(most)
  P = longest if 2 * needed >= longest else needed
  tokens_RP, positions_RP, segments_RP = np.zeros((3, R, P), np.int32)
  start_B, mask_BT = np.zeros(rows, np.int32), np.zeros((rows, T), np.int32)
  at_R = [0] * R
  for b, (prompt, added) in enumerate(zip(prompts, _added(prompts, rows), strict=True)):
    r, segment = divmod(b, rows // R)
    mask_BT[b, : len(prompt)] = 1
    start_B[b] = at_R[r] if added else start_B[b - 1]
    if added:
      start, end = at_R[r], at_R[r] + added
      tokens_RP[r, start:end], positions_RP[r, start:end] = prompt, np.arange(added)
      segments_RP[r, start:end], at_R[r] = segment + 1, end
  return Prompts(tokens_RP, Layout(positions_RP, segments_RP, np.zeros_like(segments_RP)), start_B, mask_BT)


def _bucket(size: int) -> int:
  """The least bucket that holds `size`: multiples of 32 up to 256, then four for each doubling."""
  step = max(32, 2 ** (size.bit_length() - 1) // 4)
  return step * -(-size // step)
