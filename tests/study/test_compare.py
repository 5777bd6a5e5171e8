import numpy as np
import pytest
from scipy.stats import norm

from medjax.errors import RunError, UserError
from medjax.evaluation import statistics
from medjax.evaluation.text_metrics import TEXT_METRICS, text_metrics
from medjax.study import compare
from medjax.tasks.task import Facts, Target, TextTarget

PROVIDER = Target(("gp", "pharmacist", "nurse", "emergency"))
URGENCY = Target(("routine", "soon", "now"), ordinal=True, primary="triage_cost")
TARGETS = {("triage", "provider"): PROVIDER, ("triage", "urgency"): URGENCY}
METHODS = ("base", "sft", "dpo")


def study_answers(skills, n=300, seeds=(0,)):
  """Answers in which method m is right on a share `skills[m]` of the items, the same patients for both targets."""
  answers = {}
  for (task, name), target in TARGETS.items():
    rng = np.random.default_rng(len(name))
    labels, truth = np.array(target.labels), rng.choice(len(target.labels), n)
    for seed in seeds:
      hard = rng.random(n)  # shared by the methods: a better one gets right what a worse one did
      for method, skill in skills.items():
        codes = np.where(hard < skill, truth, (truth + 1) % len(labels))
        answers[task, name, method, seed] = {
          "ids": [f"row-{i}" for i in range(n)],
          "groups": [f"patient-{i // 2}" for i in range(n)],
          "references": labels[truth].tolist(),
          "predictions": labels[codes].tolist(),
        }
  return answers


def verdicts(skills, **settings):
  rows = compare.compare(study_answers(skills, **settings), TARGETS, METHODS, resamples=500)[2]
  return {row["target"]: row["verdict"] for row in rows}


@pytest.mark.parametrize(
  "skills, verdict",
  [
    ((0.3, 0.6, 0.85), "dpo_adds"),
    ((0.3, 0.8, 0.8), "sft_is_enough"),
    ((0.3, 0.8, 0.7), "sft_is_enough"),
    ((0.5, 0.5, 0.5), "neither_helps"),
    ((0.8, 0.5, 0.6), "neither_helps"),
  ],
)
def test_clear_cases_get_their_verdict_in_both_directions_of_metric(skills, verdict):
  found = verdicts(dict(zip(METHODS, skills, strict=True)))
  assert found == {"provider": verdict, "urgency": verdict}


def test_few_patients_decide_nothing_even_where_no_answer_changes():
  answers = study_answers({"base": 0.5, "sft": 0.5, "dpo": 0.5}, n=40)
  rows = compare.compare(answers, TARGETS, METHODS, resamples=200)[2]
  assert [row["verdict"] for row in rows] == ["not_decidable"] * 2
  assert "can be ruled out from 59 test patients on, not 20." in rows[0]["why"]
  assert compare.enough_groups(0.05) == 59


def rows_of(*triples):
  pairs = [("base", "sft"), ("sft", "dpo"), ("base", "dpo")]
  return [
    {"a": a, "b": b, "metric": "macro_f1", "difference": (low + high) / 2, "low": low, "high": high}
    | {"p_holm": p, "groups": 200, "n": 300, "error": (high - low) / 4, "mdd": 0.7 * (high - low)}
    for (a, b), (low, high, p) in zip(pairs, triples, strict=True)
  ]


@pytest.mark.parametrize(
  "triples, verdict",
  [
    (((0.1, 0.3, 0.001), (0.01, 0.1, 0.01), (0.2, 0.4, 0.001)), "dpo_adds"),
    (((0.1, 0.3, 0.001), (0.01, 0.1, 0.06), (0.2, 0.4, 0.001)), "not_decidable"),  # Holm says no
    (((0.1, 0.3, 0.001), (-0.01, 0.1, 0.01), (0.2, 0.4, 0.001)), "not_decidable"),  # the interval says no
    (((-0.4, -0.2, 0.001), (0.1, 0.3, 0.001), (-0.2, 0.1, 0.5)), "not_decidable"),  # dpo only repairs what sft broke
    (((-0.1, 0.2, 0.5), (0.1, 0.3, 0.001), (0.1, 0.3, 0.001)), "dpo_adds"),
    (((0.1, 0.3, 0.001), (-0.02, 0.05, 0.5), (0.1, 0.3, 0.001)), "sft_is_enough"),
    (((0.1, 0.3, 0.001), (-0.02, 0.06, 0.5), (0.1, 0.3, 0.001)), "not_decidable"),
    (((0.01, 0.04, 0.001), (-0.02, 0.03, 0.5), (0.01, 0.05, 0.001)), "neither_helps"),  # real, but not relevant
    (((0.01, 0.04, 0.001), (-0.02, 0.03, 0.5), (0.01, 0.06, 0.06)), "not_decidable"),
  ],
)
def test_rules_of_the_verdict(triples, verdict):
  found = compare.recommend(rows_of(*triples), higher_is_better=True)
  assert found["verdict"] == verdict
  assert (found["more_examples"] is not None) == (": open" in found["why"])
  turned = [
    row | {"a": row["b"], "b": row["a"], "difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
    for row in rows_of(*triples)
  ]
  assert compare.recommend(turned, higher_is_better=True) == found  # methods may be listed in any order
  mirrored = [
    row | {"metric": "triage_cost", "difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
    for row in rows_of(*triples)
  ]
  other = compare.recommend(mirrored, higher_is_better=False)
  assert other["verdict"] == verdict and other["more_examples"] == found["more_examples"]
  assert "lower is better" in other["why"]


def test_a_study_without_dpo_is_not_decided():
  found = compare.recommend(rows_of((0.1, 0.3, 0.001), (0, 0, 1), (0, 0, 1))[:1], higher_is_better=True)
  assert found["verdict"] == "not_decidable" and "sft -> dpo" in found["why"]
  assert found["more_examples"] is None, "more rows would not help"
  assert compare.recommend([], higher_is_better=True)["verdict"] == "not_decidable"


def test_rows_follow_the_schema():
  answers = study_answers({"base": 0.3, "sft": 0.6, "dpo": 0.85}, n=80)
  results, comparisons, recommendations = compare.compare(answers, TARGETS, METHODS, resamples=200)
  keys = {"task", "target", "method", "seed", "split", "metric", "primary", "value", "low", "high", "n"}
  assert all(keys <= row.keys() for row in results)
  assert {row["metric"] for row in results if row["primary"] and row["target"] == "urgency"} == {"triage_cost"}
  assert len(results) == 3 * (6 + 10)
  keys = {"task", "target", "a", "b", "metric", "difference", "low", "high", "p", "p_holm"}
  assert all(keys <= row.keys() for row in comparisons)
  assert [(row["a"], row["b"]) for row in comparisons[:3]] == [("base", "sft"), ("base", "dpo"), ("sft", "dpo")]
  assert all(row["p_holm"] >= row["p"] for row in comparisons)
  assert [row["p_holm"] for row in comparisons] == statistics.holm([row["p"] for row in comparisons])
  value = {(row["target"], row["method"], row["metric"]): row["value"] for row in results}
  for row in comparisons:
    where = row["target"], row["metric"]
    expected = value[where[0], row["b"], where[1]] - value[where[0], row["a"], where[1]]
    assert row["difference"] == pytest.approx(expected)
  keys = {"p_mid", "test", "effect_size", "effect", "mdd", "error", "seed_sd", "n", "groups", "seeds"}
  assert all(keys <= row.keys() for row in comparisons)
  assert {(row["test"], row["p_mid"], row["effect"]) for row in comparisons} == {("permutation", None, "cohens_dz")}
  assert [row.keys() for row in recommendations] == [{"task", "target", "verdict", "why", "more_examples"}] * 2


def test_order_of_answers_and_of_items_does_not_matter():
  answers = study_answers({"base": 0.3, "sft": 0.6, "dpo": 0.85}, n=30)
  shuffled = {}
  for number, (key, run) in enumerate(reversed(answers.items())):
    order = np.random.default_rng(number).permutation(30)
    shuffled[key] = {field: [values[i] for i in order] for field, values in run.items()}
  assert compare.compare(answers, TARGETS, METHODS, resamples=100) == compare.compare(
    shuffled, TARGETS, METHODS, resamples=100
  )


def test_seeds_are_averaged_by_patient():
  skills = {"base": 0.3, "sft": 0.6, "dpo": 0.85}
  once = compare.compare(study_answers(skills, n=60), TARGETS, METHODS, resamples=200)
  answers = study_answers(skills, n=60)
  answers |= {(task, name, method, 1): run for (task, name, method, _), run in answers.items()}
  twice = compare.compare(answers, TARGETS, METHODS, resamples=200)
  assert len(twice[0]) == 2 * len(once[0])
  for one, two in zip(once[1], twice[1], strict=True):
    assert (one["seeds"], two["seeds"], two["n"], two["groups"]) == (1, 2, one["n"], one["groups"])
    assert (two["low"], two["high"]) == pytest.approx((one["low"], one["high"]))  # a copy is no evidence
    assert (one["seed_sd"], two["seed_sd"]) == (None, 0.0)


def test_confusions_count_every_item():
  tables = compare.confusions(study_answers({"base": 0.3, "sft": 0.6, "dpo": 0.85}, n=50), TARGETS)
  assert len(tables) == 6
  assert all(np.sum(table["matrix"]) == 50 for table in tables)


def test_harm_is_named_whatever_else_is_decided():
  gain, harm = (0.1, 0.3, 0.001), (-0.4, -0.15, 0.02)
  found = compare.recommend(rows_of(gain, harm, (-0.1, 0.1, 1)), higher_is_better=True)
  assert found["verdict"] == "sft_is_enough" and found["why"].startswith("DPO does harm: sft -> dpo")
  few = [row | {"groups": 40} for row in rows_of((-0.1, 0.3, 0.3), harm, (-0.2, 0.02, 1))]
  found = compare.recommend(few, higher_is_better=True)
  assert found["verdict"] == "not_decidable" and found["why"].startswith("DPO does harm: sft -> dpo")
  assert ": loss;" in found["why"]


def test_more_examples_follow_from_the_open_comparisons():
  """By hand: error 0.03 of 200 patients with 300 rows; the farther of 0 and the margin decides."""
  z, z_family = (norm.isf(0.025 / family) + norm.isf(0.2) for family in (1, 3))
  gain = (0.1, 0.3, 0.001)

  def more(difference):
    found = compare.recommend(rows_of(gain, (difference - 0.06, difference + 0.06, 0.2), gain), higher_is_better=True)
    assert found["verdict"] == "not_decidable" and f"About {found['more_examples']} more test examples" in found["why"]
    return found["more_examples"]

  cases = ((0.01, 0.04, z), (0.04, 0.04, z_family), (0.055, 0.055, z_family), (-0.005, 0.055, z))
  for difference, distance, quantile in cases:
    exact = 300 * ((quantile * 0.03 / distance) ** 2 - 1)
    assert exact <= more(difference) <= 1.1 * exact + 2  # rounded up to two digits
  few = [row | {"groups": 40, "n": 40} for row in rows_of(gain, (-0.02, 0.04, 1), gain)]
  assert compare.recommend(few, higher_is_better=True)["more_examples"] == 19  # 59 patients, the rule of three


def test_methods_beyond_the_three_are_compared_and_take_no_part_in_the_verdict():
  answers = study_answers({"base": 0.3, "sft": 0.8, "dpo": 0.8, "orpo": 0.85, "few_shot": 0.35})
  methods = ("few_shot", "orpo", "dpo", "sft", "base")
  _, comparisons, recommendations = compare.compare(answers, TARGETS, methods, resamples=500)
  assert len(comparisons) == 2 * 10
  assert [row["verdict"] for row in recommendations] == ["sft_is_enough"] * 2
  _, comparisons, recommendations = compare.compare(answers, TARGETS, ("base", "orpo"), resamples=500)
  assert len(comparisons) == 2 and {row["verdict"] for row in recommendations} == {"not_decidable"}
  _, comparisons, recommendations = compare.compare(answers, TARGETS, ("base",), resamples=500)
  assert comparisons == [] and {row["more_examples"] for row in recommendations} == {None}


def test_a_large_family_can_still_be_significant():
  """With p no smaller than 1 / 501, Holm over 90 comparisons would leave none below 0.05."""
  skills = {f"method{index}": 0.05 + 0.09 * index for index in range(10)}
  _, comparisons, _ = compare.compare(study_answers(skills, n=120), TARGETS, tuple(skills), resamples=500)
  assert len(comparisons) == 90
  clear = [row for row in comparisons if (row["a"], row["b"]) == ("method0", "method9")]
  assert all(row["p_holm"] < 0.05 for row in clear)


def test_no_difference_comes_with_what_could_have_been_found():
  rows = compare.compare(study_answers({"base": 0.5, "sft": 0.52, "dpo": 0.9}), TARGETS, METHODS, resamples=500)[1]
  assert {row["b"] for row in rows if row["p_holm"] >= 0.05} == {"sft"}
  for row in rows:
    assert ("detectable" in compare.describe(row)) == (row["p_holm"] >= 0.05)


def test_methods_must_have_answered_the_same_items():
  skills = {"base": 0.3, "sft": 0.6, "dpo": 0.85}
  key = ("triage", "provider", "sft", 0)

  def refused(change):
    answers = study_answers(skills, n=20)
    change(answers)
    with pytest.raises(RunError) as caught:
      compare.compare(answers, TARGETS, METHODS, resamples=100)
    assert "triage / provider" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)

  assert "no predictions of sft" in refused(lambda answers: answers.pop(key))
  assert "different items (ids differ)" in refused(lambda answers: answers[key]["ids"].__setitem__(0, "other"))
  assert "references differ" in refused(
    lambda answers: answers[key].update(references=answers[key]["references"][::-1])
  )
  assert "19 predictions" in refused(lambda answers: answers[key]["predictions"].pop())
  assert "twice" in refused(lambda answers: answers[key]["ids"].__setitem__(0, "row-1"))
  assert "other items than seed 0" in refused(
    lambda answers: answers.update(
      {
        (*where, 1): run | {"ids": [f"new-{index}" for index in run["ids"]]}
        for (*where, _), run in list(answers.items())
      }
    )
  )
  assert "has seeds [0] but sft has [1]" in refused(lambda answers: answers.update({(*key[:3], 1): answers.pop(key)}))


def test_the_margin_must_be_above_zero():
  with pytest.raises(UserError, match="smallest relevant difference"):
    compare.compare({}, TARGETS, METHODS, margin=0)


SUMMARY = TextTarget(lambda fields: Facts({}, {}), primary="invention_rate")


def text_answers(levels, n=120, seeds=(0,)):
  """Texts of which method m invents something in a share `levels[m]`, and whose other scores follow from that."""
  answers = {}
  for seed in seeds:
    hard = np.random.default_rng(seed).random(n)
    for method, level in levels.items():
      invented = (hard < level).astype(float)
      scores = [{name: 1 - wrong for name in TEXT_METRICS} | {"invention_rate": wrong} for wrong in invented.tolist()]
      answers["summarization", "summary", method, seed] = {
        "ids": [f"row-{i}" for i in range(n)],
        "groups": [f"patient-{i}" for i in range(n)],
        "references": ["reference"] * n,
        "predictions": [None if i == 0 else "text" for i in range(n)],
        "scores": scores,
      }
  return answers


def test_texts_are_compared_by_their_primary_metric_in_its_direction():
  answers = text_answers({"base": 0.7, "sft": 0.4, "dpo": 0.1})
  targets = {("summarization", "summary"): SUMMARY}
  results, comparisons, (recommendation,) = compare.compare(answers, targets, METHODS, resamples=300)
  assert len(results) == 3 * len(text_metrics(SUMMARY))
  means = {row["method"]: row["value"] for row in results if row["primary"]}
  for method, value in means.items():
    scores = answers["summarization", "summary", method, 0]["scores"]
    assert value == pytest.approx(np.mean([score["invention_rate"] for score in scores]))
  assert {row["metric"] for row in results if row["primary"]} == {"invention_rate"}
  assert all(row["metric"] == "invention_rate" and row["test"] == "mcnemar_exact" for row in comparisons)
  assert recommendation["verdict"] == "dpo_adds", "less is better"
  assert compare.confusions(answers, targets) == []
  with pytest.raises(UserError, match="'length_ratio' cannot be the primary"):
    compare.compare(answers, {("summarization", "summary"): TextTarget(SUMMARY.facts, "length_ratio")}, METHODS)


def test_pooled_seeds_of_texts_are_tested_by_permutation():
  answers = text_answers({"base": 0.7, "sft": 0.4, "dpo": 0.1}, seeds=(0, 1))
  results, *_ = compare.compare(answers, {("summarization", "summary"): SUMMARY}, METHODS, resamples=200)
  assert {row["metric"]: row["interval"] for row in results} == {
    name: "score" if TEXT_METRICS[name].bounded else "bca" for name in text_metrics(SUMMARY)
  }
  _, comparisons, _ = compare.compare(answers, {("summarization", "summary"): SUMMARY}, METHODS, resamples=200)
  assert {(row["test"], row["n"], row["groups"]) for row in comparisons} == {("permutation", 120, 120)}


def test_baselines_are_described_and_not_compared():
  answers = study_answers({"base": 0.3, "sft": 0.6, "dpo": 0.85, "majority": 0.4}, n=40)
  beside = {key: answers.pop(key) for key in list(answers) if key[2] == "majority"}
  alone = compare.compare(answers, TARGETS, METHODS, resamples=100)
  results, comparisons, recommendations = compare.compare(answers, TARGETS, METHODS, resamples=100, baselines=beside)
  assert (comparisons, recommendations) == alone[1:], "neither Holm's family nor a verdict knows of them"
  assert [row for row in results if not row["baseline"]] == alone[0]
  assert {(row["target"], row["method"]) for row in results if row["baseline"]} == {
    ("provider", "majority"),
    ("urgency", "majority"),
  }
  beside["triage", "provider", "majority", 0]["ids"][0] = "another row"
  with pytest.raises(RunError, match="base and majority were evaluated on different items"):
    compare.compare(answers, TARGETS, METHODS, resamples=100, baselines=beside)
