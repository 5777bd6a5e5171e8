"""Which step of a workdir a path names, and what happens to damaged ones; without a model."""

import math

import pytest

from medjax.errors import UserError
from medjax.training import checkpoints, digests


def write_step(workdir, step):
  """A step with what a reader needs, whole by its digests."""
  folder = workdir / "checkpoints" / str(step)
  for item in ("params", "identity", "metrics"):
    (folder / item).mkdir(parents=True)
    (folder / item / "data").write_text(f"{item} of {step}")
  digests.write(folder)
  return folder


@pytest.fixture
def workdir(tmp_path):
  for step in (2, 10, 9):
    write_step(tmp_path, step)
  (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
  (tmp_path / "checkpoints" / "12").mkdir()
  return tmp_path


def spoil(folder):
  (folder / "params" / "data").write_text("params of 0!"[: len((folder / "params" / "data").read_text())])


def test_steps_are_folders_named_by_numbers(workdir):
  assert checkpoints.saved_steps(workdir / "checkpoints") == [2, 9, 10, 12]


def test_a_path_names_the_last_step_or_its_own(workdir):
  home = workdir / "checkpoints"
  for path, step in ((workdir, 10), (home, 10), (home / "9", 9), (home / "2", 2)):
    assert checkpoints.locate(path) == (home, step)
  assert checkpoints.locate(workdir / "elsewhere") is None
  assert checkpoints.is_checkpoint(str(workdir)) and not checkpoints.is_checkpoint(str(workdir / "elsewhere"))


def test_behind_a_damaged_step_the_one_before_it_is_taken(workdir):
  home = workdir / "checkpoints"
  spoil(home / "10")
  assert checkpoints.locate(workdir) == (home, 9)
  spoil(home / "9"), spoil(home / "2")
  with pytest.raises(UserError, match="damaged checkpoints only"):
    checkpoints.locate(workdir)


def test_a_named_step_that_is_damaged_is_refused_with_the_file(workdir):
  spoil(workdir / "checkpoints" / "9")
  with pytest.raises(UserError, match=r"checkpoints/9 is damaged \(params/data is not what was written\)"):
    checkpoints.load_identity(str(workdir / "checkpoints" / "9"))
  with pytest.raises(UserError, match="holds no whole checkpoint"):
    checkpoints.load_identity(str(workdir / "elsewhere"))


def test_a_run_that_goes_on_has_damaged_steps_out_of_its_way(workdir):
  home = workdir / "checkpoints"
  (home / "12").rmdir()
  spoil(home / "10"), (home / "2" / "params" / "data").unlink()
  with checkpoints.Checkpoints(workdir, keep=2) as kept:
    assert kept.latest() == 9
  assert checkpoints.saved_steps(home) == [9]
  assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["10", "2"]


def test_a_second_damaged_step_of_the_same_number_does_not_replace_the_first(workdir):
  for _ in range(2):
    spoil(workdir / "checkpoints" / "10")
    checkpoints.Checkpoints(workdir, keep=2).close()
    write_step(workdir, 10)
  assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["10", "10-1", "12"]


def test_where_all_steps_are_damaged_the_run_ends_and_nothing_is_moved(workdir):
  home = workdir / "checkpoints"
  for step in (2, 9, 10):
    spoil(home / str(step))
  with pytest.raises(UserError, match=f"{home}/12 is damaged .* no other checkpoint is good"):
    checkpoints.Checkpoints(workdir, keep=2)
  assert checkpoints.saved_steps(home) == [2, 9, 10, 12]


def test_a_loss_that_is_no_number_is_never_the_best():
  losses = [{"validation/loss": loss} for loss in (0.5, math.nan, -math.inf, 0.25)]
  assert [checkpoints._loss(metrics) for metrics in losses] == [0.5, math.inf, math.inf, 0.25]


def test_the_best_is_not_looked_for_among_damaged_metrics(workdir):
  (workdir / "checkpoints" / "2" / "metrics" / "data").write_text("metrics of !")
  with pytest.raises(UserError, match="checkpoints/2 is damaged .* so which one is the best is not known"):
    checkpoints.locate(workdir / "best")
