"""Every checkpoint of a run is scored as one alone is, once; a study's test rows are not looked at unasked."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
import tiny
from runs import train

from medjax import config as schema
from medjax import tasks
from medjax.cli import main as cli
from medjax.data.examples import Row
from medjax.evaluation import every as module
from medjax.evaluation.evaluate import evaluate
from medjax.evaluation.every import evaluate_every
from medjax.objectives import scoring
from medjax.study import looks
from medjax.study.plan import OPTIONS
from medjax.tasks.task import Target, Task
from medjax.training import policy


def rows(first, count):
  return [
    Row(f"case-{index}", f"patient-{index}", {"value": 110 + index}, {"level": ("low", "high")[index % 3 > 0]})
    for index in range(first, first + count)
  ]


TASK = Task(
  name="sodium",
  description="for these tests",
  targets={"level": Target(("low", "high"), primary="accuracy")},
  instruction="Say it.",
  render=lambda fields: f"Na {fields['value']}",
  answer="{level}",
  rejections=lambda labels, fields, rng: [({"level": "low" if labels["level"] == "high" else "high"}, "test")],
  load=lambda: {"train": rows(0, 12), "validation": rows(20, 6), "test": rows(40, 6)},
)


def settings(home, **changes):
  return {
    "task": "sodium",
    "model.path": str(home / "model"),
    "train.steps": 3,
    "train.batch_size": 2,
    "train.row_length": 128,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 1e-2,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
  } | {key.replace("__", "."): value for key, value in changes.items()}


def config(home, **changes):
  return schema.with_overrides(schema.base_config(), settings(home, **changes))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("every")
  tiny.write_model(folder / "model")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.task._TASKS, "sodium", TASK)
    patch.setenv("MEDJAX_CACHE", str(folder / "cache"))
    train(folder / "run", settings(folder))
    yield folder


@pytest.fixture
def run(home, tmp_path):
  """A run with checkpoints of steps 1 to 3, of which 3 is the last."""
  return shutil.copytree(home / "run", tmp_path / "run")


@pytest.fixture
def soon(monkeypatch):
  monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)


def when_of(run):
  return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("eval/*/predictions.jsonl")}


def test_each_checkpoint_is_scored_as_alone_with_programs_that_all_share_and_not_again(home, run, tmp_path):
  scoring._logp_BN.clear_cache()  # another test may have compiled an equal program
  told = []
  table = evaluate_every(config(home), run, "validation", tell=told.append)
  assert scoring._logp_BN._cache_size() == 1
  assert [row["step"] for row in table["steps"]] == [1, 2, 3] and table["primary"] == {"level": "accuracy"}
  assert json.loads((run / "eval/every-validation.json").read_text()) == table
  assert (run / "eval/every-validation.png").read_bytes().startswith(b"\x89PNG")
  for row in table["steps"]:
    alone = evaluate(config(home), str(run / f"checkpoints/{row['step']}"), "validation", tmp_path / "alone")
    assert row["values"] == {"level": alone["targets"]["level"]["accuracy"]}
    lines = (tmp_path / "alone/predictions.jsonl").read_text()
    assert (run / f"eval/{row['folder']}/predictions.jsonl").read_text() == lines
  assert told[0].split() == ["step", "level.accuracy"] and [line.split()[0] for line in told[1:]] == ["1", "2", "3"]
  times = when_of(run)
  (run / "eval/2-validation/metrics.json").write_text("{}")
  shutil.rmtree(run / "checkpoints/1")
  assert evaluate_every(config(home), run, "validation") == table
  again = when_of(run)
  assert {name for name in times if times[name] != again[name]} == {"2-validation"}, "which alone was spoilt"
  evaluate_every(config(home, data__max_prompt=60), run, "validation")
  later = when_of(run)
  assert {name for name in again if again[name] != later[name]} == {"2-validation", "3-validation"}


def test_weights_below_adapters_are_read_once(home, tmp_path, monkeypatch):
  changes = {"lora__rank": 2, "lora__quantize": "int8"}
  train(tmp_path / "run", settings(home, **changes))
  read, base_weights = [], policy.base_weights
  monkeypatch.setattr(policy, "base_weights", lambda *args: read.append(args[0]) or base_weights(*args))
  table = evaluate_every(config(home, **changes), tmp_path / "run", "validation")
  assert read == [str(home / "model")]
  last = tmp_path / "run/checkpoints/3"
  alone = evaluate(config(home, **changes), str(last), "validation", tmp_path / "alone")
  assert table["steps"][-1]["values"] == {"level": alone["targets"]["level"]["accuracy"]}
  both = (tmp_path / "alone/predictions.jsonl", tmp_path / "run/eval/3-validation/predictions.jsonl")
  assert both[0].read_text() == both[1].read_text()


def test_a_checkpoint_that_is_deleted_before_it_is_read_is_left_out(home, run, caplog):
  def look(checkpoint, model):
    if checkpoint.endswith("/2"):
      shutil.rmtree(checkpoint)

  table = evaluate_every(config(home), run, "validation", look=look)
  assert [row["step"] for row in table["steps"]] == [1, 3]
  assert f"{run / 'checkpoints/2'} was deleted before it could be read" in caplog.text


def test_one_that_is_damaged_and_stays_is_an_error(run, capsys):
  (run / "checkpoints/2/digests.json").write_text("{}")
  assert cli.main(["eval", "--every", f"--workdir={run}"]) == 2
  assert "checkpoints/2 is damaged (digests.json cannot be read)" in capsys.readouterr().err


def test_watching_waits_for_the_last_step(home, run, tmp_path, soon, capsys):
  aside = tmp_path / "aside"
  shutil.move(run / "checkpoints", aside)
  (run / "checkpoints").mkdir()

  def save():
    for step in (1, 2, 3):
      time.sleep(0.3)
      shutil.move(aside / str(step), run / "checkpoints" / str(step))

  saving = threading.Thread(target=save)
  saving.start()
  assert cli.main(["eval", "--watch", f"--workdir={run}", "--split=validation"]) == 0
  saving.join()
  header, *lines, table, curve = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["1", "2", "3"]
  assert (table, curve) == tuple(str(run / f"eval/every-validation.{kind}") for kind in ("json", "png"))
  assert cli.main(["eval", "--every", f"--workdir={run}", "--split=validation", "--json"]) == 0
  assert [row["step"] for row in json.loads(capsys.readouterr().out)["steps"]] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_watch_with_75_and_what_was_scored_stays(run, soon, number, capsys):
  shutil.rmtree(run / "checkpoints/3")

  def ask():
    table = run / "eval/every-validation.json"
    while not (table.exists() and '"step": 2' in table.read_text()):
      time.sleep(0.02)
    os.kill(os.getpid(), number)

  threading.Thread(target=ask).start()
  before = signal.getsignal(number)
  assert cli.main(["eval", "--watch", f"--workdir={run}", "--split=validation"]) == 75
  assert signal.getsignal(number) == before
  assert "stopped; what was scored is kept: run the same command to go on" in capsys.readouterr().err
  assert [row["step"] for row in json.loads((run / "eval/every-validation.json").read_text())["steps"]] == [1, 2]


def test_test_rows_of_a_study_are_looked_at_once_unless_more_is_allowed(run, tmp_path, capsys):
  folder = tmp_path / "study/runs/sodium/seed0/sft/candidate0"
  shutil.copytree(run, folder)
  (tmp_path / "study" / OPTIONS).write_text("{}")
  command = ["eval", "--every", f"--workdir={folder}", "--split=test"]
  assert cli.main(command) == 2
  assert (
    "3 checkpoints are to be scored on them; take --split=validation, or --allow_second_look" in capsys.readouterr().err
  )
  assert not (tmp_path / "study" / looks.FILE).exists() and not (folder / "eval").exists()

  for step in (1, 2):
    shutil.move(folder / f"checkpoints/{step}", tmp_path / f"{step}")
  assert cli.main(command) == 0, "one checkpoint is one look"
  shutil.move(folder / "checkpoints/3", tmp_path / "3")
  shutil.move(tmp_path / "2", folder / "checkpoints/2")
  capsys.readouterr()
  assert cli.main(command) == 2
  assert "were scored for sft, seed 0, with other weights before" in capsys.readouterr().err
  assert not (folder / "eval/2-test").exists()

  for step in (1, 3):
    shutil.move(tmp_path / f"{step}", folder / f"checkpoints/{step}")
  for _ in range(2):
    assert cli.main([*command, "--allow_second_look"]) == 0
    found = looks.read(tmp_path / "study")
    assert len(found) == 3 and len(looks.second(found)) == 2 and {look.by for look in found} == {"eval"}


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--every", "--checkpoint=c"], "--every and --watch take the checkpoints of --workdir; leave out --checkpoint"),
    ([], "--checkpoint is needed, or --every for all of --workdir"),
    (["--every", "--config.task=sodium"], "holds no checkpoint; give the --workdir of a run"),
  ],
)
def test_flags_that_do_not_fit(home, words, message, tmp_path, capsys):
  assert cli.main(["eval", f"--workdir={tmp_path}", *words]) == 2
  assert message in capsys.readouterr().err
