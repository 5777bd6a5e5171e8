"""Evaluation of tasks that a config defines: labels asked for one by one, pieces of long texts, thresholds."""

import json

import jax
import numpy as np
import pytest
import tiny
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

import medjax
from medjax import config as schema
from medjax import tasks
from medjax.data.chat import Limits
from medjax.data.rows import task_rows
from medjax.evaluation.evaluate import evaluate, predict
from medjax.evaluation.score import predict_rows
from medjax.training.loop import train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  with open(path / "rows.jsonl", "w") as file:
    for i in range(36):
      signs = [name for name, every in (("fever", 2), ("cough", 3)) if i % every == 0]
      row = {"id": f"r{i}", "note": f"note {i} " + "word " * (i % 7), "signs": "; ".join(signs), "y": "ab"[i % 4 == 0]}
      file.write(json.dumps({**row, "split": ["train", "validation", "test"][i % 3]}) + "\n")
  return path


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def config_of(home, define, **changes):
  settings = {"task": "text_classification", "model.path": str(home / "model"), "data.source": str(home / "rows.jsonl")}
  settings |= {"train.row_length": 256, "optimizer.warmup_steps": 0, "define.prompt": "{note}"}
  settings |= {f"define.{key}": value for key, value in define.items()} | changes
  return tasks.settled(schema.with_overrides(schema.base_config(), settings))


def scored(home, config, rows):
  model = medjax.load(str(home / "model"))
  return predict_rows(model.graph, model.params, tasks.of(config), rows, model.encoder, Limits(max_length=256), 256, 1)[
    0
  ]


def test_each_label_of_many_has_the_probability_it_has_alone(home):
  many = config_of(home, {"labels": "signs", "separator": ";"})
  rows = task_rows(many, tasks.of(many))["test"][:4]
  alone = {
    "define.labels": {"signs": ("cough: no", "cough: yes")},
    "define.instruction": tasks.of(many).instruction,
  }
  one = schema.with_overrides(config_of(home, {"labels": "y"}), alone)
  for together, single in zip(scored(home, many, rows), scored(home, one, rows), strict=True):
    wanted = list(single.probabilities["signs"].values())
    assert list(together.probabilities["cough"].values()) == pytest.approx(wanted, rel=1e-4)
    assert set(together.probabilities) == {"cough", "fever"}


@pytest.mark.parametrize("join", ["mean", "most_severe"])
def test_pieces_of_a_long_text_are_joined_as_said(home, join):
  define = {"labels": "y", "window_words": 4, "window_overlap": 1, "window_join": join}
  config = config_of(home, define)
  task = tasks.of(config)
  rows = [row for row in task_rows(config, task)["test"] if len(task.windows(row)) == 2][:2]
  assert rows
  told = []
  model = medjax.load(str(home / "model"))
  found, report = predict_rows(
    model.graph, model.params, task, rows, model.encoder, Limits(max_length=256), 256, 1, advance=told.append
  )
  assert sum(told) == len(rows) and report.total == 2 * len(rows)
  whole = config_of(home, {"labels": {"y": ("a", "b")}})
  for row, prediction in zip(rows, found, strict=True):
    pieces = [p.probabilities["y"]["b"] for p in scored(home, whole, task.windows(row))]
    assert prediction.probabilities["y"]["b"] == pytest.approx(
      np.mean(pieces) if join == "mean" else max(pieces), rel=1e-4
    )


def test_many_labels_are_trained_on_and_evaluated_together(home, tmp_path):
  config = config_of(home, {"labels": "signs", "separator": ";"}, **{"train.steps": 2, "train.batch_size": 4})
  trained = train(config, tmp_path / "run")
  assert np.isfinite(trained.metrics["loss"])
  metrics = evaluate(config, str(tmp_path / "run"), "test", tmp_path / "eval")
  lines = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
  truth, guess = (
    [[line[key][name] == "yes" for name in ("cough", "fever")] for line in lines] for key in ("reference", "prediction")
  )
  assert metrics["together"]["micro_f1"] == pytest.approx(f1_score(truth, guess, average="micro", zero_division=0))
  assert metrics["together"]["exact_match"] == pytest.approx(
    np.mean([a == b for a, b in zip(truth, guess, strict=True)])
  )
  assert set(metrics["targets"]) == {"cough", "fever"}
  p = {name: [line["probabilities"][name]["yes"] for line in lines] for name in ("cough", "fever")}
  assert [len({row[place] for row in truth}) for place in (0, 1)] == [1, 2], "all test rows are alike in cough"
  assert metrics["together"]["ranking"] == {
    "auroc": pytest.approx(roc_auc_score([row[1] for row in truth], p["fever"])),
    "auprc": pytest.approx(average_precision_score([row[1] for row in truth], p["fever"])),
    "left_out": ["cough"],
  }
  pairs = schema.with_overrides(config, {"method": "dpo", "train.init_from": str(tmp_path / "run")})
  assert np.isfinite(train(pairs, tmp_path / "dpo").metrics["loss"])


def test_thresholds_come_from_validation_and_are_written(home, tmp_path):
  config = config_of(home, {"labels": "y", "decide": "thresholds"})
  metrics = evaluate(config, str(home / "model"), "test", tmp_path / "eval")
  threshold = metrics["decisions"]["y"]["threshold of b"]
  assert metrics["decisions"]["y"]["rows"] == 12 and metrics["n"] == 12
  lines = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
  assert [line["prediction"]["y"] for line in lines] == [
    "b" if line["probabilities"]["y"]["b"] > threshold else "a" for line in lines
  ]
  splits = task_rows(config, tasks.of(config))
  validation = scored(home, config, splits["validation"])
  best = max(
    f1_score(
      [row.labels["y"] for row in splits["validation"]],
      ["ab"[p.probabilities["y"]["b"] > cut] for p in validation],
      average="macro",
    )
    for cut in [-1.0, *(p.probabilities["y"]["b"] for p in validation)]
  )
  at = ["ab"[p.probabilities["y"]["b"] > threshold] for p in validation]
  assert f1_score([row.labels["y"] for row in splits["validation"]], at, average="macro") == pytest.approx(best)
  (tmp_path / "new.jsonl").write_text('{"id": "x", "note": "note 2 word word"}\n')
  predict(config, str(home / "model"), tmp_path / "new.jsonl", tmp_path / "out.jsonl")
  (line,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
  assert line["prediction"]["y"] == ("b" if line["probabilities"]["y"]["b"] > threshold else "a")


def test_files_with_rows_of_patients_are_for_their_owner_alone(home, tmp_path):
  evaluate(config_of(home, {"labels": "y"}), str(home / "model"), "test", tmp_path)
  assert (tmp_path / "predictions.jsonl").stat().st_mode & 0o777 == 0o600
