"""The label prior of a model and its temperature: by hand, and in evaluations of a model whose bias is known."""

import json

import jax
import numpy as np
import pytest
import tiny
from sklearn import metrics as sk

import medjax
from medjax import config as schema
from medjax import tasks
from medjax.cli import main as cli
from medjax.data.chat import Limits
from medjax.data.examples import Row
from medjax.data.rows import task_rows
from medjax.errors import UserError
from medjax.evaluation import calibrate, priors
from medjax.evaluation.evaluate import evaluate, predict
from medjax.evaluation.options import Options
from medjax.evaluation.score import predict_rows
from medjax.tasks.task import Target, Task

LONG = "yes, and certainly so"  # a longer answer is less likely under a random model, whatever the note says


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """Notes of which the model calls all "no"; `near` follows its ranking of most, `never` is always "no"."""
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  notes = [f"note {i} " + "word " * (i * 5 % 7) for i in range(24)]
  write(path, notes, ["no"] * 24)
  model, config = medjax.load(str(path / "model")), config_of(path)
  rows = [Row(str(i), str(i), {"note": note}, {}) for i, note in enumerate(notes)]
  found, _ = predict_rows(
    model.graph, model.params, tasks.of(config), rows, model.encoder, Limits(max_length=256), 256, 1
  )
  p_N = np.array([prediction.probabilities["near"][LONG] for prediction in found])
  assert p_N.max() < 0.01, "the model prefers the short answer everywhere"
  likelier_N = (p_N > np.median(p_N)) ^ np.isin(np.arange(24), (4, 5, 10, 11))  # and four are otherwise
  write(path, notes, np.where(likelier_N, LONG, "no").tolist())
  return path


def write(path, notes, labels):
  with open(path / "rows.jsonl", "w") as file:
    for i, (note, label) in enumerate(zip(notes, labels, strict=True)):
      row = {"id": f"r{i}", "note": note, "near": label, "never": "no", "split": ["validation", "test"][i % 2]}
      file.write(json.dumps(row) + "\n")


def config_of(home, **changes):
  labels = {"near": ("no", LONG), "never": ("no", LONG)}
  settings = {"task": "text_classification", "model.path": str(home / "model"), "data.source": str(home / "rows.jsonl")}
  settings |= {"train.row_length": 256, "define.prompt": "{note}", "define.labels": labels}
  return tasks.settled(schema.with_overrides(schema.base_config(), settings | changes))


def evaluated(home, out, options, split="test", **changes):
  metrics = evaluate(config_of(home, **changes), str(home / "model"), split, out, options=options)
  lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
  assert metrics == json.loads((out / "metrics.json").read_text())
  return metrics, {line["id"]: line for line in lines}


def long_of(lines, name="near"):
  return np.array([line["probabilities"][name][LONG] for line in lines.values()])


@pytest.fixture(scope="module")
def plain(home, tmp_path_factory):
  """Metrics and lines of validation and of test without corrections."""
  folder = tmp_path_factory.mktemp("plain")
  with jax.default_matmul_precision("highest"):
    return {split: evaluated(home, folder / split, Options(), split) for split in ("validation", "test")}


def without(p_N, prior):
  """The probability of the second of two labels, divided by its prior."""
  return p_N / prior / (p_N / prior + (1 - p_N) / (1 - prior))


def test_the_prior_is_a_mean_over_rows_that_may_have_a_label():
  probabilities = np.array([[0.6, 0.2, 0.2, 0.0], [0.8, 0.2, 0.0, 0.0]])
  allowed = np.array([[True, True, True, False], [True, True, False, False]])
  # Means 0.7, 0.2, 0.2 over the rows that may have a label; the fourth gets the mean of these.
  wanted = np.array([0.7, 0.2, 0.2, 1.1 / 3])
  prior = priors.label_prior(probabilities, allowed)
  assert prior == pytest.approx(wanted / wanted.sum())
  found = priors.corrected(probabilities, prior)
  first = np.array([0.6 / 0.7, 1.0, 1.0, 0.0])
  assert found[0] == pytest.approx(first / first.sum())
  assert found[1] == pytest.approx(np.array([0.8 / 0.7, 1.0, 0.0, 0.0]) / (0.8 / 0.7 + 1.0))
  assert priors.corrected(np.array([[1.0, 1e-300]]), np.array([1.0, 0.0])).sum() == pytest.approx(1)


def test_the_validation_prior_is_used_where_it_helps_and_not_where_it_does_not(home, tmp_path, plain):
  metrics, lines = evaluated(home, tmp_path / "whole", Options(prior="validation"))
  found = metrics["prior"]
  assert (found["mode"], found["rows"], metrics["n"]) == ("validation", 12, 12)
  near, never = found["targets"]["near"], found["targets"]["never"]
  validation = long_of(plain["validation"][1])
  assert near["prior"] == pytest.approx({"no": 1 - validation.mean(), LONG: validation.mean()}, rel=1e-6)
  truth = [line["reference"]["near"] for line in plain["validation"][1].values()]
  guess = np.where(without(validation, validation.mean()) > 0.5, LONG, "no")
  values = [sk.f1_score(truth, labels, average="macro", zero_division=0) for labels in (["no"] * 12, guess)]
  assert (near["without"], near["with"]) == pytest.approx(tuple(values)) and values[1] > values[0]
  assert near["used"] and near["metric"] == "macro_f1"
  assert not never["used"] and never["with"] < never["without"]

  test = plain["test"][1]
  assert long_of(lines) == pytest.approx(without(long_of(test), validation.mean()), rel=1e-6)
  assert long_of(lines, "never").tolist() == long_of(test, "never").tolist()
  assert {line["prediction"]["never"] for line in lines.values()} == {"no"}
  assert {line["prediction"]["near"] for line in test.values()} == {"no"}
  for line in lines.values():
    assert line["prediction"]["near"] == (LONG if line["probabilities"]["near"][LONG] > 0.5 else "no")
  before = plain["test"][0]["targets"]["near"]
  assert metrics["targets"]["near"]["macro_f1"] > before["macro_f1"]
  assert metrics["targets"]["near"]["ranking"] == before["ranking"], "a prior moves all rows the same way"

  _, fewer = evaluated(home, tmp_path / "fewer", Options(prior="validation"), **{"data.test_rows": 3})
  assert len(fewer) == 3
  for id_, line in fewer.items():
    assert line["probabilities"]["near"] == pytest.approx(lines[id_]["probabilities"]["near"], rel=1e-3)


def test_a_correction_that_changes_no_validation_label_is_not_used(home, tmp_path):
  metrics, _ = evaluated(home, tmp_path, Options(prior="validation"), **{"define.decide": "thresholds"})
  for of_target in metrics["prior"]["targets"].values():  # of two labels a threshold does what a prior does
    assert of_target["with"] == of_target["without"] and not of_target["used"]


def test_the_batch_prior_is_the_mean_over_the_rows_themselves(home, tmp_path, plain):
  metrics, lines = evaluated(home, tmp_path / "eval", Options(prior="batch"))
  for name in ("near", "never"):
    test = long_of(plain["test"][1], name)
    assert metrics["prior"]["targets"][name]["prior"][LONG] == pytest.approx(test.mean(), rel=1e-6)
    assert long_of(lines, name) == pytest.approx(without(test, test.mean()), rel=1e-6)
  with open(tmp_path / "new.jsonl", "w") as file:
    for row in map(json.loads, (home / "rows.jsonl").read_text().splitlines()):
      if row["split"] == "test":
        file.write(json.dumps({"id": row["id"], "note": row["note"]}) + "\n")
  flags = [f"--checkpoint={home / 'model'}", f"--input={tmp_path / 'new.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
  (tmp_path / "config.py").write_text(
    f"from medjax.config import base_config\n\n\ndef get_config():\n  config = base_config()\n"
    f"  config.task = 'text_classification'\n  config.model.path = {str(home / 'model')!r}\n"
    f"  config.data.source = {str(home / 'rows.jsonl')!r}\n  config.train.row_length = 256\n"
    f"  config.define.prompt = '{{note}}'\n"
    f"  config.define.labels = {{'near': ('no', {LONG!r}), 'never': ('no', {LONG!r})}}\n  return config\n"
  )
  assert cli.main(["predict", f"--config={tmp_path / 'config.py'}", *flags, "--prior=batch"]) == 0
  predicted = {line["id"]: line for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
  assert long_of(predicted) == pytest.approx(long_of(lines), rel=1e-3)
  with pytest.raises(UserError, match="--prior=batch needs more rows than one"):
    evaluated(home, tmp_path / "one", Options(prior="batch"), **{"data.test_rows": 1})


def test_the_content_free_prior_is_that_of_prompts_without_content(home, tmp_path, plain):
  config = config_of(home)
  task, model = tasks.of(config), medjax.load(str(home / "model"))
  metrics, lines = evaluated(home, tmp_path, Options(prior="content_free"))
  (row, *_) = task_rows(config, task)["test"]
  missing = task.render({**row.fields, "note": ""})
  texts = list(dict.fromkeys([task.render({**row.fields, "note": text}) for text in ("N/A", "[MASK]", "")]))
  assert texts == [missing, "[MASK]"], "a cell that says N/A is a missing one"
  rows = [Row(str(i), str(i), {"note": text}, {}) for i, text in enumerate(("N/A", "[MASK]"))]
  found, _ = predict_rows(model.graph, model.params, task, rows, model.encoder, Limits(max_length=256), 256, 1)
  prior = np.mean([prediction.probabilities["near"][LONG] for prediction in found])
  assert metrics["prior"]["rows"] == 2
  assert metrics["prior"]["targets"]["near"]["prior"][LONG] == pytest.approx(prior, rel=1e-3)
  assert long_of(lines) == pytest.approx(without(long_of(plain["test"][1]), prior), rel=1e-3)


def task_of(render, **more):
  none = {"rejections": lambda labels, fields, rng: [], "answer": "{y}"}
  return Task("drawn", "for these tests", {"y": Target(("A", "B", "C"))}, "Say it.", render, **none, **more)


def test_prompts_without_content_keep_only_what_every_prompt_has():
  rows = [
    Row("r0", "r0", {"text": "words", "age": 63, "note": None, "options": ["one", "two"]}, {}),
    Row("r1", "r1", {"text": "words", "age": 51, "note": None, "options": ["one", "two", "three"]}, {}),
  ]
  shown = task_of(lambda fields: f"{fields}", allowed=lambda fields, name: "ABC"[: len(fields["options"])])
  found = priors.content_free_rows(shown, rows)
  assert [row.fields["text"] for row in found] == ["N/A", "[MASK]", ""]
  assert found[1].fields == {"text": "[MASK]", "age": "[MASK]", "note": None, "options": ["[MASK]"] * 3}
  some = task_of(lambda fields: f"age {float(fields['age'] or 0)}")
  assert [row.fields["age"] for row in priors.content_free_rows(some, rows)] == [""], "missing, which it can show"
  numbers = task_of(lambda fields: f"age {fields['age']:.1f}")
  with pytest.raises(UserError, match="prompt of task drawn cannot be built without a row's values; use --prior=valid"):
    priors.content_free_rows(numbers, rows)


def test_the_temperature_by_hand():
  target = Target(("no", "yes"))
  probabilities = np.tile([0.1, 0.9], (10, 1))
  # Best is the share of "yes": softmax(log p / T) = 0.7, so log(0.9 / 0.1) / T = log(0.7 / 0.3).
  found = calibrate.best_temperature(probabilities, ["yes"] * 7 + ["no"] * 3, target)
  assert found == pytest.approx(np.log(9) / np.log(7 / 3), rel=1e-4)
  assert calibrate.tempered(probabilities, found)[0] == pytest.approx([0.3, 0.7], abs=1e-5)
  assert calibrate.best_temperature(probabilities, ["yes"] * 10, target) == pytest.approx(0.1, rel=1e-4)
  assert calibrate.tempered(np.array([[0.5, 0.5, 0.0]]), 0.1).tolist() == [[0.5, 0.5, 0.0]]


@tiny.drawn_by_torch
def test_a_temperature_makes_probabilities_believable_and_changes_no_label(home, tmp_path, plain):
  """Behind the prior, without which the best temperature of this model is the highest."""
  before, untempered = evaluated(home, tmp_path / "before", Options(prior="validation"))
  metrics, lines = evaluated(home, tmp_path / "after", Options("validation", "temperature"))
  assert metrics["prior"] == before["prior"]
  found = metrics["calibrate"]["targets"]["near"]
  validation = plain["validation"][1]
  p_N = without(long_of(validation), before["prior"]["targets"]["near"]["prior"][LONG])
  validated, truth = np.stack([1 - p_N, p_N], 1), [line["reference"]["near"] == LONG for line in validation.values()]

  def loss(temperature):
    return sk.log_loss(truth, calibrate.tempered(validated, temperature))

  assert 0.11 < found["temperature"] < 90
  assert loss(found["temperature"]) <= min(map(loss, np.geomspace(0.1, 100, 2000)))
  p_N = long_of(untempered)
  wanted = calibrate.tempered(np.stack([1 - p_N, p_N], 1), found["temperature"])
  assert long_of(lines) == pytest.approx(wanted[:, 1], rel=1e-6)
  for id_, line in lines.items():
    assert line["prediction"] == untempered[id_]["prediction"]
  assert found["before"] == before["targets"]["near"]["calibration"]
  assert found["after"] == metrics["targets"]["near"]["calibration"]
  assert found["after"]["log_loss"] < found["before"]["log_loss"]
  assert metrics["targets"]["near"]["macro_f1"] == before["targets"]["near"]["macro_f1"]


def test_corrections_that_cannot_be_made_are_refused(home, tmp_path):
  rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
  (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["split"] == "test"))
  for options in (Options(prior="validation"), Options(calibrate="temperature")):
    (flag,) = options.asked()
    with pytest.raises(UserError, match=f"{flag} needs validation rows, and task text_classification has none"):
      evaluated(home, tmp_path / "eval", options, **{"data.source": str(tmp_path / "test.jsonl")})
    with pytest.raises(UserError, match=f"{flag} needs validation rows"):
      config = config_of(home, **{"data.source": str(tmp_path / "test.jsonl")})
      predict(config, str(home / "model"), home / "rows.jsonl", tmp_path / "out.jsonl", options)
  config = schema.with_overrides(schema.base_config(), {"task": "summarization", "model.path": str(home / "model")})
  with pytest.raises(UserError, match="--prior=batch is for tasks whose labels are scored, and the answers of summari"):
    evaluate(config, str(home / "model"), "test", tmp_path / "eval", options=Options(prior="batch"))
  with pytest.raises(UserError, match="prior is 'mean'; it must be one of none, batch"):
    evaluated(home, tmp_path / "eval", Options(prior="mean"))
  assert not (tmp_path / "eval").exists() and not (tmp_path / "out.jsonl").exists()
