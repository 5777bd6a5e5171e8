"""Ids of rows may be numbers of patients: they stand in no message, and in no file that others can read."""

import json
import stat

import pytest
import tiny
from runs import overrides

from medjax import privacy
from medjax.cli.main import main

ID = "mrn4711"


@pytest.fixture
def home(tmp_path):
  tiny.write_model(tmp_path / "model")
  with open(tmp_path / "sft.jsonl", "w") as file:
    for at in range(12):
      row = {"id": f"{ID}-{at}", "split": "train" if at < 8 else "validation"}
      file.write(json.dumps({**row, "prompt": f"sodium {at}", "completion": " low"}) + "\n")
  yield tmp_path
  privacy.allow(False)


def run(home, verb, *words, **changes):
  settings = overrides(home, train__steps=3, **changes)
  return main(
    [verb, f"--workdir={home / verb}", *(f"--config.{key}={value}" for key, value in settings.items()), *words]
  )


@pytest.mark.parametrize("shown", [False, True])
def test_a_loss_that_is_not_finite_names_rows_only_where_asked(home, capsys, shown):
  words = ["--show_examples"] if shown else []
  assert run(home, "train", *words, optimizer__learning_rate=1e30, optimizer__clip_norm=1e30) == 1
  line = capsys.readouterr().err.splitlines()[-1]
  assert "gradient norm" in line
  assert (ID in line) == shown and ("--show_examples names them" in line) != shown


def test_a_row_that_is_too_long_is_named_only_where_asked(home, capsys):
  assert run(home, "train", train__row_length=4, data__too_long="error") == 2
  assert ID not in capsys.readouterr().err


def test_files_with_row_ids_are_their_owners_alone(home, capsys):
  assert run(home, "data") == 0
  assert run(home, "train") == 0
  assert ID not in capsys.readouterr().err
  for path in home.rglob("*"):
    if path.is_file() and path.parent != home and ID.encode() in path.read_bytes():
      assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
  assert not stat.S_IMODE((home / "data" / "data.json").stat().st_mode) & 0o077


def test_answers_and_pairs_are_their_owners_alone(tmp_path, capsys):
  model = tiny.write_model(tmp_path / "model")
  with open(tmp_path / "rows.jsonl", "w") as file:
    for at in range(20):
      row = {"id": f"{ID}-{at}", "split": "train" if at < 10 else "validation", "y": "low" if at % 2 else "high"}
      file.write(json.dumps({**row, "note": f"sodium {at}"}) + "\n")
  out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
  for verb, *words in (
    ("eval", f"--checkpoint={model}", f"--workdir={out}", "--split=validation"),
    ("predict", f"--checkpoint={model}", f"--input={rows}", f"--output={out / 'predictions.jsonl'}"),
    ("prefer", f"--output={out / 'pairs.jsonl'}"),
  ):
    task = ("--config.task=text_classification", "--config.define.prompt={note}", "--config.define.labels=y")
    assert main([verb, *words, *task, f"--config.data.source={rows}", f"--config.model.path={model}"]) == 0
  printed = capsys.readouterr()
  assert ID not in printed.out + printed.err
  named = [path for path in out.rglob("*") if path.is_file() and ID.encode() in path.read_bytes()]
  assert len(named) >= 3
  assert not [path for path in named if stat.S_IMODE(path.stat().st_mode) & 0o077]
