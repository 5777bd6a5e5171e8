"""Training on a file of pairs: its train rows and no others, with validation pairs from the task."""

import json

import pytest

from medjax import config as schema
from medjax.data import items
from medjax.data.examples import PreferencePair, Row
from medjax.errors import UserError
from medjax.tasks.task import Target, Task


def row(index):
  return Row(f"r{index}", f"p{index}", {"text": f"case {index}"}, {"level": ("low", "high")[index % 2]})


TASK = Task(
  name="toy",
  description="for these tests",
  targets={"level": Target(("low", "high"))},
  instruction="How high?",
  render=lambda fields: fields["text"],
  answer="{level}",
  rejections=lambda labels, fields, rng: [({"level": "low" if labels["level"] == "high" else "high"}, "other")],
  load=lambda: {
    "train": [row(index) for index in range(6)],
    "validation": [row(6), row(7)],
    "test": [row(8), row(9)],
  },
)


def line(of, number=0, **changes):
  return {
    "id": f"r{of}#{number}",
    "prompt": list(TASK.prompt(row(of))),
    "chosen": "good",
    "rejected": f"bad {number}",
    "how": "policy_wrong",
    "row": f"r{of}",
  } | changes


def pairs_of(path, lines, **overrides):
  path.write_text("".join(json.dumps(each) + "\n" for each in lines))
  config = schema.with_overrides(
    schema.base_config(), {"method": "dpo", "task": "toy", "preference.pairs": str(path)} | overrides
  )
  schema.validate(config)
  return items.training_items(config, TASK)


def test_train_pairs_are_the_files_and_validation_pairs_the_tasks(tmp_path):
  found = pairs_of(tmp_path / "a.jsonl", [line(4), line(0), line(0, 1)])
  assert found["train"] == [
    PreferencePair(f"r{of}#{number}", TASK.prompt(row(of)), "good", f"bad {number}", "policy_wrong")
    for of, number in ((4, 0), (0, 0), (0, 1))
  ]
  assert found["validation"] == TASK.pairs([row(6), row(7)], 0)


def test_only_the_rows_in_use_count(tmp_path):
  found = pairs_of(tmp_path / "a.jsonl", [line(4), line(0)], **{"data.train_rows": 2})
  assert [pair.id for pair in found["train"]] == ["r0#0"]
  with pytest.raises(UserError, match="no pair is of the 2 train rows in use; raise data.train_rows"):
    pairs_of(tmp_path / "a.jsonl", [line(4)], **{"data.train_rows": 2})


def test_kto_judges_the_answers_of_the_file(tmp_path):
  found = pairs_of(tmp_path / "a.jsonl", [line(4), line(0)], **{"preference.loss": "kto"})
  assert [(answer.id, answer.desirable) for answer in found["train"]] == [
    ("r4#0/chosen", True),
    ("r4#0/rejected", False),
    ("r0#0/chosen", True),
    ("r0#0/rejected", False),
  ]


def test_sft_does_not_read_the_file():
  config = schema.with_overrides(schema.base_config(), {"task": "toy", "preference.pairs": "none.jsonl"})
  assert len(items.training_items(config, TASK)["train"]) == 6


@pytest.mark.parametrize("limits", [{}, {"data.test_rows": 1, "data.validation_rows": 1}])
@pytest.mark.parametrize("held_out", [7, 9])
def test_rows_that_are_held_out_are_refused(held_out, limits, tmp_path):
  """Also those that the config does not use: another run of the same data will."""
  lines = [line(1), line(held_out), line(held_out, 1)]
  with pytest.raises(
    UserError, match=rf"a.jsonl: 2 of 3 pairs are of validation or test rows \(first: row r{held_out}"
  ):
    pairs_of(tmp_path / "a.jsonl", lines, **limits)


def test_rows_that_are_held_out_are_found_by_their_prompts_too(tmp_path):
  """Ids that are line numbers mean other rows once the source has been sorted anew."""
  with pytest.raises(UserError, match="1 of 2 pairs are of validation or test rows") as caught:
    pairs_of(tmp_path / "a.jsonl", [line(1), line(2, prompt=list(TASK.prompt(row(8))))])
  assert "case" not in str(caught.value), "no text of a row"


def test_rows_of_other_data_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"1 of 2 pairs are of rows that this config does not have \(first: row r70\)"):
    pairs_of(tmp_path / "a.jsonl", [line(1), line(70)])
  plain = line(1)
  del plain["row"]
  with pytest.raises(UserError, match="a.jsonl line 1: no column 'row'"):
    pairs_of(tmp_path / "a.jsonl", [plain])


def test_a_file_needs_a_task_and_must_be_there(tmp_path):
  def refused(message, **overrides):
    config = schema.load("", {"method": "dpo", "preference.pairs": str(tmp_path / "none.jsonl")} | overrides)
    with pytest.raises(UserError, match=message):
      schema.validate_data(config)
    return config

  refused("none.jsonl': no such file; write it with `medjax prefer`", task="triage")
  config = refused("set config.task, whose rows it is of", **{"data.source": "a.jsonl"})
  with pytest.raises(UserError, match="set config.task, whose rows it is of"):
    items.training_items(config)
