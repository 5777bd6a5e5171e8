"""Which checkpoints stay, how they are named, and what a save that goes on in the background holds."""

import asyncio
import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.serialization import jax_array_handlers
from runs import lines, overrides, train

import medjax
from medjax.cli.verb import run_config
from medjax.errors import UserError
from medjax.training import checkpoints
from medjax.training.state import TrainState
from medjax.training.telemetry import Telemetry


def save(workdir, keep, losses):
  """Saves small states by step, each with its validation loss or None."""
  with contextlib.closing(checkpoints.Checkpoints(workdir, keep)) as saver:
    for step, loss in losses.items():
      state = TrainState(jnp.int32(step), {"w": jnp.full(3, float(step))}, {})
      saver.save(step, state, {}, False, {} if loss is None else {"validation/loss": loss}, {})
  return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))


def same(one, other) -> bool:
  return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_the_best_stays_beside_the_last(tmp_path):
  """Neither a loss that is not a number nor a checkpoint that was not validated is the best."""
  assert save(tmp_path, 2, {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: None, 6: 2.5}) == [2, 5, 6]
  assert checkpoints.load_identity(str(tmp_path / "best"))["step"] == 2
  assert checkpoints.load_identity(str(tmp_path))["step"] == 6
  assert save(tmp_path, 2, {7: None, 8: 1.5}) == [2, 7, 8], "also in a later process"
  assert save(tmp_path, 2, {9: 0.5}) == [8, 9]
  assert checkpoints.load_identity(str(tmp_path / "best"))["step"] == 9


def test_without_validation_there_is_no_best(tmp_path):
  assert save(tmp_path, 1, {1: None, 2: None}) == [2]
  with pytest.raises(
    UserError, match="no checkpoint in .*checkpoints has a validation loss; train with evaluation.every"
  ):
    checkpoints.is_checkpoint(str(tmp_path / "best"))
  assert not checkpoints.is_checkpoint(str(tmp_path / "other" / "best"))


@pytest.mark.parametrize("name", ["run", "run/best", "run/checkpoints/12"])
def test_every_name_of_a_checkpoint_leads_to_its_config(tmp_path, name):
  assert run_config(str(tmp_path / name)) == tmp_path / "run" / "config.json"


def test_steps_go_on_while_a_checkpoint_is_written(home, tmp_path, monkeypatch):
  """Writing is held up until two more steps have run, which the saved state was donated to: the file has its values."""
  held, waited = threading.Event(), []
  write_arrays = jax_array_handlers._async_serialize_replica_slices

  async def writing(*arguments, **options):
    waited.append(await asyncio.to_thread(held.wait, 60))
    return await write_arrays(*arguments, **options)

  saved, save_state = [], checkpoints.Checkpoints.save

  def saving(self, step, state, *arguments):
    saved.append(jax.tree.map(lambda x: np.array(x, copy=True), state.params))
    save_state(self, step, state, *arguments)

  write, folder = Telemetry.write, tmp_path / "run" / "checkpoints"

  def telling(self, step, values):
    write(self, step, values)
    if step == 5:
      assert list(folder.glob("3.*tmp*")) and not (folder / "3").exists()
      held.set()

  monkeypatch.setattr(jax_array_handlers, "_async_serialize_replica_slices", writing)
  monkeypatch.setattr(checkpoints.Checkpoints, "save", saving)
  monkeypatch.setattr(Telemetry, "write", telling)
  train(tmp_path / "run", overrides(home, checkpoint__every=3, checkpoint__keep=2, evaluation__every=2))
  assert waited and all(waited), "the loop waited for the save"
  for step, wanted in zip((3, 6), saved, strict=True):
    assert same(checkpoints.load_params(str(folder / str(step)))[0], wanted)
  assert not same(*saved)
  assert [line["step"] for line in lines(tmp_path / "run") if "validation/loss" in line] == [2, 4, 6]
  best = medjax.load(str(tmp_path / "run" / "best"))
  assert same(best.params, saved[1])
