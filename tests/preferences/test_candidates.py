"""Candidates by labels and by perturbation, and which of them are kept."""

import dataclasses

import numpy as np
import pytest

from medjax import tasks
from medjax.preferences import balance
from medjax.preferences.candidates import Candidate, Found, from_labels, from_perturbations

TRIAGE, SUMMARIES = tasks.get("triage"), tasks.get("summarization")


def kept_pairs(found, per_row=1, max_gap=0):
  return [[(each.chosen, each.rejected) for each in row] for row in balance.keep(found, per_row, max_gap).candidates]


@pytest.mark.parametrize("per_row", [1, 2])
@pytest.mark.parametrize("task", [TRIAGE, SUMMARIES], ids=["labels", "texts"])
def test_pairs_by_labels_are_those_that_training_makes(task, per_row):
  rows = task.load()["train"][:30]
  kept = kept_pairs({"labels": from_labels(task, rows, 3)}, per_row)
  wanted = task.pairs(rows, 3, per_row)
  assert [pair for row in kept for pair in row] == [(pair.chosen, pair.rejected) for pair in wanted]
  assert all(len(row) == per_row for row in kept)


def test_a_row_with_nothing_to_reject_says_so():
  silent = dataclasses.replace(TRIAGE, rejections=lambda labels, fields, rng: [])
  assert from_labels(silent, TRIAGE.load()["train"][:1], 0) == [Found((), "nothing_to_reject")]


def test_perturbed_summaries_depend_on_seed_and_row_alone():
  rows = SUMMARIES.load()["train"][:12]
  found = from_perturbations(SUMMARIES, rows, 5)
  assert found[3:] == from_perturbations(SUMMARIES, rows[3:], 5) != from_perturbations(SUMMARIES, rows[3:], 6)
  for row, of_row in zip(rows, found, strict=True):
    assert all(each.chosen == row.labels["summary"] != each.rejected for each in of_row.candidates)
  first = {min(of_row.candidates, key=lambda each: each.rank).how for of_row in found}
  assert len(first) > 2, "no kind of mistake is always first"


def test_urgency_is_lowered_by_one_and_what_cannot_be_lowered_has_no_pair():
  rows = TRIAGE.load()["train"][:60]
  urgency = ("routine", "urgent", "emergency")
  for row, of_row in zip(rows, from_perturbations(TRIAGE, rows, 0), strict=True):
    level = urgency.index(row.labels["urgency"])
    lower = f"{row.labels['provider']}, {urgency[level - 1]}"
    wanted = Found((Candidate(TRIAGE.completion(row.labels), lower, "under_triage"),))
    assert of_row == (wanted if level else Found((), "nothing_to_change"))


def test_reasons_are_changed_and_the_diagnosis_left():
  task = tasks.get("clinical_reasoning")
  rows = task.load()["train"][:5]
  for row, of_row in zip(rows, from_perturbations(task, rows, 0), strict=True):
    assert of_row.candidates
    assert all(each.rejected.endswith(f"\nAnswer: {row.labels['diagnosis']}") for each in of_row.candidates)


def words(count, name="w"):
  return " ".join([name] * count)


def test_rank_comes_before_length_and_length_within_a_rank():
  chosen = words(10)
  row = Found(
    (
      Candidate(chosen, words(10, "late"), "b", 1),
      Candidate(chosen, words(14, "far"), "a"),
      Candidate(chosen, words(12, "near"), "a"),
    )
  )
  assert kept_pairs({"policy": [row]}) == [[(chosen, words(12, "near"))]]
  assert kept_pairs({"policy": [row]}, max_gap=1) == [[(chosen, words(10, "late"))]]


def test_of_candidates_of_one_rank_the_balance_takes_turns():
  """Each row could lose or gain two words; always taking the first would make length tell all."""
  row = Found((Candidate(words(10), words(8), "short"), Candidate(words(10), words(12), "long")))
  kept = balance.keep({"policy": [row] * 20}, 1, 0)
  gaps = [each.gap for of_row in kept.candidates for each in of_row]
  assert abs(sum(np.sign(gaps))) <= 1


def test_what_was_dropped_is_counted_by_reason():
  far, none = Found((Candidate("a b c", "d", "x"), Candidate("a b c", "e", "x"))), Found((), "too_easy")
  kept = balance.keep({"policy": [far, none, far], "perturb": [none, none, far]}, 1, 1)
  assert kept.candidates == [[], [], []]
  assert kept.dropped == {"policy": 4, "perturb": 2}
  assert kept.without == {"policy": {"length_gap": 2, "too_easy": 1}, "perturb": {"too_easy": 2, "length_gap": 1}}


def test_two_ways_give_no_pair_twice():
  same = Found((Candidate("a", "b", "x"),))
  kept = balance.keep({"labels": [same], "policy": [same]}, 1, 0)
  assert [len(row) for row in kept.candidates] == [1] and kept.without["policy"] == {"in_another_way": 1}


def test_length_balance_by_hand():
  pairs = [(words(3), words(1)), (words(2), words(2)), (words(1), words(4)), (words(5), words(2))]
  report = balance.report(pairs, "words", balance.words)
  assert report["chosen"] == {"mean": 2.75, "median": 2.5} and report["rejected"] == {"mean": 2.25, "median": 2.0}
  assert (report["chosen_longer"], report["chosen_shorter"], report["equal"]) == (0.5, 0.25, 0.25)
  # Of 16 comparisons of 3, 2, 1, 5 with 1, 2, 4, 2: won 3, 1, 0, 4 and tied 0, 2, 1, 0.
  assert report["auroc"] == pytest.approx((8 + 1.5) / 16)
  assert report["auroc_within"] == pytest.approx((2 + 0.5) / 4) and report["warning"] == ""


@pytest.mark.parametrize(("chosen", "rejected", "word"), [(5, 3, "longer"), (3, 5, "shorter")])
def test_length_that_tells_is_warned_of(chosen, rejected, word):
  """Lengths of different rows overlap, so that only the comparison within pairs shows it."""
  pairs = [(words(chosen + 10 * row), words(rejected + 10 * row)) for row in range(20)]
  report = balance.report(pairs, "words", balance.words)
  assert abs(report["auroc"] - 0.5) < 0.1 and report["auroc_within"] in (0.0, 1.0)
  assert f"chosen answers are {word}" in report["warning"] and "\n" not in report["warning"]
