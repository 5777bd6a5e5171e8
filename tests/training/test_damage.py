"""What was damaged on the disk is noticed: nothing changes in silence."""

import logging
import os
import shutil

import numpy as np
import pytest
from runs import curve, overrides, train

from medjax import config as schema
from medjax import files
from medjax.training import checkpoints, loop, reference


@pytest.fixture
def said(caplog):
  """The lines that medjax warns with."""
  caplog.set_level(logging.WARNING)
  return lambda: [record.getMessage() for record in caplog.records if "/medjax/" in record.pathname]


def flip_a_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


# ---- The cache of the reference's log-probabilities


KEY, SHAPE = "0123", (3, 2)
LOGPS = np.arange(6, dtype=np.float32).reshape(SHAPE)


@pytest.fixture
def cached(tmp_path):
  path = tmp_path / f"{KEY}.npy"
  reference._write(path, KEY, LOGPS)
  return path


def test_a_cached_array_is_read_as_it_was_written(cached, said):
  assert np.array_equal(reference._read(cached, KEY, SHAPE), LOGPS)
  assert reference._read(cached.with_name("other.npy"), KEY, SHAPE) is None and not said()


@pytest.mark.parametrize(
  "harm",
  [
    flip_a_bit,
    lambda path: os.truncate(path, path.stat().st_size - 1),
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(os.urandom(500)),
    lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    lambda path: np.save(path, LOGPS + 1),
    lambda path: reference._write(path, "other", LOGPS + 1),
    lambda path: reference._write(path, KEY, LOGPS[:2]),
    lambda path: reference._write(path, KEY, LOGPS.astype(np.float64)),
    lambda path: (path.unlink(), path.mkdir()),
  ],
)
def test_a_cached_array_that_was_damaged_is_not_used(cached, said, harm):
  harm(cached)
  assert reference._read(cached, KEY, SHAPE) is None
  (line,) = said()
  assert str(cached) in line and line.endswith("; they are computed again")


def test_every_single_bit_counts(cached):
  whole = cached.read_bytes()
  for place in range(8 * len(whole)):
    data = bytearray(whole)
    data[place // 8] ^= 1 << place % 8
    cached.write_bytes(data)
    assert reference._read(cached, KEY, SHAPE) is None


def test_a_run_with_a_damaged_cache_is_the_run_without(home, tmp_path, cache, said):
  settings = overrides(home, "dpo", train__steps=3)
  train(tmp_path / "whole", settings)
  (path,) = (cache / "reference").iterdir()
  written = path.read_bytes()
  flip_a_bit(path)
  train(tmp_path / "run", settings)
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")
  assert any(str(path) in line for line in said())
  assert path.read_bytes() == written, "it is good again"


def test_a_cache_that_cannot_be_written_is_done_without(home, tmp_path, cache, said):
  """Its place is a file, as for root no folder is read-only."""
  cache.write_text("")
  train(tmp_path / "run", overrides(home, "dpo", train__steps=2))
  (line,) = [line for line in said() if "cannot be kept" in line]
  assert str(cache / "reference") in line and "MEDJAX_CACHE" in line


@pytest.mark.parametrize("error", ["Read-only file system", "No space left on device"])
def test_a_full_or_read_only_cache_warns(cached, said, monkeypatch, error):
  def refuse(*_, **__):
    raise OSError(0, error)

  monkeypatch.setattr(files, "write_aside", refuse)
  reference._write(cached, KEY, LOGPS)
  assert [error in line for line in said()] == [True]


# ---- metrics.jsonl


@pytest.fixture(scope="module")
def stopped(home, tmp_path_factory):
  """A run of 4 steps of 6, and its settings."""
  run = tmp_path_factory.mktemp("stopped") / "run"
  settings = overrides(home, train__steps=6, checkpoint__every=4)
  config = schema.with_overrides(schema.base_config(), settings)
  loop.train(config, run, until=4)
  return run, settings


def changed(text):
  return text.replace('"step": 2', '"step": 2, "more": 1')


@pytest.mark.parametrize(
  ("harm", "words"),
  [
    (lambda text: "".join(text.splitlines(True)[:2]), "lacks 2 of 4 steps, the first is 3"),
    (lambda text: text[:60], "lacks 4 of 4 steps, the first is 1"),
    (lambda text: text.replace('"step": 2', '"step: 2'), "lacks 1 of 4 steps, the first is 2"),
    (changed, "has a line that was changed"),
    (lambda text: "", "lacks 4 of 4 steps, the first is 1"),
  ],
)
def test_metrics_that_were_damaged_are_said_and_kept(stopped, tmp_path, said, harm, words):
  run, settings = shutil.copytree(stopped[0], tmp_path / "run"), stopped[1]
  text = harm((run / "metrics.jsonl").read_text())
  (run / "metrics.jsonl").write_text(text)
  assert train(run, settings).steps == 6
  (line,) = [line for line in said() if "metrics.jsonl" in line]
  assert words in line and str(run / "metrics.jsonl") in line
  assert (run / "metrics.jsonl.damaged").read_text() == text


def test_a_line_that_a_kill_cut_is_no_damage(stopped, tmp_path, said):
  run, settings = shutil.copytree(stopped[0], tmp_path / "run"), stopped[1]
  with open(run / "metrics.jsonl", "a") as file:
    file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
  assert train(run, settings).steps == 6
  assert not [line for line in said() if "metrics.jsonl" in line] and not (run / "metrics.jsonl.damaged").exists()


# ---- Checkpoints


@pytest.mark.parametrize("gone", ["params", "digests.json", "everything"])
def test_a_newest_step_that_lacks_something_is_passed_over(stopped, tmp_path, said, gone):
  """A step with less than all it was saved with is damaged, whoever reads it; the one before it is good."""
  run, settings = shutil.copytree(stopped[0], tmp_path / "run"), stopped[1]
  newest = shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / "5")
  for path in list(newest.iterdir()) if gone == "everything" else [newest / gone]:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert checkpoints.locate(run) == (run / "checkpoints", 4)
  assert checkpoints.load_identity(str(run))["step"] == 4
  assert train(run, settings).steps == 6
  assert any(f"{newest} is damaged" in line and str(run / "damaged" / "5") in line for line in said())


def test_a_step_is_on_the_disk_before_the_one_before_it_goes(home, tmp_path, monkeypatch):
  seen, sync = [], files.sync

  def syncing(path):
    sync(path)
    seen.append((os.path.basename(path), {entry for entry in os.listdir(path) if entry.isdigit()}))

  monkeypatch.setattr(files, "sync", syncing)
  train(tmp_path / "run", overrides(home, train__steps=6, checkpoint__every=2, checkpoint__keep=1))
  assert ("checkpoints", {"2", "4"}) in seen and ("checkpoints", {"4", "6"}) in seen
