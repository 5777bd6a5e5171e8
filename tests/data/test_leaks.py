import dataclasses
import json

import numpy as np
import pytest

from medjax.data import leaks as leaks_module
from medjax.data.leaks import leaks

LABELS = ("admit", "discharge")
FILLER = "patient comes with pain since some days and has taken medicine without much relief so far".split()


def draw(rows=300, labels=LABELS, seed=0):
  rng = np.random.default_rng(seed)
  return rng, [labels[i] for i in rng.integers(len(labels), size=rows)], [f"p{i}" for i in range(rows)]


def note(rng, words=30):
  return " ".join(rng.choice(FILLER, words))


def only(report):
  (column,) = report.columns
  return column


def test_a_later_category_is_flagged_and_a_weak_one_is_not():
  rng, labels, groups = draw()
  later = ["ward" if (label == "admit") != (rng.random() < 0.05) else "home" for label in labels]
  weak = ["car" if (label == "admit") != (rng.random() < 0.4) else "ambulance" for label in labels]
  chance = list(rng.choice(["f", "m"], len(labels)))
  report = leaks({"sex": chance, "arrival": weak, "went to": later}, labels, groups)
  assert [column.name for column in report.columns if column.flagged] == ["went to"]
  found = {column.name: column for column in report.columns}
  assert {column.kind for column in report.columns} == {"categorical"}
  assert found["went to"].auroc > 0.9 > 0.75 > found["arrival"].auroc > 0.5
  assert found["sex"].auroc == pytest.approx(0.5, abs=0.08)
  assert report.columns[0].name == "went to" and "AUROC of 0.9" in found["went to"].why and not found["sex"].why
  assert (report.rows, report.labels) == (300, LABELS)


@pytest.mark.parametrize("as_text", [False, True])
def test_numbers_are_judged_by_ranges_of_any_form(as_text):
  rng, labels, groups = draw(400)
  # Admitted in the middle range only: a linear model sees nothing.
  inside = [
    round(float(rng.uniform(4, 6) if label == "admit" else rng.choice([rng.uniform(0, 4), rng.uniform(6, 9)])), 3)
    for label in labels
  ]
  noise = [round(float(value), 3) for value in rng.normal(size=400)]
  columns = {"inside": inside, "noise": noise}
  if as_text:
    columns = {name: [str(value) for value in values] for name, values in columns.items()}
  found = {column.name: column for column in leaks(columns, labels, groups).columns}
  assert {column.kind for column in found.values()} == {"numeric"}
  assert found["inside"].flagged and found["inside"].auroc > 0.97
  assert not found["noise"].flagged and found["noise"].auroc < 0.65


@pytest.mark.parametrize("missing", [None, "", "?", float("nan"), "NA"])
@pytest.mark.parametrize("other", [None, 1.5])
def test_what_is_missing_may_be_what_leaks(missing, other):
  rng, labels, groups = draw()
  values = [missing if label == "admit" else round(float(rng.normal()), 3) if other else "seen" for label in labels]
  assert only(leaks({"code": values}, labels, groups)).auroc > 0.99


def test_short_texts_are_read_by_words():
  rng, labels, groups = draw()
  complaints = [
    f"{rng.choice(['severe', 'mild', 'new'])} {rng.choice(['chest', 'arm', 'leg'])} pain {rng.integers(99)}"
    for _ in labels
  ]
  went = {"admit": "ICU bed", "discharge": "went home"}
  summary = [f"{text} {went[label]}" for text, label in zip(complaints, labels, strict=True)]
  found = {column.name: column for column in leaks({"a": complaints, "b": summary}, labels, groups).columns}
  assert {column.kind for column in found.values()} == {"short text"}
  assert found["b"].flagged and not found["a"].flagged


def test_a_note_that_predicts_well_is_no_leak_and_one_that_names_the_label_is():
  rng, labels, groups = draw()
  flip = rng.random(len(labels)) < 0.04
  telling = [
    f"{note(rng)} {'hypotensive' if (label == 'admit') != wrong else 'comfortable'} {note(rng)}"
    for label, wrong in zip(labels, flip, strict=True)
  ]
  naming = [
    f"{note(rng)} Plan: {label.upper() if not wrong else 'see above'}. {note(rng)}"
    for label, wrong in zip(labels, flip, strict=True)
  ]
  found = {c.name: c for c in leaks({"telling": telling, "naming": naming}, labels, groups).columns}
  assert {column.kind for column in found.values()} == {"text"}
  assert found["telling"].auroc > 0.9 and not found["telling"].flagged and found["telling"].named == 0
  assert found["naming"].flagged and found["naming"].named > 0.9 and "name their own label" in found["naming"].why


def test_a_label_inside_of_another_is_not_named_by_it():
  names = ("emergency", "non-emergency")
  rng, labels, groups = draw(labels=names)
  texts = [f"{note(rng)} triaged as Non-Emergency {note(rng)}" for _ in labels]
  column = only(leaks({"note": texts}, labels, groups))
  assert column.named == pytest.approx(0.5) and not column.flagged


def test_labels_without_words_are_not_named():
  rng, labels, groups = draw(labels=("+", "-"))
  assert only(leaks({"note": [note(rng) for _ in labels]}, labels, groups)).named == 0


def test_rows_of_one_patient_do_not_vouch_for_each_other():
  rng = np.random.default_rng(0)
  patients = [f"p{i}" for i in range(60)]
  label_of = {patient: str(rng.choice(LABELS)) for patient in patients}
  groups = [patient for patient in patients for _ in range(6)]
  labels = [label_of[group] for group in groups]
  assert not only(leaks({"number": groups}, labels, groups)).flagged
  assert only(leaks({"number": groups}, labels, [str(i) for i in range(len(groups))])).flagged


def test_rare_labels_are_left_out_and_told():
  rng, labels, groups = draw(200)
  labels, groups = [*labels, *["rare"] * 4, *["one patient"] * 30], [*groups, *"abcd", *["z"] * 30]
  report = leaks({"label": labels, "fixed": ["x"] * 234}, labels, groups)
  assert report.left_out == {"one patient": 30, "rare": 4}
  assert report.rows == 200 and report.labels == LABELS
  assert [(column.kind, column.auroc) for column in report.columns] == [("categorical", 1.0), ("constant", 0.5)]


def test_several_labels_are_averaged():
  rng, labels, groups = draw(600, ("low", "middle", "high"))
  half = ["yes" if label == "low" else "no" for label in labels]  # tells low, nothing between the others
  column = only(leaks({"half": half}, labels, groups))
  assert column.auroc == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.05)


@pytest.mark.parametrize("labels", [["a"] * 50, [f"summary {i}" for i in range(50)], []])
def test_no_two_labels_to_tell_apart(labels):
  report = leaks({"x": list(range(len(labels)))}, labels, [str(i) for i in range(len(labels))])
  assert report.columns == () and len(report.labels) < 2


def test_large_tables_are_sampled_the_same_way_each_time(monkeypatch):
  monkeypatch.setattr(leaks_module, "ROWS", 120)
  rng, labels, groups = draw(500)
  columns = {"x": [float(value) for value in rng.normal(size=500)]}
  told = []
  first = leaks(columns, labels, groups, told.append)
  assert first == leaks(columns, labels, groups) and first.rows == 120 and told == [1]


def test_the_report_holds_no_values():
  rng, labels, groups = draw(100)
  report = leaks({"a": ["Kumar" if label == "admit" else "Rossi" for label in labels]}, labels, groups)
  assert "kumar" not in json.dumps(dataclasses.asdict(report)).casefold()
