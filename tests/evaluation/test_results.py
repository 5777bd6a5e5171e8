"""What an evaluation or a run wrote is read as it was written, or refused with its path."""

import json

import pytest

from medjax import files
from medjax.errors import UserError
from medjax.evaluation import results

LINES = [json.dumps({"id": str(number), "prediction": {"x": "a"}}) + "\n" for number in range(3)]
METRICS = {"n": 3, "targets": {"x": {"accuracy": 0.5, "auroc": float("nan"), "labels": ("a", "b")}}}


@pytest.fixture
def folder(tmp_path):
  results.write(tmp_path / "test", LINES, METRICS)
  return tmp_path / "test"


def test_what_is_written_is_read(folder):
  found = results.read_metrics(folder)
  assert (found["n"], found["targets"]["x"]["labels"]) == (3, ["a", "b"])
  assert results.read_predictions(folder) == [json.loads(line) for line in LINES]


@pytest.mark.parametrize("name", [results.METRICS, results.PREDICTIONS])
def test_every_flipped_bit_is_seen_or_changes_nothing(folder, name):
  path, whole, seen = folder / name, (results.read_metrics(folder), results.read_predictions(folder)), 0
  data = path.read_bytes()
  for place in range(len(data) * 8):
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    path.write_bytes(changed)
    try:
      found = results.read_metrics(folder), results.read_predictions(folder)
    except UserError as error:
      assert str(path) in str(error) and f"remove {folder} and run the same command again" in str(error)
      seen += 1
      continue
    # A flip in the name of the key `fingerprint` leaves one key more, and all others as they were.
    assert all(found[0].get(key) == value or value != value for key, value in whole[0].items() if key != "targets")
    assert str(found[0]["targets"]) == str(whole[0]["targets"]) and found[1] == whole[1]
  assert seen > 0.7 * len(data) * 8


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1'])
def test_what_is_no_object_is_refused(tmp_path, text):
  (tmp_path / "x.json").write_text(text)
  with pytest.raises(UserError, match=r"x\.json: it is not .*; bring it back from a copy, or do that"):
    files.read_sealed(tmp_path / "x.json", "do that")


def test_a_file_made_by_hand_has_no_fingerprint_and_is_read(tmp_path):
  (tmp_path / "x.json").write_text('{"a": 1}')
  assert files.read_sealed(tmp_path / "x.json", "") == {"a": 1}
