"""Jitted generation in slots that are refilled: prompts are read into free slots, all slots go on token by token.

A batch of fixed sequences waits for its longest answer. Here each slot whose answer has ended takes the next prompt
(iteration-level scheduling: Yu et al. 2022, Orca, OSDI), in arrays of fixed shapes. The cache of a slot has T columns
for its prompt and N for its answer, N being the most tokens of one. These N are written in turn, over and over, the
same column in all slots at a step: no answer is longer than a turn, so it never meets its own beginning, and where its
tokens stand among the columns does not matter, since the mask goes by positions.
"""

import collections
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int

from medjax.arrays import Array, product
from medjax.errors import UserError
from medjax.models.config import ModelConfig
from medjax.models.decoder import Cache, Params, bind, empty_cache, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.sharding import BATCH, activation_spec, constrain
from medjax.models.views import Layout

_STEPS_BETWEEN_LOOKS = 16  # at what has been written, where answers may end by more than their tokens


class Slots(NamedTuple):
  """B sequences under way.

  Attributes:
    cache: of T + N columns.
    hidden_BD: of each slot's last token.
    written_BN: the tokens of each answer, as many as `count_B` says.
    count_B: how many there are, without EOS.
    ended_B: whether the answer has ended.
    step: how many steps have been taken; step mod N is the column of the answers that is written next.
  """

  cache: Cache
  hidden_BD: Float[Array, "B D"]
  written_BN: Int[Array, "B N"]
  count_B: Int[Array, "B"]
  ended_B: Bool[Array, "B"]
  step: Int[Array, ""]


class Prompts(NamedTuple):
  """Prompts for some of the B slots, in R packed rows: one on each device, with the prompts of its own B / R slots.

  Attributes:
    tokens_RP: token ids.
    layout: what they are; a prompt is a segment.
    extents_RP: how many tokens the sequence of each token may come to.
    slots_Rb: slots of each device that get a prompt, counted from its first; then any.
    count_R: how many of them do.
    start_B: where in its row the prompt of a slot starts.
    length_B: how long it is; 0 for a slot that gets none.
  """

  tokens_RP: np.ndarray
  layout: Layout
  extents_RP: np.ndarray
  slots_Rb: np.ndarray
  count_R: np.ndarray
  start_B: np.ndarray
  length_B: np.ndarray


class Drawing(NamedTuple):
  """How the tokens of B slots are chosen; a token depends on `key`, its slot's name, and its place in the answer."""

  key: Array
  names_B2: np.ndarray
  temperature: np.float32
  top_p: np.float32


# ---- On the devices. Each function has one shape, or two, for all prompts of like length. ---------------------------


@functools.partial(jax.jit, static_argnames=("config", "dtype", "B", "T", "N"))
def _empty(*, config, dtype, B, T, N) -> Slots:
  cache = empty_cache(config, T + N, jnp.zeros((B, 1), jnp.int32), dtype)
  none_B = jnp.zeros(B, jnp.int32)
  hidden_BD, written_BN = jnp.zeros((B, config.width), dtype), jnp.zeros((B, N), jnp.int32)
  return _placed(Slots(cache, hidden_BD, written_BN, none_B, none_B == 0, jnp.int32(0)))


def _placed(slots: Slots) -> Slots:
  """Slots are split over the devices; what the host looks at is whole in every process."""
  return jax.tree.map(constrain, slots, _slot_letters(slots))


def _slot_letters(slots: Slots) -> Slots:
  cache = Cache("-BK--", "-BK--", Layout("B-", "B-", "B-"), "B-")
  return Slots(cache, "B-", *("-" * x.ndim for x in slots[2:]))


@functools.partial(jax.jit, static_argnames=("graph", "config", "dtype"), donate_argnames="slots")
def _fill(graph, params, slots: Slots, prompts: Prompts, limit, *, config, dtype) -> Slots:
  """Reads prompts and puts them into their slots, for answers of up to `limit` tokens."""
  (R, P), (B, N) = prompts.tokens_RP.shape, slots.written_BN.shape
  T = slots.cache.k_LBKEC.shape[-1] - N
  # T positions more than needed, so that T of them can be taken from where the last prompt starts.
  packed = empty_cache(config, P + T, prompts.extents_RP, dtype)
  hidden_RPD, packed = bind(graph, params).extend(prompts.tokens_RP, prompts.layout, packed, jnp.int32(0))
  k_LBKEC, v_LBKCE = _copied(slots.cache, packed, prompts, T)

  filled_B, length_B = prompts.length_B > 0, prompts.length_B
  mask_BC = jnp.arange(T + N)[None] < length_B[:, None]
  fresh = Layout.plain(mask_BC)
  layout = Layout(*(jnp.where(filled_B[:, None], x, old) for x, old in zip(fresh, slots.cache.layout, strict=True)))
  extents_BX = jnp.where(filled_B[:, None], length_B[:, None] + limit, slots.cache.extents_BX)
  last_Rb = jnp.maximum(prompts.start_B + length_B - 1, 0).reshape(R, -1)
  last_BD = jnp.take_along_axis(hidden_RPD, last_Rb[..., None], axis=1).reshape(B, -1)
  hidden_BD = jnp.where(filled_B[:, None], last_BD, slots.hidden_BD)
  cache = Cache(k_LBKEC, v_LBKCE, layout, extents_BX)
  count_B, ended_B = jnp.where(filled_B, 0, slots.count_B), slots.ended_B & ~filled_B
  return _placed(slots._replace(cache=cache, hidden_BD=hidden_BD, count_B=count_B, ended_B=ended_B))


def _copied(cache: Cache, packed: Cache, prompts: Prompts, T: int):
  """Keys and values of a cache with those of the packed prompts in their slots; each device copies its own."""

  def copy(k_LBKEC, v_LBKCE, k_LRKEP, v_LRKPE, slots_Rb, count_R, start_B):
    def one(index, cached):
      slot = slots_Rb[0, index]
      start = start_B[slot]
      k_LRKET = jax.lax.dynamic_slice_in_dim(k_LRKEP, start, T, axis=4)
      v_LRKTE = jax.lax.dynamic_slice_in_dim(v_LRKPE, start, T, axis=3)
      return tuple(
        jax.lax.dynamic_update_slice(old, new, (0, slot, 0, 0, 0))
        for old, new in zip(cached, (k_LRKET, v_LRKTE), strict=True)
      )

    return jax.lax.fori_loop(0, count_R[0], one, (k_LBKEC, v_LBKCE))

  arrays = *cache[:2], *packed[:2], *(jnp.asarray(x) for x in (prompts.slots_Rb, prompts.count_R, prompts.start_B))
  if jax.sharding.get_abstract_mesh().empty:
    return copy(*arrays)
  specs = tuple(map(activation_spec, arrays, ("-BK--", "-BK--", "-BK--", "-BK--", "B-", "B", "B")))
  return jax.shard_map(copy, in_specs=specs, out_specs=specs[:2], check_vma=False)(*arrays)


@functools.partial(jax.jit, static_argnames=("graph", "config", "dtype", "greedy"), donate_argnames="slots")
def _decode(
  graph, params, slots: Slots, lengths_B, free_B, eos_E, drawing: Drawing, limit, until, steps, *, config, dtype, greedy
) -> Slots:
  """Goes on until `until` slots have ended or are free, or `steps` tokens have been added."""
  decoder = bind(graph, params)
  head_VD = head_matrix(params).astype(dtype)
  B, N = slots.written_BN.shape
  T = slots.cache.k_LBKEC.shape[-1] - N
  ones_B1 = jnp.ones((B, 1), jnp.int32)
  fold = jax.vmap(jax.random.fold_in)
  keys_B = fold(fold(jnp.broadcast_to(drawing.key, B), drawing.names_B2[:, 0]), drawing.names_B2[:, 1])

  def body(taken_and_slots):
    taken, now = taken_and_slots
    logits_BV = product("BD,VD->BV", now.hidden_BD, head_VD)
    logits_BV = soft_capped(logits_BV, config.logit_softcap)
    if greedy:
      chosen_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    else:
      chosen_B = sample(fold(keys_B, now.count_B), logits_BV, drawing.temperature, drawing.top_p).astype(jnp.int32)
    is_next_BN = jnp.arange(N)[None] == jnp.where(now.ended_B, N, now.count_B)[:, None]
    written_BN = jnp.where(is_next_BN, chosen_B[:, None], now.written_BN)
    ended_B = now.ended_B | jnp.any(chosen_B[:, None] == eos_E[None], axis=1)
    count_B = now.count_B + ~ended_B
    place = Layout((lengths_B + now.count_B)[:, None], ones_B1, jnp.zeros_like(ones_B1))
    hidden_B1D, cache = decoder.extend(chosen_B[:, None], place, now.cache, T + now.step % N)
    return taken + 1, Slots(cache, hidden_B1D[:, 0], written_BN, count_B, ended_B | (count_B >= limit), now.step + 1)

  def goes_on(taken_and_slots):
    taken, now = taken_and_slots
    return (taken < steps) & (now.ended_B.sum() < until)

  start = slots._replace(ended_B=slots.ended_B | free_B)
  return _placed(jax.lax.while_loop(goes_on, body, (jnp.int32(0), start))[1])


def sample(keys_B: Array, logits_BV: Float[Array, "B V"], temperature, top_p) -> Int[Array, "B"]:
  """Draws from softmax(logits / temperature) cut to its nucleus (Holtzman et al. 2020, arXiv 1904.09751, sec. 3.1).

  The nucleus is the smallest set of most likely tokens whose probabilities add up to at least `top_p`.

  Args:
    keys_B: a key for each row, so that a draw does not depend on the rows beside it.
    logits_BV: unnormalised log-probabilities.
    temperature: above 0.
    top_p: in (0, 1].
  """

  def nucleus(scaled_BV):
    scaled_BV = constrain(scaled_BV, "N-")  # each device sorts whole rows, and no other device's
    descending_BV = jnp.sort(scaled_BV, axis=-1)[:, ::-1]
    probability_BV = jax.nn.softmax(descending_BV, axis=-1)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    least_B1 = jnp.min(jnp.where(before_BV < top_p, descending_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scaled_BV >= least_B1, scaled_BV, -jnp.inf)

  # Where all of the vocabulary is kept, it is not sorted at each step.
  kept_BV = jax.lax.cond(top_p < 1, nucleus, lambda scaled_BV: scaled_BV, logits_BV / temperature)
  return jax.vmap(jax.random.categorical)(keys_B, kept_BV)


# ---- On the host ----------------------------------------------------------------------------------------------------


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
  names: Sequence[tuple[int, int]] | None = None,
  end_of: Callable[[Sequence[int]], int | None] | None = None,
) -> list[list[int]]:
  """New tokens for each prompt, up to and without the first EOS.

  Longer prompts come first. Slots are refilled once a quarter of them are free, so that prompts are read several at a
  time; equal prompts that follow one another are read once where they come into slots of one device together. What is
  generated for a prompt does not depend on the other prompts, but for the rounding of sums whose shapes differ.

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
    batch_size: slots, rounded up to a multiple of the devices that share them.
    advance: told how many prompts have just been done.
    names: two numbers below 2^32 for each prompt, which with the seed decide what is drawn for it; None: its index
      and 0.
    end_of: told the tokens of an answer so far, says how many of them are all of it, None where it goes on.

  Raises:
    UserError: an empty prompt, a prompt that leaves no room in the model's context, or sampling options out of range.
  """
  if batch_size < 1:
    raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
  _check(prompts, config, max_new_tokens, temperature, top_p)
  eos_E, limit, N = np.asarray(eos, np.int32), np.int32(max_new_tokens), _bucket(max_new_tokens)
  names = names or [(index, 0) for index in range(len(prompts))]
  key, scaling = jax.random.key(seed), (np.float32(temperature or 1.0), np.float32(top_p))
  answers: list[list[int]] = [[] for _ in prompts]
  devices = _devices()
  for T, members in _pools(prompts, batch_size):
    B = devices * -(-min(batch_size, len(members)) // devices)
    quarter = max(B // 4, 1)
    waiting, room = collections.deque(members), _room(prompts, members, B // devices)
    slots = _empty(config=config, dtype=dtype, B=B, T=T, N=N)
    held: list[int | None] = [None] * B
    while waiting or any(index is not None for index in held):
      while waiting and held.count(None) >= min(quarter, len(waiting)):
        packed = _packed(prompts, waiting, held, devices, room, max_new_tokens)
        slots = _fill(graph, params, slots, packed, limit, config=config, dtype=dtype)
      known = [index or 0 for index in held]
      names_B2 = np.array([names[index] for index in known], np.uint32)
      slots = _decode(
        *(graph, params, slots, np.array([len(prompts[index]) for index in known], np.int32)),
        *(np.array([index is None for index in held]), eos_E, Drawing(key, names_B2, *scaling), limit),
        *(np.int32(min(quarter, len(waiting)) or B), np.int32(_STEPS_BETWEEN_LOOKS if end_of else N)),
        **dict(config=config, dtype=dtype, greedy=temperature == 0),
      )
      written_BN, count_B, ended_B = map(np.asarray, slots[2:5])
      done = 0
      for b, index in enumerate(held):
        if index is None:
          continue
        tokens = written_BN[b, : count_B[b]].tolist()
        end = end_of(tokens) if end_of else None
        if end is not None or ended_B[b]:
          answers[index], held[b] = tokens[:end], None
          done += 1
      advance(done)
    del slots  # before others are made
  return answers


def lower(
  graph: nnx.GraphDef,
  params: Params,
  config: ModelConfig,
  dtype: str,
  devices: jax.sharding.Mesh,
  rows: int,
  prompt: int,
  new: int,
) -> tuple[jax.stages.Lowered, jax.stages.Lowered, Cache]:
  """The programs of `generate` for the devices of the mesh in use, which need not be here: no array is made.

  Args:
    graph: the decoder.
    params: ShapeDtypeStructs of its parameters, with shardings.
    config: its configuration.
    dtype: dtype of activations and cache.
    devices: the mesh.
    rows: slots.
    prompt: tokens of each prompt.
    new: tokens of each answer.

  Returns:
    The program that reads prompts into a quarter of the slots, the one that goes on token by token, and the cache.
  """
  B, T, N, R = rows, _bucket(prompt), _bucket(new), _devices()
  P = _bucket(max(B // R // 4, 1) * prompt)

  def shape(sizes: tuple[int, ...], dtype: Any = np.int32, spec: PartitionSpec = PartitionSpec()):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(devices, spec))

  slots = jax.eval_shape(functools.partial(_empty, config=config, dtype=dtype, B=B, T=T, N=N))
  slots = jax.tree.map(lambda x, to: shape(x.shape, x.dtype, activation_spec(x, to)), slots, _slot_letters(slots))
  tokens_RP, number = shape((R, P)), shape(())
  layout = Layout(tokens_RP, tokens_RP, tokens_RP)
  packed = Prompts(tokens_RP, layout, tokens_RP, shape((R, B // R)), shape((R,)), shape((B,)), shape((B,)))
  key = shape((), jax.eval_shape(jax.random.key, 0).dtype)
  drawing = Drawing(key, shape((B, 2), np.uint32), *(shape((), np.float32),) * 2)
  filling = _fill.lower(graph, params, slots, packed, number, config=config, dtype=dtype)
  arguments = shape((B,)), shape((B,), np.bool_), shape((1,)), drawing, number, number, number
  return filling, _decode.lower(graph, params, slots, *arguments, config=config, dtype=dtype, greedy=True), slots.cache


def _check(prompts, config: ModelConfig, max_new_tokens: int, temperature: float, top_p: float) -> None:
  if temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
    raise UserError("temperature must be 0 or more, top_p in (0, 1], and max_new_tokens 1 or more")
  for index, prompt in enumerate(prompts):
    if not 0 < len(prompt) <= config.max_positions - max_new_tokens:
      raise UserError(
        f"prompt {index} has {len(prompt)} tokens; with max_new_tokens = {max_new_tokens} this model takes 1 to "
        f"{config.max_positions - max_new_tokens}; shorten the prompt or lower max_new_tokens"
      )


def _devices() -> int:
  """How many devices of the mesh in use share the slots."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH)


def _pools(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[tuple[int, list[int]]]:
  """(room for a prompt, prompts) of those that go through the same slots, the longest first.

  Prompts of less than half the room get slots of their own, if they are enough to fill them: a further shape costs more
  to compile than a little padding to compute.
  """
  left = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
  while left:
    T = _bucket(len(prompts[left[0]]))
    count = max(sum(2 * _bucket(len(prompts[index])) >= T for index in left), batch_size)
    count = len(left) if len(left) - count < batch_size else count
    yield T, left[:count]
    left = left[count:]


def _room(prompts: Sequence[Sequence[int]], members: Sequence[int], slots: int) -> int:
  """Tokens of a packed row: room for the prompts of a quarter of a device's slots, whichever follow one another."""
  size = max(slots // 4, 1)
  ids = [tuple(prompts[index]) for index in members]
  added = [len(ids[0]), *(len(b) if a != b else 0 for a, b in zip(ids, ids[1:], strict=False))]
  summed = np.cumsum([0, *added])
  starts = range(max(len(ids) - size, 0) + 1)
  return _bucket(max(int(summed[min(at + size, len(ids))] - summed[at]) - added[at] + len(ids[at]) for at in starts))


def _packed(
  prompts: Sequence[Sequence[int]],
  waiting: collections.deque[int],
  held: list[int | None],
  devices: int,
  room: int,
  max_new_tokens: int,
) -> Prompts:
  """Takes prompts from those that wait, as many as fit, for free slots; `held` then says which are where.

  Rows are as long as `room`, or half of that where it is enough.
  """
  B, of_device = len(held), len(held) // devices
  tokens_RP, positions_RP, segments_RP, extents_RP = np.zeros((4, devices, room), np.int32)
  slots_Rb, count_R = np.zeros((devices, of_device), np.int32), np.zeros(devices, np.int32)
  start_B, length_B = np.zeros((2, B), np.int32)
  longest = 0
  for r in range(devices):
    end, segment, before = 0, 0, None
    for slot in range(of_device):
      if held[b := r * of_device + slot] is not None or not waiting:
        continue
      prompt = tuple(prompts[waiting[0]])
      if prompt != before:
        if end + len(prompt) > room:
          break
        start, end, segment, before = end, end + len(prompt), segment + 1, prompt
        tokens_RP[r, start:end], positions_RP[r, start:end] = prompt, np.arange(len(prompt))
        segments_RP[r, start:end], extents_RP[r, start:end] = segment, len(prompt) + max_new_tokens
      held[b], start_B[b], length_B[b] = waiting.popleft(), start, len(prompt)
      slots_Rb[r, count_R[r]] = slot
      count_R[r] += 1
    longest = max(longest, end)
  half = _bucket(room // 2)
  P = half if longest <= half else room
  layout = Layout(positions_RP[:, :P], segments_RP[:, :P], np.zeros((devices, P), np.int32))
  return Prompts(tokens_RP[:, :P], layout, extents_RP[:, :P], slots_Rb, count_R, start_B, length_B)


def _bucket(size: int) -> int:
  """The least bucket that holds `size`: multiples of 32 up to 256, then four for each doubling."""
  step = max(32, 2 ** (size.bit_length() - 1) // 4)
  return step * -(-size // step)
