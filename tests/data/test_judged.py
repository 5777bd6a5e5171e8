"""Judged answers: read from labelled rows and from pairs, and each with an answer of another row."""

import json
import logging

import pytest
import tiny

from medjax import tasks
from medjax.config import base_config, with_overrides
from medjax.data import items, judged
from medjax.data.chat import Encoder
from medjax.data.examples import JudgedAnswer, PreferencePair
from medjax.data.packing import RowShape, fill_rows
from medjax.errors import UserError

ASK, SAY = {"role": "user", "content": "Q1"}, {"role": "assistant", "content": " a"}


def read(tmp_path, rows, **overrides):
  source = tmp_path / "a.jsonl"
  source.write_text("".join(json.dumps(row) + "\n" for row in rows))
  settings = {"method": "dpo", "preference.loss": "kto", "preference.pairs": "given", "data.source": str(source)}
  return items.training_items(with_overrides(base_config(), settings | overrides))


def row(prompt, completion, label, **more):
  return {"prompt": prompt, "completion": completion, "label": label, **more}


def answers(count):
  """Prompts and answers in pairs of equal ones."""
  return [JudgedAnswer(str(i), f"Q{i // 2}", f" a{(i + 1) // 2}", i % 3 == 0) for i in range(count)]


@pytest.mark.parametrize("labels", [(True, False), (1, 0), ("true", "FALSE"), ("1", " 0 ")])
def test_labelled_rows(tmp_path, labels):
  found = read(tmp_path, [row("Q1", " a", labels[0]), row([ASK], [{**SAY, "content": " b"}], labels[1])])
  assert found == {
    "train": [
      JudgedAnswer("a.jsonl:1", "Q1", " a", True, " b"),
      JudgedAnswer("a.jsonl:2", (ASK,), " b", False, " a"),
    ],
    "validation": [],
  }


def test_labelled_conversations_other_columns_and_splits(tmp_path):
  rows = [
    {"messages": [ASK, SAY], "good": 1, "split": "train"},
    {"messages": [{**ASK, "content": "Q2"}, {**SAY, "content": " b"}], "good": 0, "split": "train"},
    {"messages": [{**ASK, "content": "Q3"}, {**SAY, "content": " c"}], "good": 0, "split": "test"},
  ]
  found = read(tmp_path, rows, **{"data.columns.label": "good"})["train"]
  assert [(x.completion, x.desirable, x.unrelated) for x in found] == [(" a", True, " b"), (" b", False, " a")]


def test_pairs_become_two_answers_each_after_the_limit(tmp_path):
  rows = [{"id": i, "prompt": f"Q{i}", "chosen": f" good{i}", "rejected": f" bad{i}"} for i in range(5)]
  found = read(tmp_path, rows, **{"data.train_rows": 3})["train"]
  assert [(x.id, x.completion, x.desirable) for x in found] == [
    (f"{i}/{side}", f" {text}{i}", side == "chosen")
    for i in range(3)
    for side, text in (("chosen", "good"), ("rejected", "bad"))
  ]
  assert all(x.unrelated[-1] != x.prompt[-1] for x in found)


def test_pairs_of_a_task():
  config = {"task": "triage", "method": "dpo", "data.train_rows": 10, "data.validation_rows": 4}
  task = tasks.get("triage")
  pairs = items.training_items(with_overrides(base_config(), config), task)
  found = items.training_items(with_overrides(base_config(), config | {"preference.loss": "kto"}), task)
  for split, of_split in pairs.items():
    assert isinstance(of_split[0], PreferencePair) and len(found[split]) == 2 * len(of_split)
  assert items.fingerprint(found["train"]) != items.fingerprint(pairs["train"])


def test_unrelated_answers_are_of_other_prompts_and_other_than_the_own():
  made = judged.with_unrelated(answers(60))
  assert made == judged.with_unrelated(answers(60))
  of_answer = {}
  for answer in answers(60):
    of_answer.setdefault(answer.completion, set()).add(answer.prompt)
  assert all(x.unrelated != x.completion and of_answer[x.unrelated] - {x.prompt} for x in made)
  assert len({x.unrelated for x in made}) > 20


def test_answers_of_one_kind_are_warned_of(caplog):
  with caplog.at_level(logging.WARNING):
    judged.with_unrelated([JudgedAnswer(str(i), f"Q{i}", f" {i}", False) for i in range(3)])
  assert "all 3 judged answers are undesirable" in caplog.text


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([row("Q1", " a", True), row("Q2", " b", "good")], "line 2: label must be true or false, or 1 or 0"),
    ([row("Q1", " a", None)], "line 1: label must be"),
    ([row("Q1", " a", 0.5)], "line 1: label must be"),
    ([{"prompt": "Q1", "completion": " a"}], "line 1: no column 'label'"),
    ([{"prompt": "Q1", "label": True}], "line 1: no column 'completion'"),
    ([{"text": "A note.", "label": True}], "line 1: a text has no prompt"),
    ([row("Q1", " a", True, id="x")], "row x: no other row of its split has another prompt and another answer"),
    ([row("Q1", " a", True), row("Q1", " b", False)], "row .*: no other row of its split"),
    ([row("Q1", " a", True), row("Q2", " a", False)], "row .*: no other row of its split"),
    ([{"prompt": "Q", "chosen": "A", "rejected": "A"}], "line 1: chosen and rejected are the same"),
  ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, message):
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path, rows)
  assert "\n" not in str(error.value)


def test_the_judgement_reaches_the_batch():
  groups = Encoder(tiny.tokenizer()).segments(judged.with_unrelated(answers(4)))
  assert [group.desirable for group in groups] == [True, False, False, True]
  assert all(len(group.completions) == 2 for group in groups)
  batch = fill_rows(groups, range(4), [[0, 1], [3, 2]], RowShape(256, 128, 6), 3)
  assert batch.desirable.tolist() == [
    [True, True, False, False, False, False],
    [True, True, False, False, False, False],
    [False] * 6,
  ]
