"""`medjax data`: what it tells of a source in which everything is planted."""

import json
import re

import numpy as np
import pytest
import tiny

from medjax import privacy
from medjax.cli import main
from medjax.data import rows as data_rows

SECRET = "Zebedee"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """Rows of 200 patients: a column that tells the label, one that is named so, copies across splits, one long text."""
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  draw = np.random.default_rng(0)
  words = [f"word{i}" for i in range(400)]
  with open(path / "rows.jsonl", "w") as file:
    for i in range(240):
      label = "sick" if draw.uniform() < 0.4 else "well"
      row = {
        "id": f"r{i}",
        "note": f"{SECRET} {i} " + " ".join(draw.choice(words, 12)),
        "age": int(draw.integers(20, 90)),
        "code": label[0] if draw.uniform() < 0.99 else "x",
        "length_of_stay": int(draw.integers(1, 9)),
        "y": label,
        "split": "train" if i < 160 else "validation" if i < 200 else "test",
      }
      if i in (10, 170, 210):
        row["note"] = "the same note in three splits: cough, fever and a rash since the morning"
      if i == 11:
        row["note"] = "long " * 400
      file.write(json.dumps(row) + "\n")
  return path


def run(home, *more):
  common = ["--config.task=text_classification", f"--config.data.source={home / 'rows.jsonl'}"]
  common += [f"--config.model.path={home / 'model'}"]
  return main.main(["data", *common, "--config.define.labels=y", "--config.define.prompt={note}", *more])


def test_everything_planted_is_told_and_no_text_is(home, tmp_path, capsys):
  assert run(home, f"--workdir={tmp_path}", "--identifiers") == 0
  seen, printed = json.loads((tmp_path / "data.json").read_text()), capsys.readouterr()
  assert {split: counts["rows"] for split, counts in seen["splits"].items()} == {
    "train": 160,
    "validation": 40,
    "test": 40,
  }
  assert sum(seen["splits"]["train"]["labels"]["y"].values()) == 160
  assert seen["training"]["prompts_cut"] == 1 and seen["training"]["rows_dropped"] == 0
  pairs = {(o["first"], o["second"]): o["exact_rows"] for o in seen["duplicates"]["overlaps"]}
  assert pairs["train", "validation"] == pairs["train", "test"] == pairs["validation", "test"] == 1
  columns = {column["name"]: column for column in seen["columns"]["alone"]["y"]["columns"]}
  assert columns["code"]["flagged"] and columns["code"]["auroc"] > 0.95
  assert not columns["age"]["flagged"] and not columns["note"]["flagged"]
  assert list(seen["columns"]["review"]) == ["length_of_stay"] and seen["columns"]["shown"] == ["note"]
  assert "1 rows of test have a prompt that stands in train too" in printed.out
  assert "code" not in " ".join(seen["warnings"])  # it is not shown to the model
  for text in (printed.out, printed.err, (tmp_path / "data.json").read_text()):
    assert SECRET not in text
  assert (tmp_path / "data.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_the_rows_are_read_once(home, method, monkeypatch, capsys):
  """A source may be large, or on a hub."""
  read, real = [], data_rows.read_records
  monkeypatch.setattr(data_rows, "read_records", lambda *arguments: read.append(1) or real(*arguments))
  assert run(home, f"--config.method={method}") == 0
  assert len(read) == 1


def test_a_column_that_tells_the_label_is_warned_of_where_it_is_shown(home, capsys):
  assert run(home, "--config.define.prompt={note} {code} {length_of_stay}") == 0
  out = capsys.readouterr().out
  assert re.search(r"code alone nearly tells y: .*AUROC", out)
  assert re.search(r"length_of_stay: length of stay; if it is known only after", out)
  assert run(home, "--config.define.prompt={note} {code}", "--config.define.after=code") == 2
  assert "known only afterwards" in capsys.readouterr().err


def test_an_example_is_shown_to_who_asks(home, capsys):
  try:
    assert run(home, "--show_examples") == 0
  finally:
    privacy.allow(False)
  out = capsys.readouterr().out
  assert SECRET in out and "--- answer 1" in out


def test_prompts_and_answers_without_a_task(home, tmp_path, capsys):
  (tmp_path / "a.jsonl").write_text(
    "".join(json.dumps({"prompt": f"Q{i}", "completion": "A"}) + "\n" for i in range(9))
  )
  argv = ["data", f"--config.data.source={tmp_path / 'a.jsonl'}", f"--config.model.path={home / 'model'}", "--json"]
  assert main.main(argv) == 0
  seen = json.loads(capsys.readouterr().out)
  assert seen["splits"]["train"]["rows"] == seen["training"]["items"] == 9 and "columns" not in seen


def test_terms_of_a_public_set_and_its_test_rows_are_named(home, capsys):
  assert run(home, "--config.define.public=medqa", "--config.define.public_test=true") == 0
  out = capsys.readouterr().out
  assert "MedQA (USMLE): MIT" in out and "must not be compared with published results" in out
  assert run(home, "--config.define.public=medka") == 2
  assert "known: medqa, medmcqa" in capsys.readouterr().err
