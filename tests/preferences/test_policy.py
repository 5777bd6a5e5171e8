"""Samples of a policy: what is read in them, what is rejected, what is counted."""

import dataclasses

import pytest

from medjax.data.examples import Row
from medjax.evaluation.answers import Answer
from medjax.preferences.candidates import Candidate
from medjax.preferences.policy import MARGIN, Tally, from_policy
from medjax.tasks.task import Facts, Generation, Target, Task, TextTarget

SCORED = Task(
  name="scored",
  description="labels by likelihood",
  targets={"who": Target(("nurse", "clerk", "doctor")), "when": Target(("now", "later"))},
  instruction="Who, when?",
  render=lambda fields: "m",
  answer="{who}, {when}",
  rejections=lambda labels, fields, rng: [],
)
ROW = Row("r", "r", {}, {"who": "nurse", "when": "now"})
READ = dataclasses.replace(
  SCORED,
  targets={"who": SCORED.targets["who"]},
  answer="{reasons} Answer: {who}",
  generation=Generation(9, lambda text, fields: {"who": text.rpartition("Answer: ")[2]} if "Answer: " in text else {}),
)
REASONED = Row("r", "r", {}, {"who": "nurse", "reasons": "True."})


def answers(*texts, ended=True):
  return [[Answer(text, ended) for text in texts]]


def test_the_most_frequent_wrong_labels_come_first():
  drawn = answers("clerk, now", "Doctor,  LATER.", "doctor, later", "nurse, now", "hello", "")
  (found,), tally = from_policy(SCORED, [ROW], drawn, False)
  assert found.candidates == (
    Candidate("nurse, now", "clerk, now", "policy_wrong", 1, True),
    Candidate("nurse, now", "doctor, later", "policy_wrong", 0, True),
  ), "as the task writes them: case and blanks of a sample must not tell"
  assert tally == Tally(samples=6, right=1, wrong=3, unparseable=2)


def test_unparseable_answers_are_used_when_asked_for_and_come_last():
  drawn = answers("clerk, now", "hello", "", " \n")
  (found,), _ = from_policy(SCORED, [ROW], drawn, True)
  assert [(each.rejected, each.how, each.rank) for each in found.candidates] == [
    ("clerk, now", "policy_wrong", 0),
    ("hello", "policy_unparseable", 1),
  ]
  (found,), _ = from_policy(SCORED, [ROW], answers("hello"), False)
  assert (found.candidates, found.reason) == ((), "unparseable")


def test_rows_that_are_answered_right_each_time_are_too_easy():
  (found,), tally = from_policy(SCORED, [ROW], answers("nurse, now", "nurse, now"), True)
  assert (found.candidates, found.reason, tally.right) == ((), "too_easy", 2)


def test_right_samples_are_chosen_else_the_reference():
  drawn = answers("I see. Answer: nurse", "So. Answer: clerk", "Hm. Answer: nurse")
  (found,), _ = from_policy(READ, [REASONED], drawn, False)
  assert {(each.chosen, each.rejected) for each in found.candidates} == {
    ("I see. Answer: nurse", "So. Answer: clerk"),
    ("Hm. Answer: nurse", "So. Answer: clerk"),
  }
  (found,), _ = from_policy(READ, [REASONED], answers("So. Answer: clerk", "Answer: nobody"), False)
  assert [each.chosen for each in found.candidates] == ["True. Answer: nurse"]


def test_an_answer_that_was_cut_is_never_chosen():
  drawn = [[Answer("Cut. Answer: nurse", False), Answer("So. Answer: clerk", True)]]
  (found,), tally = from_policy(READ, [REASONED], drawn, False)
  assert [each.chosen for each in found.candidates] == ["True. Answer: nurse"] and tally.unended == 1


def test_targets_that_are_asked_for_one_by_one_are_paired_one_by_one():
  separate = dataclasses.replace(SCORED, answer="{target}: {label}", separate=True)
  drawn = answers("who: clerk", "when: now", "who: doctor", "who: doctor", "what?")
  (found,), tally = from_policy(separate, [ROW], drawn, True)
  assert {(each.chosen, each.rejected, each.rank) for each in found.candidates} == {
    ("who: nurse", "who: clerk", 1),
    ("who: nurse", "who: doctor", 0),
    ("when: now", "what?", 2),
  }
  assert (tally.right, tally.wrong, tally.unparseable) == (1, 3, 1)


def test_labels_that_a_row_may_not_have_are_unparseable():
  letters = dataclasses.replace(SCORED, allowed=lambda fields, name: ("nurse", "clerk", "now", "later"))
  (found,), tally = from_policy(letters, [ROW], answers("doctor, now", "clerk, now"), False)
  assert [each.rejected for each in found.candidates] == ["clerk, now"] and tally.unparseable == 1


SUMMARY = Task(
  name="summary",
  description="a text",
  targets={"gist": TextTarget(lambda fields: Facts({"a": ("alpha",), "b": ("beta",)}, {"c": ("gamma",)}))},
  instruction="Sum up.",
  render=lambda fields: "alpha beta gamma",
  answer="{gist}",
  rejections=lambda labels, fields, rng: [],
  generation=Generation(9, lambda text, fields: {"gist": text.strip()} if text.strip() else {}),
)
GIVEN = Row("r", "r", {}, {"gist": "Alpha, beta."})


def test_texts_are_ranked_by_the_metric_and_the_worst_comes_first():
  drawn = answers("alpha", "nothing", "beta and alpha gamma", "alpha", "")
  (found,), tally = from_policy(SUMMARY, [GIVEN], drawn, False)
  # Fact F1: reference 1, "alpha" 2/3, all three 4/5, "nothing" 0.
  assert found.candidates == tuple(
    Candidate("Alpha, beta.", text, "policy_worse", rank, True)
    for rank, text in enumerate(("nothing", "alpha", "beta and alpha gamma"))
  )
  assert (tally.samples, tally.unparseable) == (5, 1)


def test_a_sample_as_good_as_the_reference_is_chosen_unless_it_was_cut():
  (found,), _ = from_policy(SUMMARY, [GIVEN], answers("beta alpha", "alpha"), False)
  assert [(each.chosen, each.rejected) for each in found.candidates] == [("beta alpha", "alpha")]
  (found,), _ = from_policy(SUMMARY, [GIVEN], answers("beta alpha", "alpha", ended=False), False)
  assert [each.chosen for each in found.candidates] == ["Alpha, beta."]


def test_texts_within_the_margin_are_not_told_apart(monkeypatch):
  (found,), _ = from_policy(SUMMARY, [GIVEN], answers("beta alpha", "alpha beta"), False)
  assert (found.candidates, found.reason) == ((), "within_margin")
  assert 0 < MARGIN < 0.2  # 4/5 is worse than 1 in the test above
  (found,), _ = from_policy(SUMMARY, [GIVEN], answers("", " "), False)
  assert found.reason == "unparseable"


def test_where_lower_is_better_the_direction_is_turned():
  target = dataclasses.replace(SUMMARY.targets["gist"], primary="invention_rate")
  task = dataclasses.replace(SUMMARY, targets={"gist": target})
  (found,), _ = from_policy(task, [GIVEN], answers("alpha gamma", "beta"), False)
  assert [(each.chosen, each.rejected) for each in found.candidates] == [("beta", "alpha gamma")]


@pytest.mark.parametrize("labels", [("low", "nurse"), ("high", "clerk")])
def test_a_text_beside_labels_keeps_the_reference_chosen(labels):
  """A right label says nothing of the text that came with it."""
  task = dataclasses.replace(
    READ, targets={**READ.targets, **SUMMARY.targets}, answer="{gist} Answer: {who}", generation=READ.generation
  )
  row = Row("r", "r", {}, {"who": "nurse", "gist": "Alpha."})
  (found,), _ = from_policy(task, [row], answers(f"{labels[0]} Answer: nurse", "Answer: clerk"), False)
  assert [(each.chosen, each.rejected) for each in found.candidates] == [("Alpha. Answer: nurse", "Answer: clerk")]
