"""Files and programs of strangers that would take for ever, or all memory, are refused in one line.

The limits of time are made small here, so that a test that has none of them hangs instead of being slow.
"""

import json
import os
import struct
import sys

import datasets
import pyarrow
import pytest
import tiny

from medjax.cli.main import main
from medjax.data import template_limits
from medjax.errors import RunError
from medjax.evaluation import judge
from medjax.training import digests

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s|length }}"


def refused(capsys, *argv) -> str:
  assert main([str(word) for word in argv]) in (1, 2)
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert line.startswith(f"medjax {argv[0]}: ") and "unexpected" not in line
  return line


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("home")
  (path / "rows.txt").write_text("a\n")
  return tiny.write_model(path / "model")


@pytest.mark.parametrize("template", [LOOPS, GROWS], ids=["loops", "grows"])
def test_a_template_without_end_is_ended(template, model, capsys, monkeypatch):
  monkeypatch.setattr(template_limits, "SECONDS", 0.3)
  monkeypatch.setattr(template_limits, "BYTES", 2**28)
  (model / "chat_template.jinja").write_text(template)
  line = refused(capsys, "generate", f"--model={model}", f"--prompts={model.parent / 'rows.txt'}", "--chat")
  assert "the chat template did not end within" in line
  (model / "chat_template.jinja").write_text(tiny.TEMPLATE)
  words = f"--model={model}", f"--prompts={model.parent / 'rows.txt'}", "--chat", "--max_new_tokens=1"
  assert main(["generate", *words]) == 0, "the next template is not ended for it"


def gguf_file(path, tensors: int, keys: int, *values: bytes, size: int = 0):
  path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + b"".join(values))
  if size:
    os.truncate(path, size)  # a hole
  return path


def text(value: bytes, size: int | None = None) -> bytes:
  return struct.pack("<Q", len(value) if size is None else size) + value


@pytest.mark.parametrize(
  ("counts", "values"),
  [
    ((0, 1), [text(b"tokenizer.ggml.tokens"), struct.pack("<IIQ", 9, 8, 2**29)]),
    ((0, 1), [text(b"scores"), struct.pack("<IIQ", 9, 6, 2**30)]),
    ((0, 2**32), []),
    ((2**32, 0), []),
    ((0, 1), [text(b"", 2**32)]),
  ],
  ids=["texts", "numbers", "keys", "tensors", "text"],
)
def test_a_small_gguf_that_claims_gigabytes_is_refused(tmp_path, capsys, counts, values):
  path = gguf_file(tmp_path / "model.gguf", *counts, *values, size=2**33)
  assert path.stat().st_blocks * 512 < 2**16, "it is a small file"
  (tmp_path / "rows.txt").write_text("a\n")
  line = refused(capsys, "generate", f"--model={path}", f"--prompts={tmp_path / 'rows.txt'}")
  assert "damaged header" in line


def test_a_pipe_in_a_model_directory_is_not_read(model, tmp_path, capsys):
  os.mkfifo(model / "tokenizer.model")
  try:
    line = refused(capsys, "generate", f"--model={model}", f"--prompts={model.parent / 'rows.txt'}")
  finally:
    (model / "tokenizer.model").unlink()
  assert "tokenizer.model: no regular file" in line


def test_a_pipe_or_a_device_in_a_checkpoint_is_damage(tmp_path):
  (tmp_path / "params").mkdir()
  (tmp_path / "params" / "a").write_bytes(b"a")
  digests.write(tmp_path)
  assert digests.damage(tmp_path) == ""
  (tmp_path / "params" / "a").unlink()
  os.mkfifo(tmp_path / "params" / "a")
  assert digests.damage(tmp_path) == "params/a is missing"
  listed = {"sha256": {"/dev/zero": [0, "0"]}}
  (tmp_path / digests.NAME).write_text(json.dumps(listed))
  assert digests.damage(tmp_path) == "digests.json names files of other folders"


@pytest.mark.parametrize("source", ["/dev/zero", "pipe.jsonl"])
def test_a_device_or_pipe_is_no_source(tmp_path, capsys, monkeypatch, source):
  monkeypatch.chdir(tmp_path)
  os.mkfifo("pipe.jsonl")
  assert "does not exist" in refused(capsys, "data", f"--config.data.source={source}", "--workdir=out")


def test_a_judges_line_without_end_is_cut(tmp_path, monkeypatch):
  monkeypatch.setattr(judge, "_MOST_CHARACTERS", 2**16)
  endless = tmp_path / "endless.py"
  endless.write_text("import sys\nwhile True:\n  sys.stdout.write('a' * 65536)\n")
  ask = judge.judge_of(f"{sys.executable} {endless}", 60.0)
  with pytest.raises(RunError, match="line 1 .* has more than 65536 characters"):
    list(ask([{"id": "r0"}]))


def test_offsets_of_a_saved_data_set_that_lead_out_of_it_are_refused(tmp_path, capsys):
  datasets.Dataset.from_dict({"prompt": ["aaaaaaaa"] * 4, "completion": ["b"] * 4}).save_to_disk(tmp_path / "saved")
  (file,) = (tmp_path / "saved").glob("*.arrow")
  buffers = [None, pyarrow.py_buffer(struct.pack("<5i", 0, 8, 2**30, 24, 32)), pyarrow.py_buffer(b"a" * 32)]
  broken = pyarrow.Array.from_buffers(pyarrow.string(), 4, buffers)
  table = pyarrow.table({"prompt": broken, "completion": ["b"] * 4})
  with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
  line = refused(capsys, "data", f"--config.data.source={tmp_path / 'saved'}", f"--workdir={tmp_path / 'out'}")
  assert "can be read" in line or "no whole data set" in line
