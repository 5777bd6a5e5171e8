"""Damaged configs, rows, predictions, safetensors and GGUF files are read or refused; `fuzz.py` makes them.

Here a hundred of each; `python tests/fuzz.py` feeds 100,000.
"""

import gzip
import json
import struct

import fuzz
import hypothesis
import pytest
import soak

# What the long run has found: each was another exception than UserError, or read memory that is not the file's.
FOUND = {
  "a name with a dot": ("config", {"define.ordinal.a": "low"}),
  "a name with a dot, deeper": ("config", {"define.ordinal": {"a": {"b.c": 1}}}),
  "lists for names": ("config", {"study.methods": [["sft"], []]}),
  "no text and cut off": ("rows", (".jsonl.gz", gzip.compress(b"\xff\n" * 9, mtime=0)[:-4], "sft")),
  "a column's name is no text": (
    "rows",
    (".parquet", fuzz._columnar(".parquet").replace(b"prompt", b"pr\xecmpt"), "sft"),
  ),
  "no text and another checksum": ("rows", (".csv.gz", gzip.compress(b"\xff\n" * 9, mtime=0)[:-8] + bytes(8), "sft")),
}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_whatever_comes_is_read_or_refused(target):
  @hypothesis.settings(
    max_examples=soak.count(100, 1000),
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(fuzz.TARGETS[target][0])
  def check(given):
    fuzz.check(target, given)

  check()


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_refused(name):
  target, given = FOUND[name]
  with pytest.raises(fuzz.UserError):
    fuzz.TARGETS[target][1](given)


def test_an_arrow_file_with_offsets_outside_of_it_is_refused():
  content = bytearray(fuzz._columnar(".arrow"))
  at = content.index(struct.pack("<III", 0, 1, 2))
  content[at + 4 : at + 12] = struct.pack("<II", 2**30, 2**30 + 1)
  with pytest.raises(fuzz.UserError, match="is not a readable arrow file"):
    fuzz.read_rows((".arrow", bytes(content), "sft"))


def test_tensors_without_elements_are_read(tmp_path):
  entries = {"a": {"dtype": "F32", "shape": [2, 0], "data_offsets": [0, 0]}}
  header = json.dumps(entries).encode()
  (tmp_path / "empty.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
  file = fuzz.SafetensorsFile(tmp_path / "empty.safetensors")
  assert file.read("a", (slice(0, 2), slice(0, 0))).shape == (2, 0)
