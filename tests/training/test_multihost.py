"""`medjax` as several processes: what they train, save and predict is what one process does, and they end together."""

import json
import re
import signal

import jax
import numpy as np
import pytest
import soak
from runs import flags, lines, overrides, train

from medjax import config as schema
from medjax import processes
from medjax.errors import UserError
from medjax.evaluation.evaluate import evaluate
from medjax.training import checkpoints, loop, mesh


@pytest.fixture
def four_devices(monkeypatch):
  make_mesh = mesh.make_mesh
  monkeypatch.setattr(
    loop.mesh, "make_mesh", lambda sizes, devices=None: make_mesh(sizes, devices or jax.devices()[:4])
  )


def check_same_run(one, other):
  """Sums of floats are in another order where processes are between them; all else is equal."""
  for a, b in zip(lines(one), lines(other), strict=True):
    a, b = (np.array([v for k, v in line.items() if k != "tokens_per_second"]) for line in (a, b))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  (params, about), (others, about_others) = (checkpoints.load_params(str(workdir)) for workdir in (one, other))
  kinds = ("config", "model", "tokenizer", "data", "steps", "step")
  assert checkpoints.differences(*({kind: each[kind] for kind in kinds} for each in (about, about_others))) == []
  for a, b in zip(*map(jax.tree.leaves, (params, others)), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_two_processes_stop_together_and_end_where_one_ends(home, tmp_path, forked, four_devices):
  """SIGTERM reaches one of them; kill -9 one, in a soak then the other; the last attempt is undisturbed."""
  settings = overrides(home, "dpo", checkpoint__every=2, evaluation__every=3)
  run, log = tmp_path / "run", tmp_path / "stderr"

  def ended_at(*points):
    return forked.run(["train", f"--workdir={run}", *flags(settings)], *points, log=log, devices=2)

  for _ in range(soak.count(0, 1)):
    assert ended_at("none", "stop_in_reference") == [75, 75], log.read_text()
    assert not checkpoints.is_checkpoint(str(run))
  assert ended_at("none", "stop") == [75, 75], log.read_text()
  assert checkpoints.load_identity(str(run))["step"] == 3, "a step after the one in which the signal came"
  left, killed = ended_at("none", "step")
  assert killed == -signal.SIGKILL and left not in (0, 75), "who is left does not wait for ever, nor claims success"
  assert checkpoints.load_identity(str(run))["step"] in (3, 4)
  for _ in range(soak.count(0, 1)):
    killed, left = ended_at("save", "none")
    assert killed == -signal.SIGKILL and left not in (0, 75)
    assert checkpoints.load_identity(str(run))["step"] in (3, 4)
  assert ended_at("none", "none") == [0, 0], log.read_text()
  assert len(re.findall("stopped at step 3 of 6 with a checkpoint saved", log.read_text())) == 2
  train(tmp_path / "one", settings)
  check_same_run(tmp_path / "one", run)


def test_two_processes_train_adapters_as_one(home, tmp_path, forked, four_devices):
  settings = overrides(home, lora__rank=2, lora__quantize="int8", evaluation__every=3, mesh__tensor=2, train__steps=3)
  run, log = tmp_path / "run", tmp_path / "stderr"
  words = ["train", f"--workdir={run}", *flags(settings)]
  assert forked.run(words, "none", "none", log=log, devices=2) == [0, 0], log.read_text()
  train(tmp_path / "one", settings)
  check_same_run(tmp_path / "one", run)


def test_two_processes_generate_as_one(home, tmp_path, forked, four_devices):
  model, log = str(home / "model"), tmp_path / "stderr"
  config = tmp_path / "config.py"
  config.write_text("from medjax.config import base_config\nget_config = base_config\n")
  settings = {"task": "clinical_reasoning", "model.path": model, "data.test_rows": 5}
  words = ["eval", f"--config={config}", f"--checkpoint={model}", "--split=test", *flags(settings)]
  workdirs = [[f"--workdir={tmp_path / 'two'}"], [f"--workdir={tmp_path / 'other'}"]]
  assert forked.run(words, "none", "none", log=log, more=workdirs, devices=2) == [0, 0], log.read_text()
  evaluate(schema.with_overrides(schema.base_config(), settings), model, "test", tmp_path / "one")
  (two,) = (tmp_path / "two").rglob("predictions.jsonl")
  assert two.read_text() == (tmp_path / "one/predictions.jsonl").read_text()
  assert not (tmp_path / "other").exists(), "process 0 alone writes"


def test_two_processes_score_every_checkpoint_as_one(home, tmp_path, forked, four_devices):
  settings = {"task": "numeric_classification", "model.path": str(home / "model"), "train.steps": 2}
  settings |= {"data.train_rows": 8, "data.validation_rows": 5, "train.batch_size": 4, "optimizer.warmup_steps": 0}
  run, log = tmp_path / "run", tmp_path / "stderr"
  train(run, settings | {"checkpoint.every": 1, "checkpoint.keep": 2})
  words = ["eval", "--watch", "--split=validation", f"--workdir={run}"]
  assert forked.run(words, "none", "none", log=log, devices=2) == [0, 0], log.read_text()
  table = json.loads((run / "eval/every-validation.json").read_text())
  assert [row["step"] for row in table["steps"]] == [1, 2]
  config = schema.with_overrides(schema.base_config(), settings)
  evaluate(config, str(run / "checkpoints/1"), "validation", tmp_path / "one")
  lines = (tmp_path / "one/predictions.jsonl").read_text()
  assert (run / "eval/1-validation/predictions.jsonl").read_text() == lines


def test_processes_that_differ_or_fail_end_together(home, tmp_path, forked):
  """Other rows, a file that one host does not have, a folder that they do not share, a verb for one process."""
  words = ["train", f"--workdir={tmp_path / 'run'}", *flags(overrides(home, train__steps=2))]
  log, other = tmp_path / "stderr", tmp_path / "other.jsonl"
  other.write_text((home / "sft.jsonl").read_text().replace("case-3", "case-x"))

  def ended(*more):
    return forked.run(words, "none", "none", log=log, more=[[], [*more]], devices=2)

  def said(line):
    return log.read_text().count(line)

  assert ended(f"--config.data.source={other}") == [2, 2]
  assert said("process 1 has another config and data (train and validation rows) than process 0") == 2
  assert ended(f"--config.data.source={tmp_path / 'missing' / 'other.jsonl'}") == [1, 2]
  assert said("medjax: process 1 failed: data source") == 1, log.read_text()
  assert ended(f"--workdir={tmp_path / 'elsewhere'}") == [2, 2]
  assert said(f"process 1 does not see what process 0 writes in {tmp_path}") == 2
  assert forked.run(["study", f"--workdir={tmp_path / 'study'}"], "none", "none", log=log, devices=2) == [2, 2]
  assert said("medjax study runs in one process, and this is one of 2; start it alone") == 2
  assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (("host:1", "2", None), "MEDJAX_PROCESS_ID is not set, but another of"),
    (("host", "2", "0"), "MEDJAX_COORDINATOR is 'host'; it must be HOST:PORT"),
    (("host:1", "2", "2"), "MEDJAX_PROCESSES is '2' and MEDJAX_PROCESS_ID '2'"),
    (("host:1", "two", "0"), "MEDJAX_PROCESSES is 'two'"),
  ],
)
def test_variables_that_make_no_group_are_refused(monkeypatch, values, message):
  names = "MEDJAX_COORDINATOR", "MEDJAX_PROCESSES", "MEDJAX_PROCESS_ID"
  for name, value in zip(names, values, strict=True):
    if value is not None:
      monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=message):
    processes.join()
