"""Calibration, costs, data cards, the checklist and the published figures, each by itself."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny import write_model

from medjax import config as schema
from medjax import tasks
from medjax.evaluation import intervals, ranking
from medjax.hardware.flops import forward_flops, train_flops
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.study import calibration, checklist, cost, data_card, details, published
from medjax.study.plan import Run
from medjax.study.subgroups import Column
from medjax.tasks.task import Target

TARGET = Target(("no", "yes"))


def test_reliability_is_that_of_the_likeliest_label_and_its_bins_add_up():
  yes = np.array([0.95, 0.95, 0.95, 0.95, 0.65, 0.65, 0.35, 0.05])
  truth = ["yes", "yes", "yes", "no", "yes", "no", "no", "no"]
  found = calibration.reliability(truth, np.stack([1 - yes, yes], 1), list("abcdefgh"), TARGET, resamples=500)
  assert [(round(part["from"], 1), part["n"], part["right"]) for part in found["bins"]] == [
    (0.6, 3, pytest.approx(2 / 3)),
    (0.9, 5, pytest.approx(0.8)),
  ]
  gaps = 3 * abs(2 / 3 - 0.65) + 5 * abs(0.8 - 0.95)
  assert found["scores"]["ece"]["value"] == pytest.approx(gaps / 8)
  brier = 2 * np.mean((yes - (np.array(truth) == "yes")) ** 2)
  assert found["scores"]["brier"]["value"] == pytest.approx(brier)
  for score in found["scores"].values():
    assert score["low"] <= score["value"] <= score["high"] and score["low"] < score["high"]


def test_areas_have_intervals_by_leaving_patients_out():
  """Ties, several rows a patient, three labels: each patient left out is scikit-learn's area of the others."""
  draw = np.random.default_rng(0)
  groups = np.concatenate([np.arange(20), draw.integers(0, 20, 40)])
  probabilities = np.round(draw.dirichlet(np.ones(3), 60), 1)
  truth = np.array([draw.choice(3, p=p / p.sum()) for p in probabilities])
  for name, area in (("auroc", roc_auc_score), ("auprc", average_precision_score)):

    def value(kept, area=area):
      return np.mean([area(truth[kept] == k, probabilities[kept, k]) for k in range(3)])

    found = ranking.with_intervals(truth, probabilities, ("a", "b", "c"), groups)[name]
    error = intervals.jackknife_error(np.array([value(groups != group) for group in range(20)]))
    assert found["value"] == pytest.approx(value(groups >= 0))
    ends = intervals.score_interval(found["value"], error, (0, 1), 20, 0.95)
    assert (found["low"], found["high"]) == pytest.approx(ends) and ends[0] < found["value"] < ends[1]


def test_an_area_that_rests_on_one_patient_may_be_anything():
  yes, truth = np.array([0.9, 0.8, 0.3, 0.2]), ["yes", "yes", "no", "no"]
  found = calibration.reliability(truth, np.stack([1 - yes, yes], 1), list("aabc"), TARGET, resamples=50)["ranking"]
  assert found == {name: {"value": 1.0, "low": 0.0, "high": 1.0} for name in ("auroc", "auprc")} | {"left_out": []}
  found = calibration.reliability(["yes"] * 4, np.stack([1 - yes, yes], 1), list("abcd"), TARGET, resamples=50)
  assert found["ranking"] == {"auroc": None, "auprc": None, "left_out": ["yes"]}


def test_intervals_of_calibration_are_over_patients():
  rng = np.random.default_rng(0)
  yes = rng.uniform(0, 1, 40)
  truth = np.where(rng.uniform(0, 1, 40) < yes, "yes", "no").tolist()
  probabilities = np.stack([1 - yes, yes], 1)

  def width(groups):
    score = calibration.reliability(truth, probabilities, groups, TARGET)["scores"]["brier"]
    return score["high"] - score["low"]

  order = np.argsort((yes - (np.array(truth) == "yes")) ** 2)
  alike = np.empty(40, int)
  alike[order] = np.arange(40) // 4  # a patient's rows have errors of like size
  assert width(alike.tolist()) > 1.3 * width(list(range(40)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return write_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


def settings(model, **changes):
  config = schema.base_config()
  config.model.path = str(model)
  config.task = "numeric_classification"
  config.train.row_length = 640
  config.optimizer.warmup_steps = 0
  config.data.train_rows, config.data.validation_rows, config.data.test_rows = 8, 4, 20
  return schema.with_overrides(config, changes)


def write_run(workdir, config, run, steps):
  folder = workdir / run.folder
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(schema.as_dict(config)))
  lines = [{"step": step, "tokens": 100 + step, "loss": 1.0} for step in range(1, steps + 1)]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_costs_are_of_the_examples_that_each_run_read(tmp_path, model):
  described = load_config_and_tokenizer(str(model))
  sft = [Run("numeric_classification", 0, "sft", number, ()) for number in (0, 1)]
  dpo = Run("numeric_classification", 0, "dpo", 0, ())
  one_each = settings(model, **{"train.batch_size": 8, "train.steps": 1})
  write_run(tmp_path, one_each, sft[0], 1)
  write_run(tmp_path, schema.with_overrides(one_each, {"train.steps": 3}), sft[1], 3)
  pairs = schema.with_overrides(one_each, {"method": "dpo", "evaluation.every": 0})
  write_run(tmp_path, pairs, dpo, 1)
  once, thrice, preferred = cost.training_costs(tmp_path, [sft[1], dpo], described)
  assert (once["candidate"], once["chosen"], thrice["chosen"]) == (0, False, True)
  assert (thrice["steps"], thrice["tokens"]) == (3, 306)
  groups = cost._groups(one_each, described)["train"]
  assert len(groups) == 8 and once["flops"] == train_flops(described.config, groups)
  assert thrice["flops"] == 3 * once["flops"] and once["reference_flops"] == 0
  assert preferred["reference_flops"] == forward_flops(described.config, cost._groups(pairs, described)["train"])
  assert preferred["flops"] == 3 * preferred["reference_flops"]


def test_adapters_and_a_reference_in_the_step_are_counted_as_they_are_run(tmp_path, model):
  described = load_config_and_tokenizer(str(model))
  run = Run("numeric_classification", 0, "dpo", 0, ())
  changes = {"method": "dpo", "train.batch_size": 4, "train.steps": 2, "lora.rank": 4}
  config = settings(model, **changes, **{"preference.reference": "lora_base"})
  write_run(tmp_path, config, run, 2)
  (row,) = cost.training_costs(tmp_path, [run], described)
  groups = cost._groups(config, described)["train"]
  assert row["reference_flops"] == forward_flops(
    described.config, groups
  )  # each pair is read once in two steps of four
  assert 2 * row["reference_flops"] < row["flops"] < 3 * row["reference_flops"]


def test_a_data_card_counts_what_repeats_and_holds_no_text(tmp_path, model):
  lines = [
    {
      "id": str(place),
      "patient": f"p{place}",
      "note": f"note {place} of Mrs Example with {place} pills",
      "label": "ab"[place % 2],
    }
    | {"split": ("train", "test")[place % 4 == 3]}
    for place in range(24)
  ]
  lines[3]["note"] = lines[0]["note"].upper()  # a test row with a prompt of the train split
  source = tmp_path / "notes.jsonl"
  source.write_text("".join(json.dumps(line) + "\n" for line in lines))
  define = {"inputs": "note", "labels": "label"}
  config = schema.base_config()
  config.model.path, config.task, config.data.source = str(model), "text_classification", str(source)
  config.define.update(define)
  config.data.split_by = "patient"
  card = data_card.card(tasks.settled(config), "text_classification")
  assert card["targets"] == {"label": "labels"}
  assert {split: of["rows"] for split, of in card["splits"].items()} == {"train": 18, "validation": 0, "test": 6}
  shared = next(row for row in card["repeated"] if (row["first"], row["second"]) == ("train", "test"))
  assert shared["exact_rows"] == 1
  assert any("prompt that stands in train too" in warning for warning in card["warnings"])
  assert "Mrs" not in json.dumps(card).replace(str(source), "") and card["splits"]["test"]["data"]


def test_columns_are_checked_before_anything_is_trained(model):
  details.check_columns(settings(model), ["numeric_classification"], [Column("age", 20), Column("sex")])
  with pytest.raises(Exception, match="no task of this study has a column 'ward'"):
    details.check_columns(settings(model), ["numeric_classification"], [Column("ward")])


STUDY = {
  "results": [
    {
      "task": "triage",
      "target": "provider",
      "method": "sft",
      "seed": 0,
      "metric": "macro_f1",
      "primary": True,
      "n": 60,
    },
    {
      "task": "vignettes",
      "target": "answer",
      "method": "sft",
      "seed": 0,
      "metric": "accuracy",
      "primary": True,
      "n": 60,
    },
  ],
  "comparisons": [],
  "recommendations": [],
}


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3-8B-Instruct"),
    ("/models/mistral-7b-instruct-v0.2", "Mistral-7B-Instruct-v0.2"),
    ("meta-llama/Llama-3.1-8B-Instruct", None),
    ("mistralai/Mistral-7B-Instruct-v0.3", None),
    ("embedded:smollm2-135m", None),
  ],
)
def test_published_figures_stand_beside_studies_of_that_model_alone(path, name):
  found = published.beside({**STUDY, "protocol": {"model": path}})
  assert {row["model"] for row in found} == ({name} if name else set())


def test_published_figures_of_triage_are_those_of_the_provider_or_of_the_urgency():
  protocol = {"model": "meta-llama/Meta-Llama-3-8B-Instruct"}
  (provider,) = published.beside({**STUDY, "protocol": protocol})
  assert provider["values"] == {"base": 0.55, "sft": 0.58, "dpo": 0.74}
  acuity = {**STUDY["results"][0], "target": "acuity"}
  other = {**STUDY, "protocol": protocol, "results": [acuity]}
  assert published.beside(other) == []
  (urgency,) = published.beside({**other, "data": {"triage": {"targets": {"acuity": "ordinal"}}}})
  assert urgency["values"]["dpo"] == 0.91


def test_the_checklist_has_the_items_of_the_guideline_and_leaves_to_the_authors_what_it_does_not_know():
  bare = checklist.fill({**STUDY, "protocol": {}})
  numbers = [item["number"] for item in bare]
  assert len(set(numbers)) == len(numbers)
  main = {number.rstrip("abcdefghijk") for number in numbers}
  assert len(main) == 19 and sum(number[-1].isalpha() for number in numbers) == 50
  by_number = {item["number"]: item for item in bare}
  for number in ("13", "14a", "14b", "15", "8a", "12"):
    assert by_number[number]["found"] == "" and by_number[number]["left"] == checklist.AUTHORS
  known = {"cost": [{}], "environment": {"devices": "8 x H100"}}
  (compute,) = (item for item in checklist.fill({**STUDY, **known}) if item["number"] == "12")
  assert compute["found"].startswith("8 x H100") and compute["left"] != checklist.AUTHORS
