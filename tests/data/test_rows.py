"""Properties of splits: nobody is in two, nobody is lost, and more rows move none."""

import json
import tempfile

import hypothesis
import hypothesis.strategies as st

from medjax import config as schema
from medjax.data.rows import task_rows
from medjax.tasks.task import Target, Task

TASK = Task(
  name="toy",
  description="for these tests",
  targets={"y": Target(("a", "b"))},
  instruction="Which?",
  render=lambda fields: fields["note"],
  answer="{y}",
  rejections=lambda labels, fields, rng: [],
)


def splits_of(groups, stratify=False):
  """Row number -> split, for rows of these groups."""
  with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    for number, group in enumerate(groups):
      file.write(json.dumps({"id": number, "note": f"n{number}", "p": group, "y": "ab"[hash(group) % 3 == 0]}) + "\n")
    file.flush()
    changes = {"data.source": file.name, "data.split_by": "p", "data.stratify": stratify}
    found = task_rows(schema.with_overrides(schema.base_config(), changes), TASK)
  return {int(row.id): split for split, rows in found.items() for row in rows}


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(st.integers(0, 40), min_size=1, max_size=120), st.lists(st.integers(0, 60), max_size=40))
def test_a_hashed_split_keeps_groups_together_and_stays_when_rows_are_added(groups, more):
  split = splits_of(groups)
  assert sorted(split) == list(range(len(groups)))
  of_group = {}
  for number, group in enumerate(groups):
    assert of_group.setdefault(group, split[number]) == split[number]
  assert {number: where for number, where in splits_of(groups + more).items() if number < len(groups)} == split


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.lists(st.integers(0, 400), min_size=30, max_size=200).filter(lambda found: len(set(found)) >= 20))
def test_a_stratified_split_keeps_groups_together_and_loses_no_row(groups):
  split = splits_of(groups, stratify=True)
  assert sorted(split) == list(range(len(groups)))
  assert len({(group, split[number]) for number, group in enumerate(groups)}) == len(set(groups))
  assert set(split.values()) == {"train", "validation", "test"}


def test_hashed_splits_have_about_the_shares_that_are_said():
  where = list(splits_of(range(4000)).values())
  shares = [where.count(split) / len(where) for split in ("train", "validation", "test")]
  assert all(abs(share - said) < 0.02 for share, said in zip(shares, (0.7, 0.1, 0.2), strict=True))
