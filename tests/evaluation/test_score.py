"""Label scoring against a plain loop of full forwards; what evaluation and prediction write."""

import dataclasses
import json

import jax
import numpy as np
import packed
import pytest
import tiny
from sklearn.metrics import f1_score

import medjax
from medjax import config as schema
from medjax import tasks
from medjax.data.chat import Encoder, Limits
from medjax.data.examples import Row, Segments
from medjax.errors import UserError
from medjax.evaluation.evaluate import evaluate, predict
from medjax.evaluation.score import predict_rows
from medjax.models.decoder import build
from medjax.models.pretrained import load_pretrained
from medjax.objectives import scoring
from medjax.objectives.scoring import score
from medjax.tasks.task import Target, Task
from medjax.training.loop import train

TASK = Task(
  name="sodium",
  description="for these tests",
  targets={"level": Target(("low", "normal", "high"), ordinal=True), "repeat": Target(("yes", "no"))},
  instruction="Level and repeat?",
  render=lambda fields: f"Na {fields['value']} {fields.get('note', '')}",
  answer="{level}, {repeat}",
  rejections=lambda labels, fields, rng: [({**labels, "repeat": "no"}, "test")],
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  draw = np.random.default_rng(0)
  with open(path / "rows.jsonl", "w") as file, open(path / "new.jsonl", "w") as new:
    for index, value in enumerate(draw.integers(110, 170, 24).tolist()):
      fields = {"id": f"case-{index}", "value": value, "note": "again " * (index % 5)}
      labels = {"level": "low" if value < 130 else "normal" if value < 150 else "high"}
      labels |= {"repeat": "yes" if index % 3 == 2 and index >= 8 else "no", "split": "train" if index < 8 else "test"}
      file.write(json.dumps({**fields, **labels}) + "\n")
      new.write(json.dumps(fields) + "\n")
  return path


@pytest.fixture(scope="module", autouse=True)
def registered():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tasks.task._TASKS, "sodium", TASK)
    yield


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def config_of(home, **changes):
  settings = {"task": "sodium", "model.path": str(home / "model"), "data.source": str(home / "rows.jsonl")}
  settings |= {"evaluation.batch_size": 5, "optimizer.warmup_steps": 0}
  return schema.with_overrides(schema.base_config(), settings | changes)


def jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def full_forwards(model, prompt, completions):
  """Log-probabilities of completions, one full forward each, from all logits."""
  found = []
  for completion in completions:
    ids = np.zeros((1, 256), np.int32)
    length = len(prompt) + len(completion)
    ids[0, :length] = *prompt, *completion
    logp_TV = jax.nn.log_softmax(model.logits(ids, (np.arange(256) < length)[None].astype(np.int32))[0])
    places = np.arange(len(prompt), length)
    found.append(float(np.asarray(logp_TV)[places - 1, ids[0, places]].sum()))
  return found


def by_hand(model, task, rows):
  """{row id: {target: {label: probability}}} from full forwards over every answer."""
  answers = task.answers()
  found = {}
  for row in rows:
    (group,) = Encoder(model.tokenizer).segments([(row.id, task.prompt(row), [task.completion(a) for a in answers])])
    weights = np.exp(full_forwards(model, group.prompt, group.completions))
    weights /= weights.sum()
    found[row.id] = {
      name: {
        label: sum(w for w, answer in zip(weights, answers, strict=True) if answer[name] == label)
        for label in target.labels
      }
      for name, target in task.targets.items()
    }
  return found


def test_scores_equal_full_forwards(home):
  """Groups of different numbers of completions, in rows that take several; rows longer than was asked for."""
  model = medjax.load(str(home / "model"))
  draw = np.random.default_rng(1)

  def ids(most):
    return tuple(draw.integers(3, 264, draw.integers(1, most + 1)).tolist())

  groups = [Segments(f"g{i}", ids(70), tuple(ids(8) for _ in range(1 + i % 3))) for i in range(9)]
  done = []
  found = score(model.graph, model.params, groups, 32, 2, advance=done.append)
  assert sum(done) == 9
  for group, got in zip(groups, found, strict=True):
    np.testing.assert_allclose(got, full_forwards(model, group.prompt, group.completions), rtol=1e-5, atol=1e-4)
  assert score(model.graph, model.params, [], 32, 2) == []


def test_probabilities_equal_full_forwards(home):
  model = medjax.load(str(home / "model"))
  rows = [Row(f"r{i}", f"r{i}", {"value": 100 + 9 * i, "note": "x" * i}, {}) for i in range(4)]
  predictions, report = predict_rows(
    model.graph, model.params, TASK, rows, model.encoder, Limits(max_length=256), 128, 2
  )
  assert (report.total, report.cut) == (4, ())
  wanted = by_hand(model, TASK, rows)
  for row, prediction in zip(rows, predictions, strict=True):
    assert prediction.id == row.id
    for name, of_label in prediction.probabilities.items():
      assert of_label == pytest.approx(wanted[row.id][name], rel=1e-4)
      assert sum(of_label.values()) == pytest.approx(1.0)
      assert prediction.labels[name] == max(of_label, key=of_label.get)


def test_long_prompts_are_cut_and_counted(home):
  model = medjax.load(str(home / "model"))
  rows = [Row("short", "a", {"value": 1}, {}), Row("long", "b", {"value": 2, "note": "word " * 200}, {})]
  _, report = predict_rows(model.graph, model.params, TASK, rows, model.encoder, Limits(max_length=256), 128, 2)
  assert report.cut == ("long",)
  with pytest.raises(UserError, match="all 2 rows are too long"):
    predict_rows(model.graph, model.params, TASK, rows, model.encoder, Limits(max_length=12), 128, 2)


def test_answers_that_read_the_same_are_refused(home):
  model = medjax.load(str(home / "model"))
  blurred = dataclasses.replace(TASK, answer="{level}")
  with pytest.raises(UserError, match="two answers have the same text"):
    predict_rows(model.graph, model.params, blurred, [Row("a", "a", {"value": 1}, {})], model.encoder, Limits(), 128, 2)


def test_evaluation_of_a_model(home, tmp_path):
  metrics = evaluate(config_of(home), str(home / "model"), "test", tmp_path)
  assert metrics == json.loads((tmp_path / "metrics.json").read_text())
  assert {"schema_version", "task", "split", "checkpoint", "n", "prompts_cut", "data", "targets"} <= set(metrics)
  assert (metrics["task"], metrics["split"], metrics["n"], metrics["prompts_cut"]) == ("sodium", "test", 16, 0)
  lines = jsonl(tmp_path / "predictions.jsonl")
  given = {row["id"]: row for row in jsonl(home / "rows.jsonl")}
  assert [line["id"] for line in lines] == [f"case-{index}" for index in range(8, 24)]
  model = medjax.load(str(home / "model"))
  wanted = by_hand(model, TASK, [Row(line["id"], line["id"], given[line["id"]], {}) for line in lines[:3]])
  for line in lines:
    assert set(line) == {"id", "group", "prediction", "reference", "probabilities"}
    assert line["reference"] == {name: given[line["id"]][name] for name in TASK.targets}
  for line in lines[:3]:
    for name in TASK.targets:
      assert line["probabilities"][name] == pytest.approx(wanted[line["id"]][name], rel=1e-3)
  for name in TASK.targets:
    truth, chosen = ([line[key][name] for line in lines] for key in ("reference", "prediction"))
    wanted = f1_score(truth, chosen, labels=TASK.targets[name].labels, average="macro", zero_division=0)
    assert metrics["targets"][name]["macro_f1"] == pytest.approx(wanted)

  loaded = evaluate(
    config_of(home), str(home / "model"), "test", tmp_path / "again", load_pretrained(str(home / "model"))
  )
  assert loaded == metrics, "a model that is loaded already"


def test_evaluation_and_prediction_of_a_checkpoint(home, tmp_path):
  changes = {"train.steps": 12, "optimizer.learning_rate": 0.01, "train.row_length": 128}
  train(config_of(home, **changes), tmp_path / "run")
  metrics = evaluate(config_of(home), str(tmp_path / "run"), "test", tmp_path / "trained")
  base = evaluate(config_of(home), str(home / "model"), "test", tmp_path / "base")
  recall = {label: of["recall"] for label, of in metrics["targets"]["repeat"]["per_class"].items()}
  assert recall == {"yes": 0.0, "no": 1.0}, "it has learned that the answer is always no"
  assert metrics["targets"] != base["targets"] and metrics["data"] == base["data"]

  predict(config_of(home), str(tmp_path / "run"), home / "new.jsonl", tmp_path / "labels.jsonl")
  lines = jsonl(tmp_path / "labels.jsonl")
  assert [line["id"] for line in lines] == [f"case-{index}" for index in range(24)]
  evaluated = {line["id"]: line for line in jsonl(tmp_path / "trained" / "predictions.jsonl")}
  for line in lines:
    assert "reference" not in line
    if line["id"] in evaluated:
      assert line["prediction"] == evaluated[line["id"]]["prediction"]
      for name in TASK.targets:
        assert line["probabilities"][name] == pytest.approx(evaluated[line["id"]]["probabilities"][name], abs=1e-5)


def test_what_cannot_be_evaluated_is_refused(home, tmp_path):
  with pytest.raises(UserError, match="task sodium has no validation rows"):
    evaluate(config_of(home), str(home / "model"), "validation", tmp_path)
  with pytest.raises(UserError, match=r"query heads \(4\) does not divide by mesh.tensor = 8"):
    evaluate(config_of(home, **{"mesh.tensor": 8, "mesh.fsdp": 1}), str(home / "model"), "test", tmp_path)
  assert not list(tmp_path.iterdir())


def test_graph_is_shared_between_loads(home):
  """Equal configs give equal graphs, so that a second model of a kind compiles nothing."""
  config = load_pretrained(str(home / "model")).config
  assert build(config, "float32") == build(config, "float32")
  assert hash(build(config, "float32")) == hash(build(config, "float32"))


def test_batches_are_under_way_before_the_first_is_fetched(monkeypatch):
  graph, params = packed.decoder()
  wanted = score(graph, params, packed.random_groups(16, 2), 40, 16)
  events, told, run, fetch = [], [], scoring._logp_BN, jax.device_get
  monkeypatch.setattr(scoring, "_logp_BN", lambda *arguments: (events.append("run"), run(*arguments))[1])
  monkeypatch.setattr(scoring.jax, "device_get", lambda x: (events.append("fetch"), fetch(x))[1])
  found = score(graph, params, packed.random_groups(16, 2), 40, 1, None, told.append)
  assert events[:4] == ["run", "run", "run", "fetch"] and events[-3:] == ["fetch"] * 3
  assert events.count("run") == events.count("fetch") == len(told) and sum(told) == 16
  np.testing.assert_allclose(np.stack(found), np.stack(wanted), atol=1e-5)
