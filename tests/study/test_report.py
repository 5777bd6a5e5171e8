import copy

import pytest

from medjax.errors import UserError
from medjax.study import report

WHERE = {"task": "numeric_classification", "target": "thyroid_state"}
COST = {"task": "triage", "target": "urgency"}


def result(where, method, metric, value, primary, seed=0):
  where = {**where, "method": method, "seed": seed, "split": "test", "metric": metric, "primary": primary}
  return {**where, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 150, "groups": 150}


def comparison(where, a, b, metric, difference, p):
  interval = {"difference": difference, "low": difference - 0.05, "high": difference + 0.05}
  return {**where, "a": a, "b": b, "metric": metric, **interval, "p": p, "p_holm": min(1, 2 * p)}


STUDY = {
  "schema_version": 1,
  "results": [
    *(
      result(WHERE, method, "macro_f1", value, True) for method, value in [("base", 0.3), ("sft", 0.62), ("dpo", 0.63)]
    ),
    *(
      result(WHERE, method, "accuracy", value, False) for method, value in [("base", 0.4), ("sft", 0.7), ("dpo", 0.71)]
    ),
    *(
      result(COST, method, "triage_cost", value, True) for method, value in [("base", 1.5), ("sft", 0.9), ("dpo", 0.4)]
    ),
  ],
  "comparisons": [
    comparison(WHERE, "base", "sft", "macro_f1", 0.32, 0.0001),
    comparison(WHERE, "sft", "dpo", "macro_f1", 0.01, 0.4),
    comparison(COST, "sft", "dpo", "triage_cost", -0.5, 0.002),
  ],
  "recommendations": [
    {**WHERE, "verdict": "sft_is_enough", "why": "SFT improves macro_f1 over base."},
    {**COST, "verdict": "dpo_adds", "why": "DPO lowers the cost. " * 12},
  ],
  "confusion": [
    {
      **WHERE,
      "method": "sft",
      "seed": 0,
      "labels": ["low|ish", "high"],
      "predicted": ["low|ish", "high", "unparseable"],
    }
    | {"matrix": [[70, 5, 1], [14, 60, 0]]}
  ],
  "training": [
    {"task": "triage", "method": "sft", "tokens": 41234, "seconds": 130.25},
    {"task": "triage", "method": "dpo", "tokens": 51234, "seconds": 150.5, "pairs": 96},
  ],
  "protocol": {"selection": {"split": "validation", "learning_rates": [0.0001, 0.0003]}, "test": "read once"},
  "environment": {"devices": ["cpu:0"], "versions": {"jax": "0.10.2"}},
  "items": [{"prompt": "Mrs Example has chest pain"}],
}


# What only a study of its own folder knows: data cards, costs, calibration, subgroups, answers that cannot be read.
SPLIT = {"rows": 50, "groups": 48, "labels": {"thyroid_state": {"low": 20, "high": 30}}, "data": "0123456789abcdef"}
BIN = {"from": 0.9, "to": 1.0, "n": 150, "confidence": 0.95, "right": 0.5, "low": 0.4, "high": 0.6}
SCORES = {name: {"value": 0.25, "low": 0.2, "high": 0.3} for name in ("ece", "brier", "log_loss")}
RANKING = {"auroc": {"value": 0.75, "low": 0.7, "high": 0.8}, "auprc": None, "left_out": []}
SFT = {"task": "numeric_classification", "method": "sft", "seed": 0}
DETAILS = {
  "data": {
    "numeric_classification": {
      "targets": {"thyroid_state": "labels"},
      **{"source": "labs.csv", "split_by": "hash", "left_out": 3, "conflict_rows": 0},
      "splits": {split: SPLIT for split in ("train", "validation", "test")},
      "repeated": [{"first": "train", "second": "test", "exact_rows": 2, "near_rows": 1}],
      "warnings": ["TSH alone nearly tells thyroid_state; is it known before the answer?"],
    }
  },
  "cost": [
    {
      **SFT,
      "candidate": 0,
      "chosen": True,
      "steps": 10,
      "tokens": 5000,
      "flops": 6 * 10**12,
      "reference_flops": 10**12,
    },
    {**SFT, "candidate": 1, "chosen": False, "steps": 10, "tokens": 5000, "flops": 7 * 10**12, "reference_flops": 0},
  ],
  "calibration": [{**WHERE, "method": "sft", "seed": 0, "n": 150, "scores": SCORES, "ranking": RANKING, "bins": [BIN]}],
  "subgroups": [
    {**result(WHERE, "sft", "macro_f1", value, True), "column": "age", "level": level, "n": 70, "groups": 70}
    for level, value in [("20 to <40", 0.6), ("40 to <60", 0.64)]
  ],
  "unparseable": [
    {**WHERE, "method": method, "seed": 0, "unparseable": count, "n": 150}
    for method, count in [("base", 9), ("sft", 1)]
  ],
}
FULL = {
  **STUDY,
  **DETAILS,
  "environment": {"devices": "1 x cpu", "training_seconds": {"numeric_classification sft seed0": 700.0}},
}


@pytest.fixture
def text(tmp_path):
  report.write_report(STUDY, tmp_path / "report.md")
  return (tmp_path / "report.md").read_text()


def section(text, title):
  return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def tables(text):
  """The tables of a Markdown text: lists of rows of cells."""
  blocks = [[]]
  for line in text.splitlines():
    if line.startswith("|"):
      blocks[-1].append([cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")])
    elif blocks[-1]:
      blocks.append([])
  return [block for block in blocks if block]


def test_the_verdict_comes_first(text):
  assert [line for line in text.splitlines() if line.startswith("## ")] == [
    *("## Verdict", "## Primary metrics", "## Differences", "## All metrics", "## Confusion matrices"),
    *("## Training", "## Methods", "## Limits", "## Reporting checklist", "## Protocol", "## Environment"),
    "## Not a medical device",
  ]
  verdict = section(text, "Verdict")
  assert "**numeric_classification / thyroid_state: SFT is enough** (`sft_is_enough`)" in verdict
  assert "**triage / urgency: DPO adds to SFT** (`dpo_adds`)" in verdict
  assert "\n\n**triage" in verdict  # a paragraph of its own


def test_every_table_is_rectangular(text):
  found = tables(text)
  assert len(found) == 7
  for table in found:
    assert {len(row) for row in table} == {len(table[0])}
    assert table[1] == ["---"] * len(table[0])


def test_primary_table_has_methods_as_columns(text):
  (table,) = tables(section(text, "Primary metrics"))
  assert table[0] == ["task / target", "metric", "n", "base", "sft", "dpo"]
  assert table[2][1:5] == ["macro_f1", "150", "0.300 [0.200, 0.400]", "0.620 [0.520, 0.720]"]
  assert table[3][1] == "triage_cost (lower is better)"


def test_differences_keep_their_sign_and_tiny_p_is_not_zero(text):
  (table,) = tables(section(text, "Differences"))
  assert table[2][1:] == ["SFT − base", "macro-F1", "+0.320", "[+0.270, +0.370]", "<0.001", "<0.001"]
  assert table[4][2:] == ["triage cost (lower is better)", "−0.500", "[−0.550, −0.450]", "0.002", "0.004"]


def test_what_was_recorded_of_a_comparison_is_in_its_table(tmp_path):
  more = {
    "test": "mcnemar_exact",
    "p_mid": 0.0321,
    "effect": "cohens_g",
    "effect_size": -0.25,
    "mdd": 0.12,
    "seed_sd": 0.04,
  }
  study = copy.deepcopy(STUDY)
  study["comparisons"] = [{**row, **more} for row in study["comparisons"]]
  report.write_report(study, tmp_path / "report.md")
  (table,) = tables(section((tmp_path / "report.md").read_text(), "Differences"))
  first, second = (dict(zip(table[0], row, strict=True)) for row in table[2:4])
  assert first["mid-p"] == "0.032" and first["Test"] == "McNemar, exact" and first["Between seeds"] == "0.040"
  assert first["Effect size"] == "Cohen’s g −0.250"
  assert (first["Detectable"], second["Detectable"]) == ("", "0.120"), "beside every difference that is not shown"


def test_confusion_training_protocol_and_environment_are_shown(text):
  (table,) = tables(section(text, "Confusion matrices"))
  assert table[0] == ["", "low\0ish", "high", "unparseable"]
  assert table[2:] == [["low\0ish", "70", "5", "1"], ["high", "14", "60", "0"]]
  (table,) = tables(section(text, "Training"))
  assert table[0] == ["task", "method", "tokens", "seconds", "pairs"]
  assert table[2] == ["triage", "sft", "41234", "130.2", ""]
  assert "- selection:\n  - split: validation\n  - learning_rates: 0.0001, 0.0003\n" in section(text, "Protocol")
  assert "  - jax: 0.10.2" in section(text, "Environment")


def test_no_example_text(text):
  assert "Mrs Example" not in text + report.console_table(STUDY)


def test_it_is_said_first_and_last_that_this_is_no_medical_device(text):
  assert "No medical device" in text.split("## Verdict")[0]
  assert "medical device, and none has been assessed" in section(text, "Not a medical device")


def test_a_bare_study_has_a_report(tmp_path):
  bare = {key: STUDY[key] for key in ("results", "comparisons", "recommendations")}
  report.write_report(bare, tmp_path / "report.md")
  text = (tmp_path / "report.md").read_text()
  assert "## Confusion" not in text and "## Training" not in text and "## Protocol" not in text
  assert "## Cost" not in text and "## Subgroups" not in text and "## Calibration" not in text


def test_costs_data_calibration_and_subgroups_are_tables(tmp_path):
  report.write_report(FULL, tmp_path / "report.md")
  text = (tmp_path / "report.md").read_text()
  (cost,) = tables(section(text, "Cost"))
  run = dict(zip(cost[0], cost[2], strict=True))
  assert (run["Tokens"], run["Hours"], run["FLOPs"], run["FLOP/s"]) == ("5,000", "0.19", "7 T", "10 G")
  assert run["FLOPs of all candidates"] == "14 T" and cost[3][0] == "all runs"
  data = section(text, "Data")
  assert "- 2 rows of test have a prompt that stands in train too, and 1 nearly so." in data
  assert "- TSH alone nearly tells thyroid_state" in data and "0123456789abcdef" in data
  assert ["low", "20 (40%)", "20 (40%)", "20 (40%)"] in tables(data)[1]
  assert tables(section(text, "Calibration"))[0][2] == [
    "SFT",
    *["0.250 [0.200, 0.300]"] * 3,
    "0.750 [0.700, 0.800]",
    "-",
  ]
  assert tables(section(text, "Subgroups"))[0][2] == ["20 to <40", "70 (70)", "0.600 [0.500, 0.700]"]
  assert "Answers that could not be read, of 150, counted as wrong: base 9, SFT 1." in section(text, "Verdict")


def test_a_second_look_unequal_budgets_and_failed_runs_are_limits(tmp_path):
  spent = {"task": "triage", "method": "sft", "settings": 4, "steps": 400, "tokens": 12345}
  budget = {"unit": "tokens of training", "equal": False, "spent": [spent]}
  protocol = {"second_looks": [{"task": "triage"}], "failed": [{"task": "triage"}], "budget": budget}
  report.write_report({**STUDY, "protocol": protocol}, tmp_path / "report.md")
  text = (tmp_path / "report.md").read_text()
  limits = section(text, "Limits")
  assert "Test rows were looked at more than once" in limits and "unequal tuning budgets" in limits
  assert "1 training runs failed" in limits
  assert tables(section(text, "Training"))[1][2] == ["triage", "SFT", "4", "400", "12,345"]


def test_console_table_has_every_target_and_method_and_fits():
  lines = report.console_table(STUDY).splitlines()
  assert max(map(len, lines)) <= 100
  assert lines[2] == "numeric_classification / thyroid_state"
  assert lines[4].split() == ["sft", "macro_f1", "0.620", "[0.520,", "0.720]", "150"]
  assert lines[6].split() == ["sft", "-", "base", "macro_f1", "+0.320", "[+0.270,", "+0.370]", "<0.001"]
  start = lines.index("triage / urgency")
  assert "dpo - sft                triage_cost (lower is better)  -0.500" in lines[start + 4]
  assert lines[start + 5].startswith("  verdict: dpo_adds. DPO lowers the cost.")


def test_seeds_are_told_apart_where_there_are_several(tmp_path):
  study = copy.deepcopy(STUDY)
  study["results"].append(result(WHERE, "sft", "macro_f1", 0.5, True, seed=1))
  report.write_report(study, tmp_path / "report.md")
  (table,) = tables(section((tmp_path / "report.md").read_text(), "Primary metrics"))
  assert table[0][3:] == ["base (seed 0)", "sft (seed 0)", "dpo (seed 0)", "sft (seed 1)"]
  assert table[3][-1] == ""
  assert "  sft (seed 1) " in report.console_table(study)


def test_baselines_stand_beside_the_methods_and_have_no_seed(tmp_path):
  study = copy.deepcopy(STUDY)
  study["results"] += [
    result(WHERE, "sft", "macro_f1", 0.5, True, seed=1),
    {**result(WHERE, "bag_of_words", "macro_f1", 0.7, True), "baseline": True},
    {**result({"task": "summarization", "target": "summary"}, "lead", "fact_f1", 0.2, True), "baseline": True},
  ]
  report.write_report(study, tmp_path / "report.md")
  text = section((tmp_path / "report.md").read_text(), "Primary metrics")
  (table,) = tables(text)
  row = dict(zip(table[0], table[2], strict=True))
  assert row["bag_of_words"] == "0.700 [0.600, 0.800]" and row["sft (seed 1)"] == "0.500 [0.400, 0.600]"
  assert dict(zip(table[0], table[4], strict=True))["lead"] == "0.200 [0.100, 0.300]"
  assert "not in the verdict: bag_of_words, lead." in text
  assert "  bag_of_words " in report.console_table(study)


@pytest.mark.parametrize("change", [{"results": []}, {"comparisons": None}])
def test_an_unfinished_study_is_refused(change, tmp_path):
  study = {key: value for key, value in {**STUDY, **change}.items() if value is not None}
  with pytest.raises(UserError):
    report.write_report(study, tmp_path / "report.md")
  with pytest.raises(UserError):
    report.console_table(study)
  assert not (tmp_path / "report.md").exists()
