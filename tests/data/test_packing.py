"""Packed rows lose nothing, and give each part the hidden states that it has alone."""

import dataclasses
import functools

import jax
import numpy as np
import packed
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.data import packing
from medjax.data.examples import Segments
from medjax.errors import UserError
from medjax.models.decoder import bind
from medjax.models.rope import sequence_extents
from medjax.models.views import Layout


@functools.cache
def hidden_states(config):
  graph, params = packed.decoder(config)
  in_rows = jax.jit(
    lambda batch: bind(graph, params)(batch.tokens, Layout(batch.positions, batch.segments, batch.branches))
  )
  return in_rows, jax.jit(functools.partial(packed.plain_hidden, graph, params))


@pytest.mark.parametrize("config", [packed.CONFIG, packed.WINDOW], ids=["full", "window"])
@settings(max_examples=40, deadline=None)
@given(members=packed.groups(3))
def test_each_part_has_the_hidden_states_it_has_alone(config, members):
  in_rows, alone = hidden_states(config)
  shape = packing.RowShape(packed.SHAPE.tokens, 64, 12)
  assignment = packing.assign_rows(members, shape.tokens)
  batch = packing.fill_rows(members, range(len(members)), assignment, shape, packed.ROWS)
  tokens_BT, mask_BT, _ = packed.plain_arrays(packed.separate(members), rows=12)
  with jax.default_matmul_precision("highest"):
    packed_BTD, alone_BTD = np.asarray(in_rows(batch)), np.asarray(alone(tokens_BT, mask_BT))
  for row, held in enumerate(assignment):
    for segment, member in enumerate(held, start=1):
      for branch, completion in enumerate(members[member].completions, start=1):
        places = (batch.segments[row] == segment) & np.isin(batch.branches[row], (0, branch))
        inputs = members[member].prompt + completion[:-1]
        assert tuple(batch.tokens[row, places]) == inputs
        wanted_TD = alone_BTD[member * 3 + branch - 1, : len(inputs)]
        np.testing.assert_allclose(packed_BTD[row, places], wanted_TD, atol=1e-5)


def test_hidden_states_depend_on_what_a_part_sees():
  """The comparison above would notice a wrong mask: a longer prompt, or another one, moves the answer's states."""
  _, alone = hidden_states(packed.CONFIG)
  tokens_BT, mask_BT, _ = packed.plain_arrays([((1, 2, 3, 4, 5), 3), ((9, 2, 3, 4, 5), 3), ((2, 3, 4, 5), 2)], rows=12)
  hidden_BTD = np.asarray(alone(tokens_BT, mask_BT))
  assert np.abs(hidden_BTD[0, 4] - hidden_BTD[1, 4]).max() > 0.05
  assert np.abs(hidden_BTD[0, 4] - hidden_BTD[2, 3]).max() > 0.05


@settings(max_examples=200, deadline=None)
@given(members=st.integers(1, 3).flatmap(lambda branches: packed.groups(branches, most=12)), data=st.data())
def test_nothing_is_lost(members, data):
  row_length = data.draw(st.integers(max(map(packing.row_tokens, members)), 80))
  assignment = packing.assign_rows(members, row_length, multiple=data.draw(st.integers(1, 3)))
  shape = packing.shape_of(members, assignment, tile=1)
  assert shape.tokens <= row_length
  assert sorted(index for held in assignment for index in held) == list(range(len(members)))
  batch = packing.fill_rows(members, range(100, 100 + len(members)), assignment, shape, len(assignment) + 1)
  assert (batch.segments > 0).sum() == sum(map(packing.row_tokens, members))
  assert batch.weight.sum() == sum(map(packing.scored_tokens, members))
  for row, held in enumerate(assignment):
    sequence = 0
    for member in held:
      for completion in members[member].completions:
        slots = (batch.sequence_id[row] == sequence) & (batch.weight[row] == 1)
        assert tuple(batch.target_token[row, slots]) == completion
        # The token that predicts the first is the prompt's last one, the others are predicted by the one before.
        before = (members[member].prompt + completion)[-len(completion) - 1 : -1]
        assert tuple(batch.tokens[row, batch.source_index[row, slots]]) == before
        assert batch.example[row, sequence] == 100 + member
        sequence += 1
    assert (batch.example[row, sequence:] == -1).all()
  assert not batch.segments[-1].any() and not batch.weight[-1].any(), "the row that is left over is padding"


@settings(max_examples=50, deadline=None)
@given(members=packed.groups(2, most=12))
def test_a_row_holds_what_its_shape_says(members):
  assignment = packing.assign_rows(members, 64)
  shape = packing.shape_of(members, assignment, tile=8)
  loads = [sum(packing.row_tokens(members[index]) for index in held) for held in assignment]
  scored = [sum(packing.scored_tokens(members[index]) for index in held) for held in assignment]
  assert shape.tokens % 8 == 0 and shape.tokens - 8 < max(loads) <= shape.tokens
  assert max(scored) <= shape.scored
  assert shape.sequences // 2 == 1 << (max(map(len, assignment)) - 1).bit_length()


def test_rows_are_few_and_alike():
  """First-fit-decreasing never needs more than 11/9 of the best packing, plus one row; then rows are evened out."""
  members = packed.random_groups(200, 2, seed=3)
  total = sum(map(packing.row_tokens, members))
  for multiple in (1, 8):
    assignment = packing.assign_rows(members, 256, multiple)
    assert len(assignment) % multiple == 0 and len(assignment) <= 1.1 * total / 256 + multiple
    loads = [sum(packing.row_tokens(members[index]) for index in held) for held in assignment]
    assert max(loads) <= 256 and max(loads) - min(loads) <= 8


def test_row_of_two_groups():
  """The layout, spelled out."""
  members = [Segments("a", (7, 8, 9), ((1, 2, 3), (4,))), Segments("b", (5,), ((6, 7), (6, 8)))]
  batch = packing.fill_rows(members, [10, 11], [[0, 1]], packing.RowShape(10, 8, 4), 1)
  assert batch.tokens.tolist() == [[7, 8, 9, 1, 2, 5, 6, 6, 0, 0]]
  assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 1, 0, 0]]
  assert batch.segments.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 0, 0]]
  assert batch.branches.tolist() == [[0, 0, 0, 1, 1, 0, 1, 2, 0, 0]]
  assert batch.source_index.tolist() == [[2, 3, 4, 2, 5, 6, 5, 7]]
  assert batch.target_token.tolist() == [[1, 2, 3, 4, 6, 7, 6, 8]]
  assert batch.sequence_id.tolist() == [[0, 0, 0, 1, 2, 2, 3, 3]]
  assert batch.weight.tolist() == [[1.0] * 8]
  assert batch.example.tolist() == [[10, 10, 11, 11]]


def test_short_and_long_completions_have_a_prompt_each_where_frequencies_follow_from_length():
  group = Segments("a", (7, 8, 9), ((1, 2), (3, 4, 5, 6), (1,)), turn=5)
  assert group.sharing == [(0, 2), (1,)]
  assert packing.shape_of([group], [[0]], tile=1).tokens == packing.row_tokens(group) == 10
  batch = packing.fill_rows([group], [10], [[0]], packing.RowShape(12, 8, 3), 1)
  assert batch.tokens.tolist() == [[7, 8, 9, 1, 7, 8, 9, 3, 4, 5, 0, 0]]
  assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 0]]
  assert batch.segments.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0]]
  assert batch.branches.tolist() == [[0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0]]
  assert batch.target_token.tolist() == [[1, 2, 1, 3, 4, 5, 6, 0]]
  assert batch.source_index.tolist() == [[2, 3, 2, 6, 7, 8, 9, 0]]
  assert batch.sequence_id.tolist() == [[0, 0, 2, 1, 1, 1, 1, 0]]
  assert batch.example.tolist() == [[10, 10, 10]]
  # By hand: behind the last token here comes one that is predicted only, so that the texts have 5, 4 and 7 tokens.
  extents_BT = np.asarray(sequence_extents(batch.positions, batch.segments)) + 1
  assert extents_BT[0, :10].tolist() == [5] * 4 + [7] * 6
  for turn in (3, 4, 7, None):  # all of them are long, one of them is not, none is, length says nothing
    assert dataclasses.replace(group, turn=turn).sharing == ([(0, 1), (2,)] if turn == 4 else [(0, 1, 2)])


def test_what_counts_nothing_takes_no_slot():
  """A conversation of two answers beside an example of a heavier class."""
  talk = Segments("a", (7, 8), ((1, 2, 3, 4, 5),), weights=((1.0, 1.0, 0.0, 0.0, 1.0),))
  heavy = Segments("b", (5,), ((6, 7),), weights=((2.5, 2.5),))
  assert [packing.scored_tokens(group) for group in (talk, heavy)] == [3, 2]
  assert [packing.scored_weight(group) for group in (talk, heavy)] == [3.0, 5.0]
  assert [packing.plain_tokens(group) for group in (talk, heavy)] == [7, 3], (
    "what is not scored is a token all the same"
  )
  assert packing.shape_of([talk], [[0]], tile=1).tokens == packing.row_tokens(talk) == 6
  batch = packing.fill_rows([talk, heavy], [10, 11], [[0, 1]], packing.RowShape(8, 6, 2), 1)
  assert batch.tokens.tolist() == [[7, 8, 1, 2, 3, 4, 5, 6]]
  assert batch.source_index.tolist() == [[1, 2, 5, 6, 7, 0]]
  assert batch.target_token.tolist() == [[1, 2, 5, 6, 7, 0]]
  assert batch.sequence_id.tolist() == [[0, 0, 0, 1, 1, 0]]
  assert batch.weight.tolist() == [[1.0, 1.0, 1.0, 2.5, 2.5, 0.0]]


@settings(max_examples=30, deadline=None)
@given(members=packed.groups(1, most=12), data=st.data())
def test_weights_choose_among_the_scored_positions(members, data):
  weights = [data.draw(st.lists(st.sampled_from([0.0, 1.0, 0.3]), min_size=n, max_size=n)) for n in lengths(members)]
  weighted = [dataclasses.replace(each, weights=(tuple(own),)) for each, own in zip(members, weights, strict=True)]
  assignment = packing.assign_rows(weighted, 64)
  shape = packing.shape_of(members, assignment)
  assert packing.shape_of(weighted, assignment).scored <= shape.scored
  plain, chosen = (
    packing.fill_rows(each, range(len(each)), assignment, shape, len(assignment)) for each in (members, weighted)
  )
  for row, held in enumerate(assignment):
    own = np.float32([weight for member in held for weight in weights[member]])
    places, slots = np.flatnonzero(own), slice(0, np.count_nonzero(own))
    for kind in ("source_index", "target_token", "sequence_id"):
      assert (getattr(chosen, kind)[row, slots] == getattr(plain, kind)[row, places]).all()
    assert (chosen.weight[row, slots] == own[places]).all() and not chosen.weight[row, slots.stop :].any()
  for kind in ("tokens", "positions", "segments", "branches", "example"):
    assert (getattr(chosen, kind) == getattr(plain, kind)).all()


def lengths(members):
  return [len(group.completions[0]) for group in members]


@pytest.mark.parametrize("shared", [True, False])
def test_each_completion_has_weights_of_its_own(shared):
  group = Segments("a", (7, 8), ((1, 2), (3, 4, 5)), weights=((0.5, 0.5), (2.0, 0.0, 2.0)))
  batch = packing.fill_rows([group], [0], [[0]], packing.RowShape(10, 6, 2), 1, shared)
  assert batch.target_token.tolist() == [[1, 2, 3, 5, 0, 0]]
  assert batch.sequence_id.tolist() == [[0, 0, 1, 1, 0, 0]]
  assert batch.weight.tolist() == [[0.5, 0.5, 2.0, 2.0, 0.0, 0.0]]
  assert (packing.scored_tokens(group), packing.scored_weight(group), packing.plain_tokens(group)) == (4, 5.0, 9)
  with pytest.raises(ValueError, match="group a: a token of its completions has no weight"):
    dataclasses.replace(group, weights=((0.5, 0.5),))


@pytest.mark.parametrize(
  ("group", "message"),
  [
    (Segments("case-7", tuple(range(20)), ((1, 2), (3, 4))), "row case-7 takes 22 tokens .* train.row_length = 21"),
    (Segments("case-8", (), ((1,),)), "row case-8: .* no tokens"),
    (Segments("case-9", (1,), ((1,), ())), "row case-9: .* no tokens"),
  ],
)
def test_what_does_not_fit_is_refused(group, message):
  with pytest.raises(UserError, match=message):
    packing.check_groups([Segments("ok", (1,), ((2,),)), group], 21)
