"""A study of a task with a text and a label that are read from generated answers."""

import json

import pytest
import tiny

from medjax import config as schema
from medjax import tasks
from medjax.data.examples import Row
from medjax.evaluation.text_metrics import score_text, text_metrics
from medjax.study import plan, stages
from medjax.study import run as study_run
from medjax.study.progress import Progress
from medjax.tasks.task import Facts, Generation, Target, Task, TextTarget


def facts(fields):
  return Facts({"value": (str(fields["value"]),)}, {"other": ("potassium",)})


def rows(first, count):
  return [
    Row(
      f"case-{index}",
      f"patient-{index}",
      {"value": 110 + index},
      {"level": ("low", "high")[index % 3 > 0], "gist": f"Sodium {110 + index}."},
    )
    for index in range(first, first + count)
  ]


TASK = Task(
  name="handover",
  description="for these tests",
  targets={"gist": TextTarget(facts), "level": Target(("low", "high"), primary="accuracy")},
  instruction="Say it.",
  render=lambda fields: f"The sodium is {fields['value']} today. All else is well.",
  answer="{gist} {level}",
  rejections=lambda labels, fields, rng: [({**labels, "level": "low"}, "test")],
  load=lambda: {"train": rows(0, 9), "validation": rows(20, 4), "test": rows(40, 10)},
  generation=Generation(8, lambda text, fields: {"gist": text} if text.isascii() else {}),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  home = tmp_path_factory.mktemp("study")
  changes = {
    "model.path": str(tiny.write_model(home / "model")),
    "train.steps": 2,
    "train.batch_size": 2,
    "train.row_length": 128,
    "optimizer.warmup_steps": 0,
    "study.tasks": ("handover",),
    "study.methods": ("base", "sft"),
    "study.grid": {"sft": ({"optimizer.learning_rate": 1e-3}, {"optimizer.learning_rate": 1e-2, "data.train_rows": 6})},
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.task._TASKS, "handover", TASK)
    patch.setenv("MEDJAX_CACHE", str(home / "cache"))
    config = schema.with_overrides(schema.base_config(), changes)
    yield config, home / "work", study_run.study(config, home / "work")


def predictions(workdir, study, method):
  (chosen,) = (row for row in study["protocol"]["chosen"] if row["method"] == method)
  path = workdir / f"runs/handover/seed0/{method}/candidate{chosen['candidate']}/eval/test/predictions.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_texts_and_labels_have_results_and_comparisons(done):
  _, workdir, study = done
  value = {(row["target"], row["method"], row["metric"]): row["value"] for row in study["results"]}
  for method in ("base", "sft"):
    lines = predictions(workdir, study, method)
    for metric in text_metrics(TASK.targets["gist"]):
      scores = [line["scores"]["gist"][metric] for line in lines]
      assert value["gist", method, metric] == pytest.approx(sum(scores) / 10)
    assert value["level", method, "accuracy"] == 0.0, "no answer gives a level, and that is wrong"
  pairs = [(row["target"], row["metric"]) for row in study["comparisons"]]
  assert pairs == [("gist", "fact_f1"), ("level", "accuracy")]
  assert {row["target"] for row in study["confusion"]} == {"level"}
  assert all(row["predicted"][-1] == "unparseable" for row in study["confusion"])
  assert study["protocol"]["answers"] == {"handover": "generated greedily, up to 8 tokens"}
  assert json.loads((workdir / "study.json").read_text()) == json.loads(json.dumps(study))
  assert (workdir / "report.md").exists()
  report = (workdir / "report.html").read_text()
  assert "The sodium is" not in report, "no clinical text unless it is asked for"
  study_run.study(done[0], workdir, examples=1)
  assert "The sodium is 150 today" in (workdir / "report.html").read_text()


def test_baselines_of_texts_and_labels(done):
  _, _, study = done
  found = {(row["target"], row["method"]): row for row in study["results"] if row["baseline"] and row["primary"]}
  assert set(found) == {("level", "majority"), ("level", "bag_of_words"), ("gist", "lead")}
  test = TASK.load()["test"]
  assert found["level", "majority"]["value"] == sum(row.labels["level"] == "high" for row in test) / 10
  wanted = []
  for row in test:
    lead = TASK.render(row.fields).split(". ")[0] + "."  # references have two words, the first sentence five
    wanted.append(score_text(lead, row.labels["gist"], TASK.render(row.fields), facts(row.fields))["fact_f1"])
  assert found["gist", "lead"]["value"] == pytest.approx(sum(wanted) / 10)


def test_what_is_done_is_not_waited_for(done):
  config, workdir, _ = done
  groups = plan.plan(config)
  found, steps = stages.stages(config, groups), stages.planned(config, groups)
  kinds = [(stage.run.method, stage.run.candidate, stage.kind, stage.until, stage.rows) for stage in found]
  assert kinds == [
    ("base", 0, "test", 0, 10),
    ("sft", 0, "train", 2, 9),
    ("sft", 0, "validation", 2, 4),
    ("sft", 1, "train", 2, 6),
    ("sft", 1, "validation", 2, 4),
    ("sft", 0, "test", 0, 10),
  ]
  assert stages.done_stages(found, groups, steps, workdir, 0) == found
  assert stages.done_stages(found, groups, steps, workdir / "elsewhere", 0) == []
  with Progress(found, [], seconds=0.5) as progress:
    assert progress.seconds_left() == sum(stages.expected(stage, 0.5) for stage in found), "before anything is known"
    for stage in found[:-1]:
      progress.finish(stage.group, stage.kind)
    assert 0 < progress.seconds_left() < 60
    progress.finish(found[-1].group, "test")
    assert progress.seconds_left() == 0
