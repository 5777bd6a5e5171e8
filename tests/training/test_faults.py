"""What can go wrong around a run: damaged checkpoints, full disks, two runs in one folder, clocks, losses of NaN."""

import contextlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import curve, flags, lines, overrides, train

from medjax import files
from medjax.errors import RunError, UserError
from medjax.training import checkpoints, digests, loop
from medjax.training.state import TrainState
from medjax.training.step import jitted_step


@pytest.fixture
def said(caplog):
  """The lines that medjax warns with."""
  caplog.set_level(logging.WARNING)
  return lambda: [record.getMessage() for record in caplog.records if "/medjax/" in record.pathname]


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
  """A run of 6 steps that keeps its last three checkpoints, at 2, 4 and 6, and had been broken off at 5."""
  path = tmp_path_factory.mktemp("whole")
  settings = overrides(home, checkpoint__every=2, checkpoint__keep=3, evaluation__every=2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MEDJAX_CACHE", str(path / "cache"))
    train(path / "run", settings)
  shutil.copytree(path / "run", path / "broken")
  shutil.rmtree(path / "broken" / "checkpoints" / "6")
  return settings, path / "run", path / "broken"


def largest(folder):
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


DAMAGES = {
  "flipped": (flip_a_bit, "is not what was written"),
  "truncated": (lambda path: os.truncate(path, path.stat().st_size - 1), "has .* bytes of"),
  "missing": (lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize(
  ("damage", "item"),
  [*((damage, "params") for damage in DAMAGES), *(("flipped", item) for item in ("optimizer", "identity", "metrics"))],
)
def test_a_damaged_checkpoint_is_found_and_the_one_before_it_used(whole, tmp_path, said, damage, item):
  settings, run, broken = whole
  workdir = tmp_path / "run"
  shutil.copytree(broken, workdir)
  harm, what = DAMAGES[damage]
  path = largest(workdir / "checkpoints" / "4" / item)
  harm(path)
  name = re.escape(str(path.relative_to(workdir / "checkpoints" / "4")))
  if item in ("params", "identity"):
    assert checkpoints.load_identity(str(workdir))["step"] == 2
    assert any(re.search(rf"checkpoints/4 is damaged \({name} {what}", line) for line in said())
    with pytest.raises(UserError, match=rf"checkpoints/4 is damaged \({name} {what}"):
      checkpoints.load_params(str(workdir / "checkpoints" / "4"))
  if item == "metrics":
    with pytest.raises(UserError, match="so which one is the best is not known; name a step"):
      checkpoints.load_params(str(workdir / "best"))
  train(workdir, settings)
  moved = rf"checkpoint .*4 is damaged \({name} {what}.*was moved to .*damaged/4; step 2 is the newest good one"
  assert any(re.search(moved, line) for line in said())
  assert (workdir / "damaged" / "4").is_dir()
  assert curve(workdir) == curve(run)


def test_without_a_good_checkpoint_nothing_is_trained_or_moved(whole, tmp_path):
  settings, _, broken = whole
  workdir = tmp_path / "run"
  shutil.copytree(broken, workdir)
  flip_a_bit(largest(workdir / "checkpoints" / "4" / "params"))
  (workdir / "checkpoints" / "2" / digests.NAME).unlink()
  before = sorted(workdir.rglob("*"))
  with pytest.raises(UserError, match=r"checkpoints/4 is damaged .* and no other checkpoint is good; bring the file"):
    train(workdir, settings)
  with pytest.raises(UserError, match="damaged checkpoints only"):
    checkpoints.load_identity(str(workdir))
  assert sorted(workdir.rglob("*")) == before


def test_a_checkpoint_that_was_half_deleted_is_not_used(whole, tmp_path, said):
  """A process may be killed while an old checkpoint is removed."""
  settings, run, broken = whole
  workdir = tmp_path / "run"
  shutil.copytree(broken, workdir)
  shutil.rmtree(workdir / "checkpoints" / "2" / "params")
  train(workdir, settings)
  assert curve(workdir) == curve(run)
  assert any("checkpoints/2 is damaged" in line and "step 4 is the newest good one" in line for line in said())


def test_another_dtype(whole):
  _, run, _ = whole
  wanted, found = (checkpoints.load_params(str(run), dtype=dtype)[0] for dtype in ("float32", "bfloat16"))
  for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
    assert b.dtype == jnp.bfloat16 and np.array_equal(a.astype(jnp.bfloat16), b)


@contextlib.contextmanager
def files_of_at_most(size):
  """No file may grow beyond that: writing fails as on a full disk, with another error number."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, previous)


def test_a_disk_too_small_for_a_checkpoint(home, tmp_path, monkeypatch):
  """The run ends with a line; on a bigger disk it goes on, and ends as if nothing had been."""
  monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
  settings = overrides(home, checkpoint__every=2)
  train(tmp_path / "whole", settings)
  save = checkpoints.Checkpoints.save

  def saving(self, step, *arguments):
    if step < 4:
      save(self, step, *arguments)
      self._manager.wait_until_finished()
      return
    with files_of_at_most(20_000):
      save(self, step, *arguments)
      with self._telling():
        self._manager.wait_until_finished()

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, "save", saving)
    with pytest.raises(RunError, match="a checkpoint could not be written .*; that of step 2 is whole; make room"):
      train(tmp_path / "run", settings)
  assert checkpoints.load_identity(str(tmp_path / "run"))["step"] == 2
  train(tmp_path / "run", settings)
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_a_disk_too_small_for_metrics(home, tmp_path):
  """Nor does the writing of TensorBoard's events wait for room that does not come."""
  settings = overrides(home, train__steps=12)
  write = loop.Telemetry.write

  def writing(self, step, values):
    if step < 5:
      write(self, step, values)
      return
    with files_of_at_most(1000):
      write(self, step, values)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop.Telemetry, "write", writing)
    with pytest.raises(RunError, match=r"metrics cannot be written in .*run \(File too large\); make room"):
      train(tmp_path / "run", settings)
  train(tmp_path / "run", settings)
  assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 13))


def test_a_folder_that_cannot_be_written(home, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\); use another --workdir"):
    train(tmp_path / "file" / "run", overrides(home))
  with pytest.raises(UserError, match=r"/proc/run cannot be written \(.*\); use another --workdir"):
    train(type(tmp_path)("/proc/run"), overrides(home))


def test_two_runs_in_one_folder(home, tmp_path, forked):
  """The second is refused while the first one lives; a killed one leaves no lock behind."""
  run, log = tmp_path / "run", tmp_path / "stderr"
  settings = overrides(home, train__steps=2)
  run.mkdir()
  with files.locked(run / "lock", "process 17 of here"):
    with pytest.raises(UserError, match=r"run is in use by another run \(process 17 of here\); wait, or use another"):
      train(run, settings)
  assert forked.run(["train", f"--workdir={run}", *flags(settings)], "step", log=log) == -signal.SIGKILL
  assert (run / "lock").read_text().startswith("process ")
  train(run, settings)


def test_a_clock_that_jumps(home, tmp_path, monkeypatch):
  """Back by a day with each look at it: the last checkpoints are the last ones by their steps."""
  settings = overrides(home, checkpoint__every=1, checkpoint__keep=2, evaluation__every=3)
  train(tmp_path / "whole", settings)
  now, ticks = time.time(), iter(range(10**9))
  with monkeypatch.context() as patch:
    patch.setattr(time, "time", lambda: now - 86400.0 * next(ticks))
    patch.setattr(time, "time_ns", lambda: int((now - 86400.0 * next(ticks)) * 1e9))
    train(tmp_path / "run", settings | {"train.steps": 6})
    assert checkpoints.load_identity(str(tmp_path / "run"))["step"] == 6
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    train(tmp_path / "run", settings)
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")
  kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))
  assert kept[-2:] == [5, 6]


def poisoned(monkeypatch, *steps):
  """Makes the loss of these steps infinite, by way of the weights of their tokens."""
  step_of = iter(range(1, 10**6))

  def poisoning(*arguments):
    step_fn = jitted_step(*arguments)

    def step(state, frozen, reference, batches, *others):
      if next(step_of) in steps:
        with jax.transfer_guard("allow"):
          batches = batches._replace(weight=batches.weight * jnp.inf)
      return step_fn(state, frozen, reference, batches, *others)

    return step

  monkeypatch.setattr(loop, "jitted_step", poisoning)


def test_steps_that_are_not_finite_are_left_out_and_counted(home, tmp_path, monkeypatch, said):
  """As many as may be; the count outlives a restart, and the next one ends the run, which can be given more."""
  settings = overrides(home, checkpoint__every=1, train__skip_nonfinite=1, evaluation__every=2)
  run = tmp_path / "run"
  saved = {}
  save = checkpoints.Checkpoints.save

  def saving(self, step, state, *arguments):
    saved[step] = jax.tree.map(np.array, state)
    save(self, step, state, *arguments)

  monkeypatch.setattr(checkpoints.Checkpoints, "save", saving)
  poisoned(monkeypatch, 2, 4)
  with pytest.raises(RunError, match=r"step 4: loss .*; 8 rows .*\(1 such steps were left out\)"):
    train(run, settings)
  assert any(re.match(r"step 2: .*; 8 rows .*; left out, 1 of 1 that may be", x) for x in said())
  first, second = lines(run)[:2]
  assert first["skipped"] == 0 and second["skipped"] == 1 and "loss" not in second and "validation/loss" in second
  assert all(
    np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (saved[1].params, saved[2].params)), strict=True)
  )
  assert checkpoints.load_identity(str(run))["step"] == 3
  poisoned(monkeypatch, 1)  # it goes on with step 4
  with pytest.raises(RunError, match="step 4: loss"):
    train(run, settings)
  poisoned(monkeypatch, 1)
  train(run, settings | {"train.skip_nonfinite": 2})
  assert [line["skipped"] for line in lines(run)] == [0, 1, 1, 2, 2, 2]
  assert np.isfinite(lines(run)[-1]["loss"])


def test_leaving_out_changes_nothing_else(home, tmp_path):
  settings = overrides(home, train__steps=3)
  train(tmp_path / "one", settings)
  train(tmp_path / "other", settings | {"train.skip_nonfinite": 2})
  for one, other in zip(curve(tmp_path / "one"), curve(tmp_path / "other"), strict=True):
    assert other.pop("skipped") == 0
    assert one == pytest.approx(other, rel=1e-5)


def test_metrics_that_were_cut_off_are_cut_away(home, tmp_path):
  settings = overrides(home, checkpoint__every=2, checkpoint__keep=2)
  train(tmp_path / "run", settings)
  wanted = curve(tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
  path = tmp_path / "run" / "metrics.jsonl"
  path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]) + b'{"step": 6, "loss": {"a": 1}\n\xff')
  train(tmp_path / "run", settings)
  assert curve(tmp_path / "run") == wanted


def test_every_file_of_a_checkpoint_has_a_digest(whole):
  _, run, _ = whole
  for step in ("2", "4", "6"):
    folder = run / "checkpoints" / step
    listed = json.loads((folder / digests.NAME).read_text())["sha256"]
    has = {str(path.relative_to(folder)) for path in folder.glob("*/**/*") if path.is_file()}
    assert set(listed) == has and {name.split("/")[0] for name in has} >= {"params", "identity", "progress", "metrics"}
    assert digests.damage(folder) == ""


def test_shares_of_a_checkpoint_add_up(tmp_path):
  """Several processes each read a part of the files: one of them finds what is wrong."""
  for number in range(5):
    (tmp_path / "params").mkdir(exist_ok=True)
    (tmp_path / "params" / str(number)).write_bytes(bytes(100 + number))
  digests.write(tmp_path)
  flip_a_bit(tmp_path / "params" / "3")
  found = [digests.damage(tmp_path, part=(index, 3)) for index in range(3)]
  assert sorted(found) == ["", "", "params/3 is not what was written"]


def test_a_state_is_saved_with_what_a_run_has_counted(tmp_path):
  state = TrainState(jnp.int32(3), {"w": jnp.zeros(3)}, {})
  with checkpoints.Checkpoints(tmp_path, 1) as saver:
    saver.save(3, state, {}, False, {}, {"seconds": 2.5, "seed": 7})
  with checkpoints.Checkpoints(tmp_path, 1) as saver:
    assert saver.progress(3) == {"seconds": 2.5, "seed": 7}
