"""Evaluation by generation: what is decoded, what is read in it, what is counted and written."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import soak
import tiny
from rouge_score import rouge_scorer

import medjax
from medjax import config as schema
from medjax import tasks
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation.answering import sample
from medjax.evaluation.answers import Sampling, decoding_rows
from medjax.evaluation.evaluate import evaluate, predict
from medjax.models.families import PRESETS
from medjax.tasks.task import Facts, Generation, Target, Task, TextTarget
from medjax.training.loop import train

NEW = 12
ROWS = [
  Row(
    f"case-{index}",
    f"patient-{index // 2}",
    {"value": 110 + 7 * index, "note": "again " * (index % 5)},
    {"level": ("low", "high")[index % 2], "gist": f"Sodium {110 + 7 * index}.", "reasons": "It is so."},
  )
  for index in range(13)
]


def read(text, fields):
  """A level from the first letter's parity; neither level nor gist where that is odd and the value is above 150."""
  if ord(text[:1] or "a") % 2 and fields["value"] > 150:
    return {}
  return {"level": "low" if ord(text[:1] or "a") % 2 else "medium", "gist": text[:6]}


TASK = Task(
  name="handover",
  description="for these tests",
  targets={
    "level": Target(("low", "high"), primary="accuracy"),
    "gist": TextTarget(lambda fields: Facts({"value": (str(fields["value"]),)}, {"never": ("never",)})),
  },
  instruction="Say it.",
  render=lambda fields: f"Na {fields['value']} {fields['note']}",
  answer="{reasons} {gist} {level}",
  rejections=lambda labels, fields, rng: [({**labels, "level": "low"}, "test")],
  load=lambda: {"train": ROWS[:6], "validation": [], "test": ROWS},
  generation=Generation(NEW, read),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  monkeypatch.setitem(tasks.task._TASKS, "handover", TASK)


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def config_of(model, **changes):
  settings = {"task": "handover", "model.path": str(model), "optimizer.warmup_steps": 0, "evaluation.batch_size": 2}
  return schema.with_overrides(schema.base_config(), settings | changes)


def jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@tiny.drawn_by_torch
def test_evaluation_by_generation(model, tmp_path):
  metrics = evaluate(config_of(model), str(model), "test", tmp_path)
  assert metrics == json.loads((tmp_path / "metrics.json").read_text())
  lines = jsonl(tmp_path / "predictions.jsonl")
  alone = medjax.load(str(model))
  assert [line["id"] for line in lines] == [row.id for row in ROWS]
  rouge = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
  for row, line in zip(ROWS, lines, strict=True):
    assert set(line) == {"id", "group", "prediction", "reference", "text", "scores"}
    (text,) = alone.generate([TASK.prompt(row)], NEW)
    assert line["text"] == text, "each row alone, on one device"
    found = read(text, row.fields)
    assert line["prediction"] == {"level": found.get("level"), "gist": found.get("gist")}
    assert line["reference"] == row.labels and line["group"] == row.group
    wanted = rouge.score(row.labels["gist"], found["gist"])["rougeL"].fmeasure if found else 0.0
    assert line["scores"]["gist"]["rougeL"] == pytest.approx(wanted)
    assert found or line["scores"]["gist"]["invention_rate"] == 1.0, "no text is no way around inventions"
  unread = sum(not read(line["text"], row.fields) for row, line in zip(ROWS, lines, strict=True))
  outside = sum(line["prediction"]["level"] == "medium" for line in lines)
  right = sum(line["prediction"]["level"] == line["reference"]["level"] for line in lines)
  assert 0 < unread < len(ROWS) and outside > 0, "the test shows both kinds"
  assert metrics["targets"]["level"]["unparseable"] == unread + outside
  assert metrics["targets"]["level"]["accuracy"] == pytest.approx(right / len(ROWS))
  gist = metrics["targets"]["gist"]
  assert (gist["n"], gist["unparseable"], metrics["n"]) == (len(ROWS), unread, len(ROWS))
  for name in ("fact_f1", "rouge1", "length_ratio"):
    assert gist[name] == pytest.approx(np.mean([line["scores"]["gist"][name] for line in lines]))


@tiny.drawn_by_torch
def test_answers_are_cut_at_stop_strings_before_they_are_read(model, tmp_path):
  evaluate(config_of(model), str(model), "test", tmp_path / "free")
  free = [line["text"] for line in jsonl(tmp_path / "free" / "predictions.jsonl")]
  stop = free[4][5:7]
  metrics = evaluate(config_of(model), str(model), "test", tmp_path / "cut", stop=[stop])
  assert metrics["stop"] == [stop]
  lines = jsonl(tmp_path / "cut" / "predictions.jsonl")
  assert [line["text"] for line in lines] == [text.split(stop)[0] for text in free]
  assert lines[4]["prediction"]["gist"] == lines[4]["text"] == free[4][:5]


def test_samples_depend_on_seed_row_and_number_alone(model):
  """Not on the order of rows, on how many are decoded at once, nor on how many samples there are."""

  def drawn(rows, samples, batch, seed=3, stop=()):
    config = config_of(model, **{"evaluation.batch_size": batch})
    sampling = Sampling(samples, 1.0, 0.9, seed, stop)
    found, _, _ = sample(config, str(model), TASK, rows, sampling, "test")
    return {row.id: of_row for row, of_row in zip(rows, found, strict=True)}

  three = drawn(ROWS, 3, 2)
  two = drawn(ROWS[::-1], 2, 40)
  assert two == {id_: answers[:2] for id_, answers in three.items()}
  assert drawn(ROWS[5:6], 1, 2) == {ROWS[5].id: three[ROWS[5].id][:1]}
  assert len({answer.text for of_row in three.values() for answer in of_row}) > 36
  assert drawn(ROWS, 1, 2, seed=4) != drawn(ROWS, 1, 2)
  assert not any(answer.ended for answer in three["case-1"]), "or the next line says nothing"
  ((text, ended),) = drawn(ROWS[1:2], 1, 2, stop=(three["case-1"][0].text[4:6],))["case-1"]
  assert text == three["case-1"][0].text[:4] and ended, "a stop string ends an answer"


@pytest.mark.parametrize("axes", soak.some([{"fsdp": 2, "tensor": 2, "sequence": 2}, {"fsdp": 1, "data": 8}], 1))
def test_every_mesh_gives_the_same_answers(axes, model, tmp_path):
  """Thirteen rows over eight devices, parameters sharded, and an axis for tokens, of which there is one at a time."""
  evaluate(config_of(model), str(model), "test", tmp_path / "one")
  evaluate(config_of(model, **{f"mesh.{axis}": n for axis, n in axes.items()}), str(model), "test", tmp_path / "other")
  one, other = (jsonl(tmp_path / name / "predictions.jsonl") for name in ("one", "other"))
  assert [line["text"] for line in one] == [line["text"] for line in other]


def test_a_trained_checkpoint_ends_its_answer_where_training_did(model, tmp_path, monkeypatch):
  constant = dataclasses.replace(
    TASK,
    targets={"level": TASK.targets["level"]},
    answer="{level}",
    load=lambda: {"train": [dataclasses.replace(row, labels={"level": "low"}) for row in ROWS], "test": ROWS},
    generation=Generation(NEW, lambda text, fields: {"level": text}),
  )
  monkeypatch.setitem(tasks.task._TASKS, "handover", constant)
  changes = {"train.steps": 60, "optimizer.learning_rate": 0.01, "train.row_length": 128}
  train(config_of(model, **changes), tmp_path / "run")
  metrics = evaluate(config_of(model), str(tmp_path / "run"), "test", tmp_path / "eval")
  assert {line["text"] for line in jsonl(tmp_path / "eval" / "predictions.jsonl")} == {"low"}
  assert metrics["targets"]["level"]["accuracy"] == pytest.approx(7 / 13)


def test_prediction_of_new_rows(model, tmp_path):
  (tmp_path / "new.jsonl").write_text("".join(json.dumps({"id": row.id, **row.fields}) + "\n" for row in ROWS[:3]))
  predict(config_of(model), str(model), tmp_path / "new.jsonl", tmp_path / "out.jsonl")
  evaluate(config_of(model), str(model), "test", tmp_path)
  known = jsonl(tmp_path / "predictions.jsonl")
  for line, wanted in zip(jsonl(tmp_path / "out.jsonl"), known, strict=False):
    assert set(line) == {"id", "group", "prediction", "text"}
    assert (line["id"], line["prediction"], line["text"]) == (wanted["id"], wanted["prediction"], wanted["text"])


def test_long_prompts_are_cut_for_the_answer_and_counted(model, tmp_path, monkeypatch):
  long = [*ROWS[:3], dataclasses.replace(ROWS[3], fields={"value": 1, "note": "word " * 200})]
  monkeypatch.setitem(tasks.task._TASKS, "handover", dataclasses.replace(TASK, load=lambda: {"test": long}))
  assert evaluate(config_of(model), str(model), "test", tmp_path)["prompts_cut"] == 1
  with pytest.raises(UserError, match="answers in up to 12 tokens, which leaves no room"):
    evaluate(config_of(model, **{"model.max_length": 13}), str(model), "test", tmp_path)


def test_what_cannot_be_judged_is_refused_before_the_model_runs(tmp_path, monkeypatch):
  def refused(**changes):
    monkeypatch.setitem(tasks.task._TASKS, "handover", dataclasses.replace(TASK, **changes))
    with pytest.raises(UserError) as caught:
      evaluate(config_of("no-model"), "no-model", "test", tmp_path)
    return str(caught.value)

  scored = {"level": TASK.targets["level"]}
  monkeypatch.setitem(tasks.task._TASKS, "handover", dataclasses.replace(TASK, targets=scored, generation=None))
  with pytest.raises(UserError, match="stop is for generated answers, and those of task handover are scored"):
    evaluate(config_of("no-model"), "no-model", "test", tmp_path, stop=["."])
  assert "gist is a text, and the task has no `generation`" in refused(generation=None)
  described = dataclasses.replace(TASK.targets["gist"], primary="length_ratio")
  assert "'length_ratio' cannot be the primary one" in refused(targets={"gist": described})
  empty = [*ROWS[:2], dataclasses.replace(ROWS[2], labels={"level": "low", "gist": " "})]
  assert "row case-2: the reference text is empty" in refused(load=lambda: {"test": empty})


def test_decoding_batches_follow_the_cache_and_the_devices():
  small, large = PRESETS["smollm2-135m"], PRESETS["llama2-7b"]
  assert decoding_rows(small, 500, "float32") == 32
  assert decoding_rows(large, 4096, "bfloat16") == 1  # two gigabytes a row
  assert decoding_rows(large, 4096, "bfloat16", least=3, shared_by=8) == 8
  assert decoding_rows(small, 500, "float32", least=50, shared_by=8) == 256
