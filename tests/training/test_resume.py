"""Processes that are killed anywhere end where an uninterrupted run ends; a checkpoint goes on under any mesh."""

import shutil
import signal

import jax
import numpy as np
import pytest
import soak
from runs import curve, flags, lines, overrides, train

from medjax.training import checkpoints, loop, mesh


def steps_saved(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def half_written(workdir):
  return list((workdir / "checkpoints").glob("*tmp*"))


def test_killed_anywhere(home, tmp_path, cache, forked):
  """Five kill points and a SIGTERM, one after the other in one workdir; each process goes on from what it finds."""
  settings = overrides(home, "dpo", train__steps=8, checkpoint__every=2, evaluation__every=3)
  run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "stderr"

  def ended_at(point):
    return forked.run(["train", f"--workdir={run}", *flags(settings)], point, log=log)

  def killed(point):
    assert ended_at(point) == -signal.SIGKILL, log.read_text()

  killed("reference")
  assert not list((cache / "reference").glob("*.npy")) and not (run / "metrics.jsonl").exists()
  killed("save")
  assert half_written(run) and steps_saved(run) == []
  assert len(lines(run)) >= 2, "the loop does not wait for the save of step 2"
  killed("step")
  assert steps_saved(run) == []
  killed("between")
  assert steps_saved(run) == [2]
  killed("validation")
  assert steps_saved(run) == [2]
  assert [line["step"] for line in lines(run)] == [1, 2]
  assert ended_at("stop") == 75, log.read_text()
  assert log.read_text().splitlines()[-1].startswith("medjax train: stopped at step 4 of 8 with a checkpoint saved")
  assert steps_saved(run) == [2, 4]

  train(run, settings)
  shutil.rmtree(cache)
  train(whole, settings)
  assert not half_written(run)
  assert [line["step"] for line in lines(run)] == list(range(1, 9))
  assert curve(run) == curve(whole)
  ended = [checkpoints.load_params(str(workdir))[0] for workdir in (run, whole)]
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, ended), strict=True))


@pytest.fixture(scope="module")
def half_way(home, tmp_path_factory):
  """A run of 6 steps on eight devices (fsdp): its curve, its folder as it was after step 3, and the state then."""
  path = tmp_path_factory.mktemp("layouts")
  settings = overrides(home, checkpoint__every=3, checkpoint__keep=2)
  states, save = [], checkpoints.Checkpoints.save

  def saving(self, step, state, *arguments):
    states.append(jax.tree.map(np.array, state))
    save(self, step, state, *arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("MEDJAX_CACHE", str(path / "cache"))
    patch.setattr(checkpoints.Checkpoints, "save", saving)
    train(path / "run", settings)
  wanted = lines(path / "run")
  shutil.rmtree(path / "run" / "checkpoints" / "6")
  return settings, path / "run", wanted, states[0]


@pytest.mark.parametrize(
  ("sizes", "devices"),
  soak.some(
    [
      ({"mesh.fsdp": 2, "mesh.tensor": 2, "mesh.sequence": 2}, 8),
      ({}, 1),
      ({"mesh.fsdp": 1, "mesh.sequence": 8}, 8),
      ({"mesh.data": 2, "mesh.fsdp": 2}, 4),
    ],
    2,
  ),
)
def test_another_mesh_goes_on(half_way, tmp_path, monkeypatch, sizes, devices):
  settings, folder, wanted, saved = half_way
  shutil.copytree(folder, tmp_path / "run")
  restored, restore, make_mesh = [], checkpoints.Checkpoints.restore, mesh.make_mesh

  def restoring(*arguments):
    state = restore(*arguments)
    restored.append(jax.tree.map(np.array, state))
    return state

  monkeypatch.setattr(checkpoints.Checkpoints, "restore", restoring)
  monkeypatch.setattr(loop.mesh, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:devices]))
  train(tmp_path / "run", settings | sizes)
  (state,) = restored
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state, saved)), strict=True))
  seen = lines(tmp_path / "run")
  assert seen[:3] == wanted[:3]
  for line, expected in zip(seen[3:], wanted[3:], strict=True):
    assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
