"""`medjax prefer` from the command line, with a tiny model: the file, the report, and a run that trains on it."""

import dataclasses
import json
import stat
import sys

import jax
import pytest
import tiny

from medjax import config as schema
from medjax import tasks
from medjax.cli import main
from medjax.data import items
from medjax.data.examples import Row
from medjax.tasks.task import Generation, Target, Task
from medjax.training import loop


def row(number, held_out=False):
  labels = {"level": ("low", "high")[number % 2], "reasons": "Reports nausea. Took 5 mg."}
  return Row(f"case-{number}", f"p{number}", {"value": 110 + number, "held_out": held_out}, labels)


def render(fields):
  assert not fields["held_out"], "a row of another split is read"
  return f"Na {fields['value']}"


def read(text, fields):
  """A level from the first letter, so that a random model is right, wrong and unreadable."""
  kind = ord(text[:1] or "a") % 3
  return {} if kind == 2 else {"level": ("low", "high")[kind]}


TASK = Task(
  name="handover",
  description="for these tests",
  targets={"level": Target(("low", "high"), ordinal=True)},
  instruction="Say it.",
  render=render,
  answer="{reasons} {level}",
  rejections=lambda labels, fields, rng: [
    ({**labels, "level": "low" if labels["level"] == "high" else "high"}, "other")
  ],
  load=lambda: {
    "train": [row(number) for number in range(13)],
    "validation": [row(13, True), row(14, True)],
    "test": [row(15, True)],
  },
  generation=Generation(12, read),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
  monkeypatch.setitem(tasks.task._TASKS, "handover", TASK)
  with jax.default_matmul_precision("highest"):
    yield


def prefer(model, output, *words):
  return main.main(
    ["prefer", f"--output={output}", "--config.task=handover", f"--config.model.path={model}", "--samples=3", *words]
  )


def jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@tiny.drawn_by_torch
def test_all_ways_and_training_on_what_they_made(model, tmp_path, capsys, monkeypatch):
  (tmp_path / "judge.py").write_text(
    "import json, sys\nfor line in sys.stdin:\n  q = json.loads(line)\n"
    "  print(json.dumps({'preferred': 'a' if q['answer_a'] < q['answer_b'] else 'b'}))\n"
  )
  words = (
    *("--how=labels,policy,perturb,judge", f"--judge={sys.executable} {tmp_path / 'judge.py'}", "--temperature=1.5"),
    *("--per_row=2", "--seed=4", "--use_unparseable"),
  )
  pairs = tmp_path / "out" / "pairs.jsonl"
  assert prefer(model, pairs, *words) == 0
  told = capsys.readouterr().out
  lines, report = jsonl(pairs), json.loads((tmp_path / "out" / "pairs.report.json").read_text())
  assert stat.S_IMODE(pairs.stat().st_mode) == 0o600, "it holds patients' texts"

  # ---- The file ---------------------------------------------------------------------------------------------------
  rows = {each.id: each for each in TASK.load()["train"]}
  assert len({line["id"] for line in lines}) == len(lines) and {line["row"] for line in lines} <= rows.keys()
  sampled = {"policy_wrong", "policy_unparseable", "judge"}
  hows = {line["how"] for line in lines}
  assert sampled | {"other", "present_as_denied", "wrong_dose"} <= hows
  assert "under_triage" not in hows, "it is what the labels gave already"
  for line in lines:
    of = rows[line["row"]]
    assert line["prompt"] == list(TASK.prompt(of)) and line["chosen"] != line["rejected"]
    assert line["seed"] == 4 and line["data"] == items.fingerprint(rows.values())
    assert ("model" in line) == (line["how"] in sampled)
    if line["how"] == "policy_wrong":
      assert read(line["rejected"], {})["level"] != of.labels["level"]
      assert line["chosen"] == TASK.completion(of.labels) or read(line["chosen"], {})["level"] == of.labels["level"]
    if line["how"] == "judge":
      assert line["chosen"] < line["rejected"]
  (provenance,) = {json.dumps(line["model"]) for line in lines if "model" in line}
  assert json.loads(provenance) == report["model"] and report["model"]["name"] == str(model)

  # ---- The report -------------------------------------------------------------------------------------------------
  assert report["pairs"] == len(lines) == sum(report["by_how"].values()) and report["rows"] == 13
  policy, judged = report["ways"]["policy"], report["ways"]["judge"]
  assert policy["samples"] == 39 == policy["right"] + policy["wrong"] + policy["unparseable"]
  assert judged["agreement"] == 1.0 and judged["first_preferred"] == 0.5
  assert report["length_balance"]["unit"] == "tokens" and report["sampling"]["samples"] == 3
  assert "nausea" not in json.dumps(report) + told, "no text of a row"
  assert told.startswith(f"{len(lines)} pairs from 13 train rows")
  assert "AUROC of length" in told and told.splitlines()[-2:] == [str(pairs), str(pairs.with_suffix(".report.json"))]

  # ---- The same again ---------------------------------------------------------------------------------------------
  assert prefer(model, tmp_path / "again.jsonl", *words) == 0
  assert (tmp_path / "again.jsonl").read_bytes() == pairs.read_bytes()
  assert prefer(model, tmp_path / "other.jsonl", *words, "--seed=5") == 0
  assert (tmp_path / "other.jsonl").read_bytes() != pairs.read_bytes()

  # ---- A run on it ------------------------------------------------------------------------------------------------
  monkeypatch.setitem(tasks.task._TASKS, "handover", dataclasses.replace(TASK, render=lambda f: f"Na {f['value']}"))
  settings = {"task": "handover", "method": "dpo", "model.path": str(model), "preference.pairs": str(pairs)}
  settings |= {"train.steps": 2, "train.batch_size": 4, "train.row_length": 256, "optimizer.warmup_steps": 0}
  config = schema.with_overrides(schema.base_config(), settings)
  schema.validate(config)
  schema.validate_data(config)
  loop.train(config, tmp_path / "run")
  first, second = jsonl(tmp_path / "run" / "metrics.jsonl")
  assert first["loss"] == pytest.approx(0.693147, abs=1e-4) and second["loss"] != first["loss"]


def test_without_a_policy_no_model_is_needed(tmp_path, capsys):
  assert prefer("no-model", tmp_path / "a.jsonl", "--how=perturb", "--max_length_gap=0") == 0
  report = json.loads((tmp_path / "a.report.json").read_text())
  assert report["model"] is None and report["length_balance"]["unit"] == "words" and report["pairs"] == 13


def test_labels_that_are_scored_are_read_by_their_format(model, tmp_path, monkeypatch):
  """A model that has learnt one answer: right for one half of the rows, a wrong answer of the task for the other."""
  rows = [Row(f"r{number}", "p", {"value": number, "held_out": False}, {"level": "low"}) for number in range(8)]
  scored = dataclasses.replace(TASK, answer="{level}", generation=None, load=lambda: {"train": rows})
  monkeypatch.setitem(tasks.task._TASKS, "handover", scored)
  settings = {"task": "handover", "model.path": str(model), "train.steps": 60, "optimizer.learning_rate": 0.01}
  config = schema.with_overrides(
    schema.base_config(), settings | {"optimizer.warmup_steps": 0, "train.row_length": 128}
  )
  loop.train(config, tmp_path / "run")
  mixed = [dataclasses.replace(each, labels={"level": ("low", "high")[at % 2]}) for at, each in enumerate(rows)]
  monkeypatch.setitem(tasks.task._TASKS, "handover", dataclasses.replace(scored, load=lambda: {"train": mixed}))
  argv = ["prefer", f"--output={tmp_path / 'a.jsonl'}", f"--checkpoint={tmp_path / 'run'}", "--how=policy"]
  assert main.main([*argv, "--temperature=0.1"]) == 0
  found = [(line["row"], line["chosen"], line["rejected"]) for line in jsonl(tmp_path / "a.jsonl")]
  assert found == [(f"r{number}", "high", "low") for number in (1, 3, 5, 7)]
  report = json.loads((tmp_path / "a.report.json").read_text())
  assert report["ways"]["policy"]["rows_without_pair"] == {"too_easy": 4} and report["rows_without_pair"] == 4


@pytest.mark.parametrize(
  ("words", "code", "message"),
  [
    (["--how=lables"], 2, "--how has 'lables'; it must be of labels, policy, perturb, judge"),
    (["--how="], 2, "--how must be one or more of"),
    (["--how=labels,labels"], 2, "each once"),
    (["--how=policy", "--temperature=0"], 2, "--temperature is 0, at which all samples are the same"),
    (["--how=policy", "--top_p=0"], 2, "--top_p is 0"),
    (["--how=judge"], 2, "--judge is needed with --how=judge"),
    (["--judge=python x.py"], 2, "--judge is read with --how=judge alone"),
    (["--how=judge", "--judge=no-such-command x"], 2, "no command 'no-such-command'"),
    (["--output=a.json"], 2, "--output is 'a.json'; it must end in .jsonl"),
    (["--config.task="], 2, "config.task is empty"),
    (["--how=perturb", "--config.task=text_classification"], 1, "no row of 1000 gave a pair (perturb: 1000 nothing_to"),
  ],
)
def test_what_cannot_be_made_is_said_in_one_line(words, code, message, tmp_path, capsys):
  assert prefer("no-model", tmp_path / "a.jsonl", *words) == code
  assert message in " ".join(capsys.readouterr().err.split())
  assert not list(tmp_path.iterdir())
