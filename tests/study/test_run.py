"""The study as a command: what it leaves, and that an interrupted one ends with the same numbers."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from tiny import write_model

from medjax import config as schema
from medjax import tasks
from medjax.errors import UserError
from medjax.study import run as study_run
from medjax.tasks import baselines

CONFIG = """
from medjax.config import base_config


def get_config():
  config = base_config()
  config.model.path = {model!r}
  config.data.train_rows = 12
  config.data.validation_rows = 6
  config.data.test_rows = 24
  config.train.steps = 6
  config.train.batch_size = 2
  config.train.row_length = 640
  config.train.microbatch_rows = 1
  config.optimizer.warmup_steps = 1
  config.evaluation.batch_size = 4
  config.checkpoint.every = 2
  config.study.tasks = ("numeric_classification",)
  config.study.grid = {{
    "sft": ({{"optimizer.learning_rate": 1e-3}}, {{"optimizer.learning_rate": 1e-2}}),
    "dpo": ({{"optimizer.learning_rate": 1e-3}},),
  }}
  return config
"""
RUNS = pathlib.Path("runs/numeric_classification/seed0")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  folder = tmp_path_factory.mktemp("study")
  model = write_model(folder / "model", max_position_embeddings=1024)
  (folder / "config.py").write_text(CONFIG.format(model=str(model)))
  return folder


def command(setup, workdir):
  flags = [f"--config={setup / 'config.py'}", f"--workdir={workdir}"]
  one_device = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
  environment = {**os.environ, "MEDJAX_CACHE": str(setup / "cache"), "XLA_FLAGS": one_device}
  return dict(args=[sys.executable, "-m", "medjax", "study", *flags], env=environment, cwd=setup)


@pytest.fixture(scope="module")
def whole(setup):
  """The study that nothing interrupts."""
  done = subprocess.run(**command(setup, setup / "whole"), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return setup / "whole", done.stdout, done.stderr


def numbers(workdir):
  study = json.loads((workdir / "study.json").read_text())
  del study["environment"]
  return json.loads(json.dumps(study).replace(str(workdir), "WORKDIR"))


def test_every_method_and_target_has_intervals_and_files_are_named(whole):
  workdir, printed, _ = whole
  study = json.loads((workdir / "study.json").read_text())
  primary = {row["method"]: row for row in study["results"] if row["primary"]}
  assert {method for method, row in primary.items() if not row["baseline"]} == {"base", "sft", "dpo"}
  assert {method for method, row in primary.items() if row["baseline"]} == {"majority", "bag_of_words"}
  assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 24 for row in primary.values())
  assert {(row["a"], row["b"]) for row in study["comparisons"]} == {("base", "sft"), ("sft", "dpo"), ("base", "dpo")}
  assert [row["verdict"] for row in study["recommendations"]] != []
  assert str(workdir / "study.json") in printed and str(workdir / "report.md") in printed


def test_the_plan_is_told_before_and_progress_with_the_time_left(whole):
  lines = whole[2].splitlines()
  plan = lines.index(next(line for line in lines if line.startswith("task ")))
  assert [line.split() for line in lines[plan + 1 : plan + 4]] == [
    ["numeric_classification", "base", "0", "1", "-", "-", "-", "24", lines[plan + 1].split()[-1]],
    ["numeric_classification", "sft", "0", "2", "6", "12", "6", "24", lines[plan + 2].split()[-1]],
    ["numeric_classification", "dpo", "0", "1", "6", "12", "-", "24", lines[plan + 3].split()[-1]],
  ]
  shares = [int(line.split()[-1].rstrip("%")) for line in lines[plan + 1 : plan + 4]]
  assert sum(shares) == pytest.approx(100, abs=1) and shares[1] == max(shares)
  told = [re.search(r"study: (\d+) %, (.*) after", line) for line in lines[plan:]]
  told = [(int(found[1]), found[2]) for found in told if found]
  assert [share for share, _ in told] == sorted({share for share, _ in told}), "further with each stage"
  assert len(told) == 8 and told[-1] == (100, "done") and re.fullmatch(r"about \d+ (s|min) left", told[0][1])


def test_baselines_are_fitted_on_the_rows_of_sft_and_scored_on_the_test_rows(whole):
  study = json.loads((whole[0] / "study.json").read_text())
  task = tasks.get("numeric_classification")
  rows = task.load()
  wanted = baselines.bag_of_words(rows["train"][:12], rows["test"][:24], task)["thyroid"]
  right = [guess == row.labels["thyroid"] for guess, row in zip(wanted, rows["test"][:24], strict=True)]
  (found,) = (row for row in study["results"] if row["method"] == "bag_of_words" and row["metric"] == "accuracy")
  assert (found["value"], found["n"], found["split"]) == (pytest.approx(sum(right) / 24), 24, "test")
  assert found["low"] <= found["value"] <= found["high"]
  assert len(study["comparisons"]) == 3, "Holm's family is that of the methods"


def test_chosen_on_validation_and_tested_once(whole):
  workdir = whole[0]
  study = json.loads((workdir / "study.json").read_text())
  chosen = next(row["candidate"] for row in study["protocol"]["chosen"] if row["method"] == "sft")
  validated = {
    index: json.loads((workdir / RUNS / f"sft/candidate{index}/eval/validation/metrics.json").read_text())
    for index in (0, 1)
  }
  values = {index: metrics["targets"]["thyroid"]["macro_f1"] for index, metrics in validated.items()}
  assert values[chosen] == max(values.values())
  tested = sorted(path.parent.parent.parent.name for path in workdir.glob(str(RUNS / "sft/*/eval/test/metrics.json")))
  assert tested == [f"candidate{chosen}"]
  dpo = json.loads((workdir / RUNS / "dpo/candidate0/config.json").read_text())
  assert dpo["train"]["init_from"].endswith(f"sft/candidate{chosen}")


# Where the study is killed: as soon as this file is there (a folder of Orbax is complete when it has its last name).
KILL_AT = {
  "base tested": "base/candidate0/eval/test/metrics.json",
  "training": "sft/candidate0/checkpoints/2",
  "between candidates": "sft/candidate0/eval/validation/metrics.json",
  "reference pass": "dpo/candidate0/config.json",
  "last test": "dpo/candidate0/checkpoints/6",
}


@pytest.mark.parametrize("point", KILL_AT)
def test_killed_and_resumed_gives_the_same_study(point, setup, whole):
  workdir = setup / point.replace(" ", "-")
  process = subprocess.Popen(**command(setup, workdir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  while not (workdir / RUNS / KILL_AT[point]).exists():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (workdir / "study.json").exists()
  done = subprocess.run(**command(setup, workdir), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert numbers(workdir) == numbers(whole[0])


def test_another_study_in_the_folder_is_refused(whole, setup):
  config = schema.with_overrides(schema.load(str(setup / "config.py"), {}), {"train.steps": 7})
  with pytest.raises(UserError, match="another study .*train.steps: 6 -> 7"):
    study_run.study(config, whole[0])
