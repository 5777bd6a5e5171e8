"""What stands beside the methods so that nobody is fooled."""

import dataclasses

import pytest

from medjax.data.examples import Row
from medjax.tasks import baselines
from medjax.tasks.task import Facts, Target, Task, TextTarget

TASK = Task(
  name="toy",
  description="for these tests",
  targets={"cause": Target(("asthma", "angina", "anaemia")), "gist": TextTarget(lambda fields: Facts({}, {}))},
  instruction="",
  render=lambda fields: fields["text"],
  answer="{cause} {gist}",
  rejections=lambda labels, fields, rng: [],
)


def row(text, cause, options=None, gist="Two words."):
  fields = {"text": text} | ({"options": options} if options is not None else {})
  return Row(text, text, fields, {"cause": cause, "gist": gist})


TRAIN = [row(f"wheeze and cough {i}", "asthma") for i in range(3)] + [row("chest pressure on stairs", "angina")]


def test_majority_is_the_commonest_of_what_a_row_allows():
  rows = [row("a", "angina"), row("b", "angina", "Angina; anaemia"), row("c", "anaemia", ["anaemia"])]
  assert baselines.majority(TRAIN, rows, TASK) == {"cause": ["asthma", "angina", "anaemia"]}


def test_bag_of_words_chooses_the_likeliest_of_a_rows_options():
  rows = [
    row("a wheeze", "asthma"),
    row("wheeze on stairs", "asthma", "anaemia; angina"),
    row("wheeze", "x", ["anaemia"]),
  ]
  assert baselines.bag_of_words(TRAIN, rows, TASK) == {"cause": ["asthma", "angina", "anaemia"]}


def test_one_label_in_training_is_the_answer_where_it_is_allowed():
  rows = [row("chest pressure", "angina"), row("pallor", "anaemia", "angina; anaemia")]
  assert baselines.bag_of_words(TRAIN[:3], rows, TASK) == {"cause": ["asthma", "angina"]}


@pytest.mark.parametrize(
  ("gist", "wanted"),
  [
    ("one", "Seen today at 7.30."),
    ("one two three four five six", "Seen today at 7.30. Has cough."),
    ("one two three four five six seven", "Seen today at 7.30. Has cough. Well?"),
  ],
)
def test_lead_is_whole_sentences_of_the_message_in_the_length_of_references(gist, wanted):
  train = [dataclasses.replace(TRAIN[0], labels={"cause": "asthma", "gist": gist})]
  message = row("Seen today at 7.30. Has cough.\nWell? Then home with advice.", "asthma")
  assert baselines.lead(train, [message], TASK) == {"gist": [wanted]}
