"""Generation with a cache against repeated full forwards; sampling against the distribution it draws from."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
import soak

from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.models.decoder import head_matrix
from medjax.training import mesh

LENGTHS = (5, 1, 30, 12, 2, 33, 20)


def prompts():
  draw = np.random.default_rng(7)
  return [draw.integers(0, 64, length).tolist() for length in LENGTHS]


@functools.cache
def last_logits(config):
  """(tokens_BT, mask_BT) -> logits of the last token of the first row, through a full forward without a cache."""
  graph, params = packed.decoder(config)

  @jax.jit
  def logits(tokens_BT, mask_BT):
    hidden_BTD = packed.plain_hidden(graph, params, tokens_BT, mask_BT)
    return head_matrix(params) @ hidden_BTD[0, mask_BT.sum() - 1]

  return logits


def one_at_a_time(config, prompt, count):
  """Greedy tokens, and how clearly each was the first."""
  ids, clear = list(prompt), []
  for _ in range(count):
    tokens_BT = np.zeros((1, 64), np.int32)
    tokens_BT[0, : len(ids)] = ids
    logits_V = np.asarray(last_logits(config)(tokens_BT, (np.arange(64) < len(ids))[None].astype(np.int32)))
    second, first = np.sort(logits_V)[-2:]
    clear.append(first - second)
    ids.append(int(logits_V.argmax()))
  return ids[len(prompt) :], min(clear)


def generate(config, texts, count, eos=(), **more):
  graph, params = packed.decoder(config)
  return decode.generate(graph, params, config, "float32", texts, eos, count, **more)


@pytest.mark.parametrize("config", [packed.CONFIG, packed.WINDOW], ids=["full", "window"])
def test_greedy_equals_full_forwards(config):
  """Several batches of unequal lengths; the window (4) is shorter than prompts and answers."""
  with jax.default_matmul_precision("highest"):
    wanted = [one_at_a_time(config, prompt, 11) for prompt in prompts()]
    done = []
    got = generate(config, prompts(), 11, batch_size=4, advance=done.append)
  assert min(clear for _, clear in wanted) > 1e-3, "no ties that rounding could decide"
  assert len({tuple(ids) for ids, _ in wanted}) == len(LENGTHS)
  assert got == [ids for ids, _ in wanted]
  assert done == [4, 3]


@pytest.mark.parametrize("batch_size", soak.some([6, 4, 8], 1))
def test_a_mesh_gives_the_same_answers(batch_size):
  """With 4 and 8 prompts at once each device packs its own, with 6 they do not divide."""
  with jax.default_matmul_precision("highest"):
    alone = generate(packed.CONFIG, prompts(), 9)
    with jax.set_mesh(mesh.make_mesh({"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1})):
      assert generate(packed.CONFIG, prompts(), 9, batch_size=batch_size) == alone


@pytest.mark.parametrize("axes", soak.some([{"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}, {}], 1))
def test_a_prompt_that_is_there_several_times_is_read_once(axes):
  """Three copies of each, in batches and packed rows that split some of them; 30 + 33 tokens are not 90 + 99."""
  copies = [prompt for prompt in prompts() for _ in range(3)]
  with jax.default_matmul_precision("highest"):
    alone = generate(packed.CONFIG, prompts(), 9)
    with jax.set_mesh(mesh.make_mesh(axes or {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1})):
      got = generate(packed.CONFIG, copies, 9, batch_size=8)
  assert got == [answer for answer in alone for _ in range(3)]
  held = [None] * 6
  twins, waiting = [[1] * 33] * 3 + [[2] * 30] * 4, collections.deque(range(7))
  made = decode._packed(twins, waiting, held, 1, 64, 9)
  assert made.tokens_RP.shape == (1, 64) and np.count_nonzero(made.tokens_RP) == 63
  assert made.start_B.tolist() == [0, 0, 0, 33, 33, 33] and held == [0, 1, 2, 3, 4, 5] and list(waiting) == [6]


def test_ends_before_eos():
  free = generate(packed.CONFIG, prompts(), 16)
  ends = {free[0][3], free[2][0]}
  wanted = []
  for row in free:
    cut = next((place for place, token in enumerate(row) if token in ends), len(row))
    wanted.append(row[:cut])
  assert wanted[2] == [] and 0 < len(wanted[0]) <= 3 and max(map(len, wanted)) == 16
  assert generate(packed.CONFIG, prompts(), 16, eos=tuple(ends)) == wanted


def steps_of(monkeypatch):
  """Steps of each call of the loop on the devices, as they are taken."""
  taken, real = [], decode._decode

  def counting(graph, params, slots, *arguments, **settings):
    before = int(slots.step)
    slots = real(graph, params, slots, *arguments, **settings)
    taken.append(int(slots.step) - before)
    return slots

  monkeypatch.setattr(decode, "_decode", counting)
  return taken


@pytest.mark.parametrize("config", soak.some([packed.WINDOW, packed.CONFIG], 1))
def test_slots_are_refilled_before_the_longest_answer_has_ended(config, monkeypatch):
  """Eight slots and sixty answers, most short and some as long as may be; the columns are written several times."""
  draw = np.random.default_rng(0)
  texts = [draw.integers(0, 64, length).tolist() for length in draw.integers(1, 30, 60)]
  taken = steps_of(monkeypatch)
  with jax.default_matmul_precision("highest"):
    free = generate(config, texts, 32, batch_size=60)
    ends = (3, 9, 27, 41)
    wanted = [row[: next((place for place, token in enumerate(row) if token in ends), 32)] for row in free]
    taken.clear()
    assert generate(config, texts, 32, eos=ends, batch_size=8) == wanted
  lengths = [min(len(row) + 1, 32) for row in wanted]
  order = sorted(range(60), key=lambda index: -len(texts[index]))
  waiting = sum(max(lengths[index] for index in order[start : start + 8]) for start in range(0, 60, 8))
  assert sum(taken) < 0.8 * waiting, "batches that wait for their longest answer"
  assert sum(taken) < sum(lengths) / 8 + 1.5 * 32, "no more than slots that are never free, but for the end"
  assert sum(taken) > 3 * 32 and min(lengths) == 1


def test_prompts_of_like_length_share_programs():
  """Thirty long and thirty short prompts: two sizes of slots; refills have one of two sizes for each."""
  draw = np.random.default_rng(1)
  texts = [
    draw.integers(0, 64, length).tolist() for length in [*draw.integers(180, 200, 30), *draw.integers(1, 30, 30)]
  ]
  config = dataclasses.replace(packed.CONFIG, max_positions=256)
  decode._fill.clear_cache(), decode._decode.clear_cache()
  with jax.default_matmul_precision("highest"):
    got = generate(config, texts, 7, eos=(3, 9), batch_size=8)
    sizes = decode._fill._cache_size(), decode._decode._cache_size()
    assert got[:30] == generate(config, texts[:30], 7, eos=(3, 9), batch_size=30)
    assert got[30:] == generate(config, texts[30:], 7, eos=(3, 9), batch_size=1)
  assert sizes[0] <= 4 and sizes[1] == 2


def test_an_answer_ends_where_it_is_said_to(monkeypatch):
  """Ends that no token tells: the second time that a token is below 8; looked for between steps, and not run past."""

  def end_of(tokens):
    places = [place for place, token in enumerate(tokens) if token < 8]
    return places[1] if len(places) > 1 else None

  with jax.default_matmul_precision("highest"):
    free = generate(packed.CONFIG, prompts(), 31)
    taken = steps_of(monkeypatch)
    got = generate(packed.CONFIG, prompts(), 31, batch_size=2, end_of=end_of)
  assert got == [row[: end_of(row)] for row in free]
  assert len(set(map(len, got))) > 3 and max(taken) <= decode._STEPS_BETWEEN_LOOKS


def test_fewer_tokens_are_a_prefix_of_more():
  long = generate(packed.CONFIG, prompts(), 16)
  assert generate(packed.CONFIG, prompts(), 3) == [row[:3] for row in long]


def frequencies(logits_V, temperature, top_p, draws=20000):
  logits_BV = jnp.tile(jnp.asarray(logits_V, jnp.float32), (draws, 1))
  drawn_B = jax.jit(decode.sample)(jax.random.split(jax.random.key(0), draws), logits_BV, temperature, top_p)
  return np.bincount(np.asarray(drawn_B), minlength=len(logits_V)) / draws


# In no order, so that sorting must be undone.
PROBABILITIES = np.array([0.05, 0.4, 0.02, 0.3, 0.08, 0.15])


@pytest.mark.parametrize(
  ("top_p", "nucleus"),
  [
    (1.0, [0, 1, 2, 3, 4, 5]),
    (0.9, [1, 3, 4, 5]),  # 0.4 + 0.3 + 0.15 = 0.85 is not enough
    (0.8, [1, 3, 5]),
    (0.69, [1, 3]),
    (0.39, [1]),
    (1e-6, [1]),
  ],
)
def test_sampling_draws_from_the_nucleus(top_p, nucleus):
  wanted = np.zeros(6)
  wanted[nucleus] = PROBABILITIES[nucleus] / PROBABILITIES[nucleus].sum()
  got = frequencies(np.log(PROBABILITIES), 1.0, top_p)
  assert set(np.flatnonzero(got)) == set(nucleus)
  np.testing.assert_allclose(got, wanted, atol=5 * np.sqrt(0.25 / 20000))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature(temperature):
  wanted = PROBABILITIES ** (1 / temperature)
  got = frequencies(np.log(PROBABILITIES) + 7, temperature, 1.0)
  np.testing.assert_allclose(got, wanted / wanted.sum(), atol=5 * np.sqrt(0.25 / 20000))


def test_nucleus_is_cut_after_the_temperature():
  """At temperature 3 the first token has 0.25 of the probability, and a nucleus of 0.3 needs a second one."""
  assert set(np.flatnonzero(frequencies(np.log(PROBABILITIES), 3.0, 0.3))) == {1, 3}
  assert set(np.flatnonzero(frequencies(np.log(PROBABILITIES), 1.0, 0.3))) == {1}


def test_sampled_answers_depend_on_the_seed_alone():
  draws = [generate(packed.CONFIG, prompts(), 8, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]
  assert generate(packed.CONFIG, prompts(), 8, temperature=1e-4) == generate(packed.CONFIG, prompts(), 8)
  twins = generate(packed.CONFIG, [prompts()[0]] * 4, 8, temperature=2.0)
  assert len(set(map(tuple, twins))) > 1, "rows of a batch are drawn independently"


@pytest.mark.parametrize("axes", soak.some([{"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}, {}], 1))
def test_what_is_drawn_depends_on_seed_and_name_alone(axes):
  """Not on order, slots, what else is there, or devices."""
  names = [(7 * index, index % 2) for index in range(len(LENGTHS))]
  options = {"temperature": 1.5, "top_p": 0.9, "eos": (3, 9)}
  order = [3, 0, 6, 2, 5, 1]
  with jax.default_matmul_precision("highest"):
    alone = [
      generate(packed.CONFIG, [prompt], 12, names=[name], **options)[0]
      for prompt, name in zip(prompts(), names, strict=True)
    ]
    with jax.set_mesh(mesh.make_mesh(axes or {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1})):
      for batch_size in (1, 3):
        texts = [prompts()[index] for index in order]
        got = generate(packed.CONFIG, texts, 12, names=[names[i] for i in order], batch_size=batch_size, **options)
        assert got == [alone[index] for index in order]
  twins = generate(packed.CONFIG, [prompts()[0]] * 3, 12, names=[(0, 0), (0, 1), (1, 0)], **options)
  assert twins[0] == alone[0] and len(set(map(tuple, twins))) == 3


def test_each_step_draws_anew():
  """Where every token is as likely at every step, answers are no repetition of one draw."""
  graph, params = packed.decoder()
  flat = jax.tree.map(jnp.zeros_like, params)
  answers = decode.generate(graph, flat, packed.CONFIG, "float32", [[1], [1]], (), 16, temperature=1.0)
  assert all(len(set(answer)) > 8 for answer in answers)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"texts": [[1], [1] * 60]}, "prompt 1 has 60 tokens; with max_new_tokens = 5 this model takes 1 to 59"),
    ({"texts": [[1], []]}, "prompt 1 has 0 tokens"),
    ({"temperature": -1.0}, "temperature must be 0 or more"),
    ({"top_p": 0.0}, "top_p in"),
    ({"top_p": 1.5}, "top_p in"),
    ({"batch_size": 0}, "batch_size is 0: it must be 1 or more"),
    ({"count": 0}, "max_new_tokens 1 or more"),
  ],
)
def test_what_cannot_be_generated_is_refused(change, message):
  with pytest.raises(UserError, match=message):
    generate(packed.CONFIG, **({"texts": [[1]], "count": 5} | change))


def test_a_prompt_that_just_fits():
  (answer,) = generate(packed.CONFIG, [[1] * 59], 5)
  assert len(answer) == 5


def test_no_prompts_no_answers():
  assert generate(packed.CONFIG, [], 5) == []
