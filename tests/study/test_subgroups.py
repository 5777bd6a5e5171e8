"""Results by subgroup: how rows are grouped, and that each group's value is that of its own rows."""

import pytest

from medjax.errors import UserError
from medjax.study import subgroups
from medjax.study.subgroups import Column
from medjax.tasks.task import Target

TARGETS = {("triage", "urgency"): Target(("low", "high"))}


def rows(**columns):
  """Task -> id -> values, of lists of equal length."""
  return {
    "triage": {
      str(i): dict(zip(columns, values, strict=True)) for i, values in enumerate(zip(*columns.values(), strict=True))
    }
  }


def levels(column, values):
  return subgroups.levels([column], rows(**{column.name: values}))["triage"][column.name]


def test_a_flag_names_columns_and_widths():
  assert subgroups.parse("age:10, sex") == (Column("age", 10.0), Column("sex"))
  assert subgroups.parse("") == ()


@pytest.mark.parametrize("text", ["age:old", "age:0", ":10", "age:-5", "age,age:10"])
def test_a_flag_that_says_nothing_usable_is_refused(text):
  with pytest.raises(UserError, match="--subgroups"):
    subgroups.parse(text)


def test_numbers_are_cut_in_bands_in_the_order_of_numbers_and_the_rest_stays_as_it_is():
  found = levels(Column("age", 10), [9.5, "72", 70, 79.9, None, ">89", 104, ""])
  assert list(dict.fromkeys(found.values())) == ["0 to <10", "70 to <80", "100 to <110", ">89", "not recorded"]
  assert found["1"] == found["2"] == found["3"] == "70 to <80" and found["7"] == "not recorded"


def test_without_a_width_values_are_levels_numbers_in_their_order():
  assert list(dict.fromkeys(levels(Column("site"), ["b", 10, 9, "a", float("nan")]).values())) == [
    *("9", "10", "a", "b"),
    "not recorded",
  ]


def test_too_many_levels_and_unknown_columns_are_refused_and_no_value_is_told():
  with pytest.raises(UserError, match="age of triage has more than 24 different values; give a width") as told:
    levels(Column("age"), [f"Mrs {number}" for number in range(25)])
  assert "Mrs" not in str(told.value)
  with pytest.raises(UserError, match="no task of this study has a column 'ward'"):
    subgroups.levels([Column("ward")], rows(age=[1, 2]))


def test_a_task_without_the_column_is_not_grouped_by_it():
  found = subgroups.levels([Column("sex")], {**rows(sex=["f"]), "other": {"0": {"age": 3}}})
  assert found == {"triage": {"sex": {"0": "f"}}, "other": {}}


def answers(right, groups=None):
  truth = ["low", "high"] * (len(right) // 2)
  wrong = {"low": "high", "high": "low"}
  run = {
    "ids": [str(place) for place in range(len(right))],
    "groups": groups or [f"p{place}" for place in range(len(right))],
    "references": truth,
    "predictions": [label if ok else wrong[label] for label, ok in zip(truth, right, strict=True)],
  }
  return {("triage", "urgency", "sft", 0): run}


def test_each_level_has_the_value_of_its_own_rows_with_an_interval():
  right = [True] * 12 + [False, True] * 6
  found = subgroups.levels([Column("sex")], rows(sex=["f"] * 12 + ["m"] * 12))
  women, men = subgroups.describe(answers(right), TARGETS, found, resamples=200)
  assert (women["level"], women["value"], women["n"], women["groups"]) == ("f", 1.0, 12, 12)
  assert men["level"] == "m" and men["value"] == pytest.approx(1 / 3)  # all "low" wrong: F1 0 and 2/3
  assert men["low"] < men["value"] < men["high"]
  assert {row["metric"] for row in (women, men)} == {"macro_f1"}


def test_labels_that_a_subgroup_lacks_do_not_count_against_it():
  found = subgroups.levels([Column("sex")], rows(sex=["f", "m"] * 10))  # "low" is every f's, "high" every m's
  assert [row["value"] for row in subgroups.describe(answers([True] * 20), TARGETS, found, resamples=100)] == [1.0, 1.0]


def test_small_levels_stand_together_so_that_none_names_a_patient():
  found = subgroups.levels([Column("site")], rows(site=["a"] * 12 + ["b"] * 4 + ["c"] * 4))
  shown = subgroups.describe(answers([True] * 20), TARGETS, found, resamples=100)
  assert [(row["level"], row["n"]) for row in shown] == [("a", 12), (subgroups.FEWER, 8)]


def test_patients_are_counted_not_rows_and_one_alone_has_no_interval():
  found = subgroups.levels([Column("site")], rows(site=["a"] * 10 + ["b"] * 10))
  one_patient = [f"p{place}" for place in range(10)] + ["q"] * 10
  shown = subgroups.describe(answers([True] * 20, one_patient), TARGETS, found, resamples=100)
  assert [(row["level"], row["groups"]) for row in shown] == [("a", 10), (subgroups.FEWER, 1)]
  assert shown[1]["low"] is None and shown[1]["value"] == 1.0
