"""One mistake in a text: what is changed, to what, and what is left alone."""

import difflib

import numpy as np
import pytest

from medjax import tasks
from medjax.evaluation.text_metrics import stated
from medjax.tasks import summarization
from medjax.tasks.perturbations import MISTAKES, perturbations


def made(text, how, source=""):
  return {wrong for wrong, kind in perturbations(text, np.random.default_rng(0), source) if kind == how}


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("Right ankle pain.", {"Left ankle pain."}),
    ("MRI of the LEFT KNEE", {"MRI of the RIGHT KNEE"}),
    (
      "left upper outer thigh, right-sided weakness",
      {"right upper outer thigh, right-sided weakness", "left upper outer thigh, left-sided weakness"},
    ),
    ("Pain on the right.", {"Pain on the left."}),
    ("Right lower quadrant pain", {"Left lower quadrant pain"}),
    (
      "Left hip pain; left hip limps. Left eye",
      {"Right hip pain; right hip limps. Left eye", "Left hip pain; left hip limps. Right eye"},
    ),
    ("She left the hip clinic right away.", set()),
    ("He was left alone, all right now, on the right track.", set()),
    ("Bright eye, cleft hand, righteous arm", set()),
    ("Right as rain; copyright eye", set()),
  ],
)
def test_sides(text, wrong):
  assert made(text, "wrong_side") == wrong


@pytest.mark.parametrize(
  ("text", "doses", "units"),
  [
    ("Ramipril 2.5 mg daily", {"25", "0.25", "5", "1.25"}, {"2.5 mcg", "2.5 g"}),
    ("Take 500MG", {"5000", "50", "1000", "250"}, {"500MCG", "500G"}),
    ("B12 1,000 mcg", {"10,000", "100", "2,000", "500"}, {"1,000 mg", "1,000 g"}),
    ("16 units of glargine", {"160", "1.6", "32", "8"}, {"16 mL"}),
    ("a 40-mg tablet", {"400", "4", "80", "20"}, {"40-mcg", "40-g"}),
    ("2 puffs", {"20", "0.2", "4", "1"}, set()),
    ("10 micrograms", {"100", "1", "20", "5"}, {"10 milligrams"}),
    ("0.5 mg/kg", {"5", "0.05", "1", "0.25"}, {"0.5 mcg", "0.5 g"}),
  ],
)
def test_doses_and_units(text, doses, units):
  before = text.split(next(word for word in text.split() if word[0].isdigit() or "MG" in word))[0]
  wrong_doses, wrong_units = made(text, "wrong_dose"), made(text, "wrong_unit")
  assert {wrong[len(before) :].split(" ")[0].split("-")[0].removesuffix("MG") for wrong in wrong_doses} == doses
  assert len(wrong_units) == len(units) and all(any(unit in wrong for unit in units) for wrong in wrong_units)
  assert all(wrong.startswith(before) for wrong in wrong_doses | wrong_units)


@pytest.mark.parametrize(
  "text",
  ["Glucose 140 mg/dL", "Hb 9.5 g/dl", "vitamin B12", "SpO2 94 %", "5-10 mg", "1/2 tablet", "COVID19 mg", "BP 120/80"],
)
def test_numbers_that_are_no_doses(text):
  assert not made(text, "wrong_dose") and not made(text, "wrong_unit")


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("Denies any fever.", {"Reports fever."}),
    ("Pt denied chest pain but vomited", {"Pt reported chest pain but vomited"}),
    ("No fever.", {"Fever."}),
    ("MRI: no fracture", {"MRI: fracture"}),
    ("No evidence of PE.", {"PE."}),
    ("Cough, no fever, no rash", {"Cough, fever, no rash", "Cough, no fever, rash"}),
    ("Cough WITHOUT FEVER.", {"Cough WITH FEVER."}),
    ("Negative for influenza", {"Positive for influenza"}),
    ("No fever, chills or rash.", set()),
    ("Denies fever or cough.", set()),
    ("No known allergies. No longer smokes. No further tests.", set()),
    ("Nocturia. Another node. Denial.", set()),
  ],
)
def test_what_is_denied(text, wrong):
  assert made(text, "denied_as_present") == wrong


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("Reports nausea.", {"Denies nausea."}),
    ("She reports nausea.", {"She denies nausea."}),
    ("Positive for influenza", {"Negative for influenza"}),
    ("72M with pneumonia.", {"72M without pneumonia."}),
    ("71M: headache for 8 days.", {"71M: no headache for 8 days."}),
    ("Severe left calf swelling.", {"No severe left calf swelling."}),
    ("Well, with rash.", {"Well, without rash."}),
    ("Oedema to the knees. BP 191/108", {"No oedema to the knees. BP 191/108"}),
    ("Lab reports show no growth", set()),
    ("Treated with aspirin, consistent with gout", set()),
    ("No fever, cough.", set()),
    ("Reports nausea and cough.", set()),
  ],
)
def test_what_is_present(text, wrong):
  assert made(text, "present_as_denied") == wrong


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("A b. C d! E f?", {"C d! E f?", "A b. E f?", "A b. C d!"}),
    ("Seen by Dr. Smith at 3.5 cm. Well.", {"Seen by Dr. Smith at 3.5 cm.", "Well."}),
    ("Cough\nFever\n", {"Cough\n", "Fever\n"}),
    ("Cough; fever; rash", {"fever; rash", "Cough; rash", "Cough; fever"}),
    ("Cough, with fever, 3 days.", {"Cough, 3 days.", "Cough, with fever."}),
    ("Fever, cough and rash.", set()),
    ("Cough.", set()),
    ("", set()),
  ],
)
def test_what_is_left_out(text, wrong):
  assert made(text, "omitted_fact") == wrong


def test_what_is_made_up_is_said_nowhere_and_fits_in():
  found = made("Cough for 3 days. Well", "invented_fact", "Sister smokes; takes warfarin. Memory fine.")
  assert len(found) > 5 and not any(word in wrong for wrong in found for word in ("Smoker", "warfarin", "dementia"))
  assert all("Cough for 3 days." in wrong and "Well" in wrong for wrong in found)
  assert {wrong.replace("Has epilepsy", "X") for wrong in found if "epilepsy" in wrong} <= {
    "Cough for 3 days. X. Well",
    "Cough for 3 days. Well. X",
  }
  assert not made("", "invented_fact")


def test_order_is_the_generators_and_begins_with_one_of_each_kind():
  text = "Right knee pain. Denies fever. Ramipril 5 mg."
  one, same, other = (perturbations(text, np.random.default_rng(seed)) for seed in (1, 1, 2))
  assert one == same != other and sorted(one) == sorted(same)
  kinds = [how for _, how in one]
  assert set(kinds[: len(set(kinds))]) == set(kinds) == set(MISTAKES)


def test_each_is_one_mistake_in_the_summaries_of_the_simulator():
  """Judged by the facts of the row: what is not left out or contradicted is still stated; and one place is changed."""
  rows = tasks.get("summarization").load()["train"][:40]
  kinds = set()
  for index, row in enumerate(rows):
    text = row.labels["summary"]
    facts = summarization.facts(row.fields)
    before = stated(text, facts.must)
    found = perturbations(text, np.random.default_rng(index), row.fields["encounter"])
    assert len({wrong for wrong, _ in found}) == len(found) and text not in dict(found)
    for wrong, how in found:
      kinds.add(how)
      blocks = difflib.SequenceMatcher(None, text.split(), wrong.split(), autojunk=False).get_opcodes()
      assert sum(tag != "equal" for tag, *_ in blocks) <= 2, (text, wrong)
      lost = before.keys() - stated(wrong, facts.must).keys()
      # The opening names the patient, the problem and for how long; other sentences hold at most a dose and how often.
      assert len(lost) <= (3 if how == "omitted_fact" else 1 if how != "invented_fact" else 0)
      assert lost == {"dose"} or how not in ("wrong_dose", "wrong_unit")
  assert kinds == set(MISTAKES) - {"denied_as_present"}
