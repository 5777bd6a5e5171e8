"""batch = f(seed, step), every example once an epoch, and what a step carries."""

import itertools

import jax
import numpy as np
import packed
import pytest

from medjax.config import base_config, with_overrides
from medjax.data.examples import Segments
from medjax.data.loader import Plan, StepShape, few_shapes, planned_steps, seen
from medjax.data.packing import RowShape, check_groups, plain_tokens, row_tokens
from medjax.errors import UserError


def plan(count=23, branches=2, **changes):
  groups = packed.random_groups(count, branches, seed=5)
  settings = dict(steps=20, seed=3, batch_size=6, row_length=48, tile=8)
  return Plan(groups, **settings | changes)


def same(one, other) -> bool:
  leaves = zip(jax.tree.leaves(one.batches), jax.tree.leaves(other.batches), strict=True)
  return all(np.array_equal(a, b) for a, b in leaves) and (one.ids, one.used) == (other.ids, other.used)


def test_a_batch_depends_on_seed_and_step_alone():
  from_start = list(plan().iterate(0))
  assert len(from_start) == 20
  for start in (0, 1, 7, 19):
    resumed = list(plan().iterate(start))
    assert len(resumed) == 20 - start
    assert all(map(same, resumed, from_start[start:]))
  assert same(plan()[13], from_start[13])
  assert plan(steps=200)[13].ids == from_start[13].ids, "the run's length does not matter"
  assert list(plan().iterate(20)) == []


def test_every_example_once_an_epoch():
  indices = list(itertools.chain.from_iterable(plan().indices(step) for step in range(20)))
  epochs = [indices[first : first + 23] for first in range(0, 115, 23)]
  assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 5, "in another order each time"


def test_seeds_differ():
  orders = {tuple(plan(seed=seed).indices(0)) for seed in range(5)}
  assert len(orders) == 5


def test_a_batch_larger_than_the_data_takes_examples_again():
  step = plan(count=4, batch_size=10)[0]
  assert {step.ids.count(f"r{index}") for index in range(4)} == {2, 3}


@pytest.mark.parametrize(("microbatch_rows", "multiple"), [(0, 1), (1, 1), (2, 2), (0, 4), (8, 4)])
def test_batches_have_the_shapes_of_the_plan_and_hold_each_example_once(microbatch_rows, multiple):
  made = plan(microbatch_rows=microbatch_rows, multiple=multiple)
  shapes = set()
  for step, item in enumerate(made.iterate(0)):
    M, R, T = item.batches.tokens.shape
    S, N = item.batches.target_token.shape[-1], item.batches.example.shape[-1]
    shapes.add(StepShape(M, RowShape(T, S, N)))
    assert T <= 48 and T % 8 == 0 and R == made.rows == (microbatch_rows or multiple)
    held = item.batches.example[item.batches.example >= 0]
    assert sorted(held.tolist()) == sorted(2 * made.indices(step)), "chosen and rejected of each"
    assert item.ids == tuple(made.groups[index].id for index in made.indices(step))
    real = item.batches.segments > 0
    assert not real[item.used :].any() and real[: item.used].any(axis=(1, 2)).all()
    assert item.padded_share == pytest.approx(1 - real.sum() / (item.used * R * T))
    members = [made.groups[index] for index in made.indices(step)]
    assert item.tokens == sum(map(plain_tokens, members)) > sum(map(row_tokens, members)) == real.sum()
  assert shapes == set(made.shapes), "each is of use, and each is known before the first step"


@pytest.mark.parametrize(("worth", "most"), [(0, 4), (10**9, 1)])
def test_few_shapes_hold_all_steps_with_little_padding(worth, most):
  draw = np.random.default_rng(0)
  needed = [StepShape(int(m), RowShape(8 * int(t), 16, 4)) for m, t in draw.integers(1, 9, (200, 2))]
  chosen = few_shapes(needed, 4, worth)
  assert len(chosen) == most and chosen == sorted(chosen, key=lambda shape: shape.cost)
  cost = 0
  for need in needed:
    held = [shape for shape in chosen if shape.holds(need)]
    assert held, "the last one holds anything"
    cost += held[0].cost
  one = few_shapes(needed, 1)[0]
  assert one == StepShape(8, RowShape(64, 16, 4))
  assert cost <= 0.7 * 200 * one.cost if most > 1 else chosen == [one]


def test_plain_tokens_count_the_prompt_with_each_answer():
  group = Segments("a", (1, 2, 3), ((4, 5), (6,)))
  assert (plain_tokens(group), row_tokens(group)) == (9, 4)


def test_reference_reaches_its_sequence():
  known = np.arange(46, dtype=np.float32).reshape(23, 2) + 1  # 2 * example + branch + 1
  for item in plan(reference_logp=known, microbatch_rows=1).iterate(0):
    example, branch = item.batches.example, np.arange(item.batches.example.shape[-1]) % 2
    np.testing.assert_array_equal(item.batches.reference_logp, np.where(example >= 0, 2 * example + branch + 1, 0))


def test_a_group_that_never_fits_is_named_before_the_first_step():
  groups = packed.random_groups(5, 2)
  longest = max(groups, key=row_tokens)
  with pytest.raises(UserError, match=f"row {longest.id} takes {row_tokens(longest)} tokens"):
    check_groups(groups, row_tokens(longest) - 1)
  check_groups(groups, row_tokens(longest))


@pytest.mark.parametrize(("steps", "read"), [(3, 12), (7, 20)])
def test_the_examples_that_a_run_comes_to(steps, read):
  config = with_overrides(base_config(), {"train.steps": steps, "train.batch_size": 4, "seed": 5})
  groups = packed.random_groups(20, 1)
  plan = Plan(groups, planned_steps(config, 20), 5, 4, 40)
  met = {index for step in range(steps) for index in plan.indices(step)}
  assert seen(config, 20) == sorted(met) and len(met) == read


def test_steps_of_an_epoch():
  config = with_overrides(base_config(), {"train.epochs": 1.5, "train.batch_size": 4})
  assert (planned_steps(config, 20), planned_steps(config, 1)) == (8, 1)
