"""Digests of a checkpoint's files find every kind of damage, and read no more than they are asked to."""

import os

import pytest

from medjax.training import digests

LARGE = 2**20 + 1


@pytest.fixture
def step(tmp_path):
  """A step with two items, a large file in one of them, and a note of Orbax."""
  for name, size in {"params/a": 10, "params/deep/large": LARGE, "optimizer/b": 7}.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x" * size)
  (tmp_path / "_METADATA").write_text("changes once more")
  digests.write(tmp_path)
  return tmp_path


def flip(path):
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def test_what_was_written_is_whole_and_notes_may_change(step):
  flip(step / "_METADATA")
  assert digests.damage(step) == ""


@pytest.mark.parametrize("name", ["params/a", "params/deep/large", "optimizer/b"])
def test_a_changed_bit_a_cut_and_a_lost_file_are_named(step, name):
  path = step / name
  before = path.read_bytes()
  flip(path)
  assert digests.damage(step) == f"{name} is not what was written"
  path.write_bytes(before[:-1])
  assert digests.damage(step) == f"{name} has {len(before) - 1} bytes of {len(before)}"
  path.unlink()
  assert digests.damage(step) == f"{name} is missing"


def test_of_large_files_the_size_is_enough_where_not_all_is_read(step):
  flip(step / "params/deep/large")
  assert digests.damage(step, whole=False) == ""
  flip(step / "params/a")
  assert digests.damage(step, whole=False) == "params/a is not what was written"


def test_items_that_do_not_count_are_not_looked_at(step):
  flip(step / "optimizer/b")
  assert digests.damage(step, ("params",)) == "" and digests.damage(step, ("optimizer",))


def test_files_are_shared_out_so_that_each_is_read_by_one(step):
  for name in ("params/a", "params/deep/large", "optimizer/b"):
    flip(step / name)
    assert sum(bool(digests.damage(step, part=(part, 3))) for part in range(3)) == 1, name
    flip(step / name)


def test_progress_counts_the_bytes_that_are_read(step):
  told = []
  digests.damage(step, advance=lambda done, total: told.append((done, total)))
  assert told[-1] == (LARGE + 17, LARGE + 17) and len(told) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": {"params/a": 1}}'])
def test_digests_that_are_missing_or_nonsense_are_damage(step, content):
  (step / digests.NAME).write_text(content)
  assert digests.damage(step) == f"{digests.NAME} cannot be read"
  (step / digests.NAME).unlink()
  assert digests.damage(step) == f"{digests.NAME} is missing"


def test_all_files_are_brought_to_the_disk_the_digests_last(step, monkeypatch):
  synced, sync = [], os.fsync

  def syncing(descriptor):
    synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), step))
    sync(descriptor)

  monkeypatch.setattr(os, "fsync", syncing)
  digests.write(step)
  files = [name for name in synced if (step / name).is_file()]
  assert sorted(files) == ["digests.json", "optimizer/b", "params/a", "params/deep/large"]
  assert files[-1] == digests.NAME
