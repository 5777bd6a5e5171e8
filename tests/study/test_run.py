"""The study as a command: what it leaves, and that an interrupted one ends with the same numbers."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import soak
from tiny import write_model

from medjax import config as schema
from medjax import tasks
from medjax.errors import UserError
from medjax.study import looks
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
AT_A_TIME = min(2, len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
  folder = tmp_path_factory.mktemp("study")
  model = write_model(folder / "model", max_position_embeddings=1024)
  (folder / "config.py").write_text(CONFIG.format(model=str(model)))
  return folder


def command(setup, workdir, *more):
  flags = [f"--config={setup / 'config.py'}", f"--workdir={workdir}", "--subgroups=age:20,sex", *more]
  one_device = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
  environment = {**os.environ, "MEDJAX_CACHE": str(setup / "cache"), "XLA_FLAGS": one_device}
  return dict(args=[sys.executable, "-m", "medjax", "study", *flags], env=environment, cwd=setup)


@pytest.fixture(scope="module")
def whole(setup):
  """The study that nothing interrupts, with runs side by side."""
  flags = ("--halving=2", f"--parallel={AT_A_TIME}")
  done = subprocess.run(**command(setup, setup / "whole", *flags), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return setup / "whole", done.stdout, done.stderr


def numbers(workdir):
  study = json.loads((workdir / "study.json").read_text())
  del study["environment"], study["fingerprint"]
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
  assert study["environment"]["devices"] == "1 x cpu" and study["environment"]["parallel"] == AT_A_TIME


def test_details_are_of_the_same_runs_and_rows(whole):
  study = json.loads((whole[0] / "study.json").read_text())
  chosen = {(row["method"], row["candidate"]): row for row in study["training"]}
  assert {(row["method"], row["chosen"]) for row in study["cost"]} == {("sft", True), ("sft", False), ("dpo", True)}
  for row in study["cost"]:
    assert row["flops"] > 0 and (row["reference_flops"] > 0) == (row["method"] == "dpo")
    if row["chosen"]:
      assert row["tokens"] == chosen[row["method"], row["candidate"]]["tokens"]
  splits = study["data"]["numeric_classification"]["splits"]
  assert {split: of["data"] for split, of in splits.items()} == study["environment"]["data"]["numeric_classification"]
  assert [(row["method"], row["n"]) for row in study["calibration"]] == [("base", 24), ("sft", 24), ("dpo", 24)]
  assert [(row["method"], row["unparseable"], row["n"]) for row in study["unparseable"]] == [
    *(("base", 0, 24), ("sft", 0, 24)),
    ("dpo", 0, 24),
  ]
  for column in ("age", "sex"):
    own = [row for row in study["subgroups"] if (row["column"], row["method"]) == (column, "sft")]
    assert sum(row["n"] for row in own) == 24 and len(own) > 1
  page = (whole[0] / "report.html").read_text()
  assert all(f'id="{part}"' in page for part in ("subgroups", "calibration", "cost", "data", "training"))


NAMED_BY_DATA = {"settings", "packages", "training_seconds", "labels", "rows", "answers", "starts", "splits", "targets"}


def keys_of(value):
  """Keys of a JSON value at all depths, without those that are names of tasks, labels or settings."""
  if isinstance(value, list):
    return set().union(*map(keys_of, value))
  if not isinstance(value, dict):
    return set()
  return set(value).union(*(set() if key in NAMED_BY_DATA else keys_of(inner) for key, inner in value.items()))


def test_every_key_of_study_json_is_in_its_documented_schema(whole):
  study = json.loads((whole[0] / "study.json").read_text())
  text = (pathlib.Path(__file__).parents[2] / "docs/architecture.md").read_text()
  documented = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("and `study.json`:")[1].split("###")[0], re.M))
  assert set(study) == set(documented)
  for key, value in study.items():
    own = (
      [value]
      if key != "data"
      else [*value.values(), *(card["splits"][s] for card in value.values() for s in card["splits"])]
    )
    if key == "environment":
      own = [{**value, "data": None}]
    if key == "protocol":
      own = [{name: inner for name, inner in value.items() if name != "chosen"}, {"chosen": None}]
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", documented[key]))))
    assert keys_of(own) - words == set(), key


def test_the_plan_is_told_before_and_progress_with_the_time_left(whole):
  lines = whole[2].splitlines()
  plan = lines.index(next(line for line in lines if line.startswith("task ")))
  assert [line.split()[:8] for line in lines[plan + 1 : plan + 4]] == [
    ["numeric_classification", "base", "0", "1", "-", "-", "-", "24"],
    ["numeric_classification", "sft", "0", "2", "3/6", "12", "6", "24"],
    ["numeric_classification", "dpo", "0", "1", "6", "12", "-", "24"],
  ]
  assert all(re.fullmatch(r"\d+ (s|min)", " ".join(line.split()[8:])) for line in lines[plan + 1 : plan + 4])
  assert re.fullmatch(r"3 runs to train(, 2 at a time)?; about \d+ (s|min) .* on 1 x cpu", lines[plan + 4])
  assert lines[plan + 5].startswith("tuning budgets differ") and "sft 2 settings" in lines[plan + 6]
  told = [re.search(r"study: (\d+) %, (.*) after", line) for line in lines[plan:]]
  told = [(int(found[1]), found[2]) for found in told if found]
  assert [share for share, _ in told] == sorted(share for share, _ in told)
  assert len(told) == 9 and told[-1] == (100, "done") and re.fullmatch(r"about \d+ (s|min) left", told[0][1])


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


def test_halved_on_validation_and_tested_once(whole):
  workdir = whole[0]
  study = json.loads((workdir / "study.json").read_text())
  chosen = next(row["candidate"] for row in study["protocol"]["chosen"] if row["method"] == "sft")
  validated = {
    index: json.loads((workdir / RUNS / f"sft/candidate{index}/eval/validation-3/metrics.json").read_text())
    for index in (0, 1)
  }
  values = {index: metrics["targets"]["thyroid"]["macro_f1"] for index, metrics in validated.items()}
  assert values[chosen] == max(values.values())
  assert [(row["candidate"], row["validation"], row["chosen"]) for row in study["tuning"]] == [
    (index, [{"steps": 3, "value": values[index]}], index == chosen) for index in (0, 1)
  ]
  steps = {
    index: len((workdir / RUNS / f"sft/candidate{index}/metrics.jsonl").read_text().splitlines()) for index in values
  }
  assert steps == {chosen: 6, 1 - chosen: 3}
  (spent,) = (row for row in study["protocol"]["budget"]["spent"] if row["method"] == "sft")
  assert (spent["settings"], spent["steps"]) == (2, 9) and not study["protocol"]["budget"]["equal"]
  tested = sorted(path.parent.parent.parent.name for path in workdir.glob(str(RUNS / "sft/*/eval/test/metrics.json")))
  assert tested == [f"candidate{chosen}"]
  # In the order in which two workers came to them.
  assert sorted((look.method, look.by) for look in looks.read(workdir)) == [
    (m, "study") for m in ("base", "dpo", "sft")
  ]
  assert (study["protocol"]["test_looks"], study["protocol"]["second_looks"]) == (3, [])
  dpo = json.loads((workdir / RUNS / "dpo/candidate0/config.json").read_text())
  assert dpo["train"]["init_from"].endswith(f"sft/candidate{chosen}")


def workers(process):
  """Ids of the processes that a study has started, and that do its jobs."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(path.read_text().rpartition(")")[2].split()[1])
      if parent == process.pid and b"medjax.study.worker" in path.with_name("cmdline").read_bytes():
        found.append(int(path.parent.name))
    except (FileNotFoundError, ProcessLookupError):
      pass
  return found


def steps_written(workdir):
  """Lines of metrics that the runs of a study have come to; 15 when all are trained."""
  return sum(len(path.read_bytes().splitlines()) for path in (workdir / RUNS).glob("*/*/metrics.jsonl"))


def wait_for(process, look):
  """What `look` gives, once that is true."""
  while not (value := look()):
    assert process.poll() is None, process.stderr.read().decode()
    time.sleep(0.01)
  return value


@pytest.mark.parametrize("number", range(soak.count(1, 5)))
def test_killed_and_stopped_at_random_moments_and_resumed_gives_the_same_study(setup, whole, number):
  """A process of the study is killed, and the study goes on by itself; then the study is asked to stop, or killed."""
  draw, workdir = random.Random(number), setup / f"killed{number}"
  first, second = draw.randint(1, 6), draw.randint(7, 15)
  to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
  process = subprocess.Popen(**command(setup, workdir, "--halving=2"), **to)
  wait_for(process, lambda: steps_written(workdir) >= first)
  os.kill(wait_for(process, lambda: workers(process))[0], signal.SIGKILL)
  wait_for(process, lambda: steps_written(workdir) >= second)
  process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
  _, told = process.communicate(timeout=600)
  if number % 2 == 0:
    assert process.returncode == 75 and b"run the same command to go on" in told, told
    assert workers(process) == []
  done = subprocess.run(**command(setup, workdir), **to, text=True)
  assert done.returncode == 0, done.stderr
  assert numbers(workdir) == numbers(whole[0]), "--halving is remembered"


def test_another_study_in_the_folder_is_refused(whole, setup):
  config = schema.load(str(setup / "config.py"), {})
  with pytest.raises(UserError, match="another study .*train.steps: 6 -> 7"):
    study_run.study(schema.with_overrides(config, {"train.steps": 7}), whole[0])
  with pytest.raises(UserError, match="another study .*halving: 2 -> 3"):
    study_run.study(config, whole[0], asked={"halving": 3})


def test_two_commands_on_one_folder_at_a_time_are_refused(setup, monkeypatch):
  monkeypatch.setattr(study_run, "_PATIENCE_SECONDS", 0.1)
  with study_run._alone(setup / "busy"), pytest.raises(UserError, match="busy is in use by another command"):
    study_run.study(schema.load(str(setup / "config.py"), {}), setup / "busy")
