"""Simulated patients: who they are, what they have and take, what is measured when nothing is wrong."""

# ruff: noqa: E501

import dataclasses
from collections.abc import Mapping

from medjax.tasks.simulator_draws import Draws


@dataclasses.dataclass(frozen=True)
class Profile:
  """A kind of patient.

  Attributes:
    name: e.g. `anticoagulated`.
    weight: how often it is drawn, relative to the others.
    ages: youngest and oldest age in years (for `infant`, in weeks).
    tags: what a concern may require. `adult`: writes for themselves. `low_risk`: an adult under 65 in whom a minor
      symptom stays minor. `older`: over 65 and otherwise at ordinary risk.
    conditions: standing diagnoses, one of them drawn where there are several.
    drugs: standing drugs, one of each tuple.
    context: templates that tell the reader what the profile means for triage.
    sex: `F` where only women fit, otherwise drawn.
  """

  name: str
  weight: float
  ages: tuple[int, int]
  tags: frozenset[str]
  conditions: tuple[str, ...]
  drugs: tuple[tuple[str, ...], ...]
  context: tuple[str, ...]
  sex: str = ""


@dataclasses.dataclass(frozen=True)
class Patient:
  """One simulated patient.

  Attributes:
    index: number of the patient; with the seed it determines everything else.
    profile: kind of patient.
    age: years; weeks for an infant.
    sex: `F` or `M`.
    conditions: standing diagnoses.
    drugs: standing drugs.
    vitals: usual values: systolic and diastolic pressure (mmHg), pulse (1/min), saturation (%), temperature (0.1 °C).
    labs: usual values: potassium (0.1 mmol/l), sodium (mmol/l), haemoglobin (0.1 g/dl).
    weeks_pregnant: 0 where not pregnant.
  """

  index: int
  profile: Profile
  age: int
  sex: str
  conditions: tuple[str, ...]
  drugs: tuple[str, ...]
  vitals: Mapping[str, int]
  labs: Mapping[str, int]
  weeks_pregnant: int = 0


def _profile(name, weight, ages, tags, conditions, drugs, *context, sex=""):
  drugs = tuple(tuple(choice.split("|")) for choice in drugs.split()) if drugs else ()
  return Profile(name, weight, ages, frozenset(tags.split()), tuple(conditions.split("|")), drugs, context, sex)


# fmt: off
PROFILES = (
  _profile(
    "healthy", 20, (19, 62), "adult low_risk", "none", "cetirizine|omeprazole|sertraline",
    "[otherwise healthy|usually well|no illnesses]", "[keep fit|rarely ill]", "[on|take] {drug}",
  ),
  _profile(
    "past_anticoagulant", 10, (28, 62), "adult low_risk past_anticoagulant", "past deep vein thrombosis", "omeprazole|cetirizine",
    "[came|was taken] off [apixaban|warfarin|rivaroxaban] {long_ago}", "[stopped|finished] [warfarin|blood thinners|Eliquis] {long_ago}",
  ),
  _profile(
    "past_chemotherapy", 5, (36, 70), "adult past_chemo", "treated cancer", "omeprazole|cetirizine", "had chemo {long_ago}, [all clear now|done with it]",
  ),
  _profile(
    "older", 14, (66, 88), "adult older", "hypertension|osteoarthritis", "amlodipine|ramipril|lisinopril atorvastatin|simvastatin",
    "[on|taking] {drug}", "high blood pressure [for years|]", "[arthritis|bad knees], {drug} daily",
  ),
  _profile(
    "anticoagulated", 13, (58, 86), "adult anticoagulated critical", "atrial fibrillation", "warfarin|apixaban|rivaroxaban metoprolol|digoxin",
    "[on|taking|I take] {anticoagulant}[ for AF| for my heart rhythm| daily|]", "{anticoagulant} [patient|since {2012-2021}]",
  ),
  _profile(
    "insulin", 12, (19, 64), "adult insulin critical", "type 1 diabetes", "insulin",
    "type 1 diabetic", "[diabetic on insulin|on insulin|T1 diabetes]", "insulin [pump|pens] for {5-20} years",
  ),
  _profile(
    "tablet_diabetes", 6, (66, 80), "adult older tablet_diabetes", "type 2 diabetes", "metformin atorvastatin",
    "type 2 diabetic[ on metformin|]", "[on metformin|metformin twice daily]",
  ),
  _profile(
    "early_pregnancy", 6, (20, 41), "adult pregnant early_pregnancy", "pregnancy", "folic_acid",
    "{weeks_pregnant} weeks pregnant", "pregnant, {weeks_pregnant} [wks|weeks]", sex="F",
  ),
  _profile(
    "late_pregnancy", 9, (20, 41), "adult pregnant late_pregnancy", "pregnancy", "folic_acid",
    "{weeks_pregnant} weeks pregnant", "pregnant, {weeks_pregnant} [wks|weeks]", sex="F",
  ),
  _profile(
    "chemotherapy", 9, (32, 74), "adult chemo", "breast cancer|colon cancer|lymphoma", "ondansetron",
    "[on|having] chemo[, last round {5-12} days ago|]", "chemo for [lymphoma|cancer][, cycle {2-5}|]",
  ),
  _profile(
    "transplant", 5, (25, 66), "adult transplant critical", "kidney transplant", "tacrolimus prednisolone",
    "[kidney transplant|new kidney] [{2012-2021}|]", "transplant patient",
  ),
  _profile(
    "epilepsy", 6, (19, 60), "adult low_risk epilepsy critical", "epilepsy", "levetiracetam|lamotrigine", "epilepsy", "[have|known] epilepsy",
  ),
  _profile(
    "after_operation", 9, (28, 74), "adult postop", "recent operation", "ibuprofen|oxycodone",
    "[knee op|hip op|hernia repair|gallbladder out] {4-9} days ago", "operated {4-9} days ago",
  ),
  _profile(
    "asthma", 6, (19, 58), "adult low_risk asthma", "asthma", "salbutamol beclometasone", "asthma", "[have|known] asthma[ since school|]",
  ),
  _profile(
    "heart_failure", 6, (62, 86), "adult heart_failure", "heart failure", "furosemide bisoprolol", "heart failure, {drug} daily",
    "[weak heart|heart failure]",
  ),
  _profile("methotrexate", 4, (35, 72), "adult methotrexate", "rheumatoid arthritis", "methotrexate folic_acid", "methotrexate weekly for RA"),
  _profile("lithium", 4, (24, 60), "adult lithium", "bipolar disorder", "lithium", "[on|taking] lithium"),
  _profile("catheter", 4, (60, 86), "adult catheter", "urinary catheter", "oxybutynin", "[have|with] a catheter[ since spring|]"),
  _profile("feeding_tube", 3, (45, 78), "adult feeding_tube", "feeding tube", "omeprazole", "[PEG|feeding] tube [since {2018-2021}|]"),
  _profile("stoma", 3, (40, 76), "adult stoma", "ileostomy", "loperamide", "[have|with] a stoma"),
  _profile("infant", 5, (3, 10), "infant", "none", "", "my {child} is {age} weeks old", "{age} week old {child}"),
  _profile("child", 7, (2, 4), "child", "none", "", "my {child} is {age}", "{age} year old {child}"),
)
# fmt: on


def patient(seed: int, index: int) -> Patient:
  """The patient of that number, the same for the same seed and index on every machine.

  Args:
    seed: seed of the population.
    index: number of the patient, from 0.

  Returns:
    The patient.
  """
  draws = Draws(seed, index, 0)
  profile = draws.pick(PROFILES, [profile.weight for profile in PROFILES])
  weeks = {"early_pregnancy": draws.between(6, 11), "late_pregnancy": draws.between(29, 37)}.get(profile.name, 0)
  return Patient(
    index=index,
    profile=profile,
    age=draws.between(*profile.ages),
    sex=profile.sex or draws.pick("FM"),
    conditions=(draws.pick(profile.conditions),),
    drugs=tuple(draws.pick(choice).replace("_", " ") for choice in profile.drugs),
    vitals={
      "systolic": draws.between(108, 138),
      "diastolic": draws.between(66, 84),
      "pulse": draws.between(58, 88),
      "saturation": draws.between(96, 99),
      "temperature": draws.between(364, 371),
    },
    labs={
      "potassium": draws.between(37, 48),
      "sodium": draws.between(136, 143),
      "haemoglobin": draws.between(122, 150),
    },
    weeks_pregnant=weeks,
  )
