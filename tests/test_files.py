"""Files that are written aside: whole or absent, under names that nobody can guess; locks, with flock and without."""

import errno
import fcntl
import os
import stat

import pytest

from medjax import files

TOKEN = "0123456789abcdef"


@pytest.fixture
def guessed(monkeypatch):
  """Makes the random part of a temporary name known, as to somebody who has guessed it."""
  monkeypatch.setattr(files.secrets, "token_hex", lambda _: TOKEN)


@pytest.fixture
def events(monkeypatch):
  """Which files and folders are brought to the disk, and what is renamed, in order."""
  found = []
  fsync, replace = os.fsync, os.replace

  def syncing(descriptor):
    found.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
    fsync(descriptor)

  def replacing(source, target):
    found.append(("replace", str(target)))
    replace(source, target)

  monkeypatch.setattr(os, "fsync", syncing)
  monkeypatch.setattr(os, "replace", replacing)
  return found


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, events):
  with files.write_aside(tmp_path / "a.txt") as file:
    file.write("whole")
    assert not (tmp_path / "a.txt").exists()
  (first, aside), *others = events
  assert first == "fsync" and aside.startswith(str(tmp_path / ".a.txt."))
  assert others == [("replace", str(tmp_path / "a.txt")), ("fsync", str(tmp_path))]
  assert (tmp_path / "a.txt").read_text() == "whole"


def test_after_a_failed_block_the_file_is_as_it_was_and_nothing_is_left(tmp_path):
  (tmp_path / "a.txt").write_text("old")
  for error in (ValueError, KeyboardInterrupt):
    with pytest.raises(error), files.write_aside(tmp_path / "a.txt") as file:
      file.write("half")
      raise error
  assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
  assert (tmp_path / "a.txt").read_text() == "old"


def test_temporary_names_differ(tmp_path):
  with files.write_aside(tmp_path / "a"), files.write_aside(tmp_path / "a"):
    seen = [path.name for path in tmp_path.iterdir()]
  assert len(seen) == 2 and not any(str(os.getpid()) in name.split(".") for name in seen)


@pytest.mark.parametrize("kind", ["link", "file", "folder"])
def test_what_stands_under_the_temporary_name_is_never_written(tmp_path, guessed, kind):
  target, aside = tmp_path / "victim", tmp_path / f".a.{TOKEN}.tmp"
  target.write_text("theirs")
  if kind == "link":
    aside.symlink_to(target)
  elif kind == "file":
    aside.write_text("theirs")
  else:
    aside.mkdir()
  with pytest.raises(FileExistsError), files.write_aside(tmp_path / "a") as file:
    file.write("ours")
  assert target.read_text() == "theirs" and not (tmp_path / "a").exists()
  assert os.path.lexists(aside), "it is not ours to delete"


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_modes(tmp_path, private, mode):
  before = os.umask(0o022)
  try:
    (tmp_path / "a.json").write_text("")
    (tmp_path / "a.json").chmod(0o666)
    with files.write_aside(tmp_path / "a.json", private=private):
      (aside,) = tmp_path.glob(".a.json.*.tmp")
      assert stat.S_IMODE(aside.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode
    files.write_json(tmp_path / "b.json", {}, private=private)
    assert stat.S_IMODE((tmp_path / "b.json").stat().st_mode) == mode
  finally:
    os.umask(before)


def test_a_folder_takes_the_place_of_another_once_it_is_whole(tmp_path, events):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "old").write_text("")
  with pytest.raises(ValueError), files.folder_aside(tmp_path / "out") as folder:
    (folder / "half").write_text("")
    raise ValueError
  assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
  with files.folder_aside(tmp_path / "out") as folder:
    (folder / "new").write_text("")
    assert (tmp_path / "out" / "old").exists()
  assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]
  assert [what for what, _ in events] == ["fsync", "fsync", "replace", "fsync"]
  assert events[0][1].endswith("/new")


def test_a_link_under_the_temporary_name_of_a_folder_is_not_followed(tmp_path, guessed):
  (tmp_path / "theirs").mkdir()
  (tmp_path / f".out.{TOKEN}.tmp").symlink_to(tmp_path / "theirs")
  with pytest.raises(FileExistsError), files.folder_aside(tmp_path / "out"):
    pass
  assert not list((tmp_path / "theirs").iterdir())


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOTSUP])
def file_system(request, monkeypatch):
  """With locks, and two kinds without."""

  def refuse(*_):
    raise OSError(request.param, os.strerror(request.param))

  if request.param:
    monkeypatch.setattr(fcntl, "flock", refuse)
  return request.param


def test_a_lock_has_one_holder(tmp_path, file_system):
  with files.locked(tmp_path / "lock", files.this_process()):
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} of .* since 2") as refused:
      with files.locked(tmp_path / "lock", "another"):
        pass
  if file_system:
    assert f"remove {tmp_path}/lock.held if that process is gone" in refused.value.strerror
  with files.locked(tmp_path / "lock", "the next"):
    assert (tmp_path / "lock").read_text() == "the next\n"
  assert not (tmp_path / "lock.held").exists()


def test_a_lock_is_waited_for(tmp_path, file_system, monkeypatch):
  held = files.locked(tmp_path / "lock", "one")
  held.__enter__()
  monkeypatch.setattr(files.time, "sleep", lambda _: held.__exit__(None, None, None))
  with files.locked(tmp_path / "lock", "other", patience_seconds=60):
    assert (tmp_path / "lock").read_text() == "other\n"
