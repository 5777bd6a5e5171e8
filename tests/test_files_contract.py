"""What others rely on of files.py and privacy.py: whole or absent, on the disk first, private, equal fingerprints."""

import os
import stat

import pytest

from medjax import files, privacy


def test_a_failed_block_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), files.write_aside(path) as file:
    file.write("new")
    raise RuntimeError
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_whole_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  path, events = tmp_path / "deep" / "a.txt", []
  sync, replace = os.fsync, os.replace

  def syncing(descriptor):
    events.append(("sync", os.fstat(descriptor).st_size, path.exists()))
    sync(descriptor)

  def replacing(old, new):
    events.append(("rename", 0, path.exists()))
    replace(old, new)

  monkeypatch.setattr(os, "fsync", syncing)
  monkeypatch.setattr(os, "replace", replacing)
  with files.write_aside(path) as file:
    file.write("whole")
    assert not path.exists()
  assert events[:2] == [("sync", 5, False), ("rename", 0, False)]
  assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("private", "others"), [(True, 0), (False, 0o044)])
def test_a_private_file_is_for_its_owner_alone_from_the_first_byte(tmp_path, private, others):
  before = os.umask(0o022)
  try:
    with files.write_aside(tmp_path / "a", private=private):
      (aside,) = tmp_path.iterdir()
      assert stat.S_IMODE(aside.stat().st_mode) & 0o077 == others
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o077 == others
  finally:
    os.umask(before)


def test_texts_are_utf_8_and_bytes_stay_bytes(tmp_path):
  with files.write_aside(tmp_path / "text") as file:
    file.write("Na⁺")
  with files.write_aside(tmp_path / "bytes", binary=True) as file:
    file.write(b"\xff\n")
  assert (tmp_path / "text").read_bytes() == "Na⁺".encode() and (tmp_path / "bytes").read_bytes() == b"\xff\n"


def test_json_keeps_the_order_of_keys_and_letters_as_they_are(tmp_path):
  files.write_json(tmp_path / "a.json", {"b": "Fieber, 39 °C", "a": 1})
  assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": "Fieber, 39 °C",\n  "a": 1\n}\n'


def test_a_lock_has_one_holder_who_says_who_they_are(tmp_path):
  path = tmp_path / "lock"
  path.write_text("somebody before, with a longer line\n")
  with files.locked(path, "process 1"):
    assert path.read_text() == "process 1\n"
    with pytest.raises(BlockingIOError) as refused, files.locked(path, "process 2"):
      pass
    assert refused.value.strerror == "process 1" and refused.value.filename == str(path)
  with files.locked(path, "process 3"):
    assert path.read_text() == "process 3\n"


def test_fingerprints_stay_and_do_not_depend_on_the_order_of_keys():
  assert files.fingerprint({"a": 1, "b": ["°", None]}) == files.fingerprint({"b": ["°", None], "a": 1})
  assert files.fingerprint({"a": 1, "b": ["°", None]}) == "fa349c3a1e8e2ecb"
  assert files.fingerprint([1, 2]) != files.fingerprint([2, 1])


@pytest.fixture
def show_examples():
  before = privacy.allowed()
  yield privacy.allow
  privacy.allow(before)


def test_what_stands_in_the_data_is_shown_only_where_it_is_asked_for(show_examples):
  assert not privacy.allowed(), "no message shows it by itself"
  assert privacy.shown("Jane Smith") == " (--show_examples shows it)"
  show_examples(True)
  assert privacy.allowed() and privacy.shown("Jane Smith") == ": 'Jane Smith'"
  show_examples(False)
  assert not privacy.allowed() and "Smith" not in privacy.shown("Jane Smith")
