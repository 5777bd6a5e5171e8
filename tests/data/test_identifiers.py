import dataclasses
import json
import time

import pytest

from medjax.data.identifiers import KINDS, LISTED, counted, identifiers
from medjax.tasks import task as tasks

FOUND = {
  "date": [
    "seen on 03/12/2019", "DOB 3/12/48", "2019-03-12", "12.03.2019", "25/12/2019", "on March 12, 2019",
    "MARCH 12 2019",
    "12 March 2019", "12-Mar-2019", "the 3rd of March", "since March 3rd", "in March 2019", "07/2019",
    "on 3/12 he fell", "admitted Dec 20.", "In May 2019", "back in April", "until 7/93.",
  ],
  "age_over_89": [
    "a 92-year-old man", "101 year old", "90 y/o F", "95yo", "94 y.o. woman", "aged 91", "Age: 97", "92m. c/o cough",
    "93 female", "99 years of age",
  ],
  "phone": [
    "call 617-555-0123", "(617) 555-0123", "617.555.0123", "+1 617-555-0123", "+44 20 7946 0958", "cell: 6175550123",
    "phone 555-0123", "call me at 555-0123",
  ],
  "fax": ["Fax: 617-555-0123", "fax no. 555-0123"],
  "email": ["write to jane.doe@example.com.", "a+b@mail.example.org"],
  "url": ["see https://example.com/a?b=1", "www.example.com/x", "at example.org today"],
  "ip_address": ["from 192.168.10.4", "host 2001:db8::8a2e:370:7334 down"],
  "ssn": ["SSN 123-45-6789", "123-45-6789", "social security no. 123456789", "last four of SSN: 6789"],
  "record_number": [
    "MRN: 00123456", "MRN 123456", "medical record number 12-34-56", "Patient ID: A12345", "accession # 99812",
  ],
  "health_plan_number": ["Member ID: XYZ123456", "Medicare no. 1EG4-TE5-MK73", "policy number 998877"],
  "account_number": ["Account number: 12345678", "acct #4455"],
  "licence_number": ["license no. D1234567", "DEA # AB1234563", "NPI 1234567893", "Passport number: C0123456"],
  "vehicle": ["VIN 1HGCM82633A004352", "license plate: 7ABC123"],
  "device": ["serial number 12345AB", "S/N: PM-20391", "Pacemaker id 88121"],
  "address": [
    "lives at 12 Elm Street", "4500 N. Lake Shore Drive", "P.O. Box 12", "Boston, MA 02115", "ZIP: 02115-1234",
    "12 Elm St, Boston",
  ],
  "name": [
    "Dr. Kumar", "Mrs. O'Neill", "Mr Smith-Jones", "Doctor Kumar followed", "Name: Smith, John", "Patient name: Rossi",
    "my name is Anna", "DR. KUMAR SAW",
  ],
}  # fmt: skip

NOTHING = [
  "BP 120/80, HR 88, RR 16, SpO2 98% on 2 L, temp 98.6 F", "pain 3/10, strength 5/5, GCS 4/5/6",
  "1/2 tablet 2-3 times daily", "started on 1/2 tablet", "rated on 3/10 scale", "take 1-2 pills every 4-6 hours",
  "metoprolol 12.5 mg, warfarin 2.5-5 mg", "WBC 12345, platelets 210000, CK 12500 U/L",
  "urine culture 100,000 CFU/ml, 10000 cfu", "Na 138, K 4.1, Cl 102, CO2 24",
  "TSH 0.45, T3 2.1, TT4 183, T4U 1.02, FTI 179", "titer 1:1280, 1/640", "visual acuity 20/20 and 20/40",
  "EF 55-60%, INR 2.0-3.0", "T12-L1, C5/C6, L4-5", "89-year-old woman", "65 y/o", "age 45", "for 90 days",
  "HR 92, weight 95 kg", "fever of 101 F, 99 F", "in the last 10 years", "since 2019", "Dr. X, Ms. A",
  "from 10/10 to 5/10 in 2/3 of cases", "in 5/40 mg tablets", "in 2004 and 1998",
  "may 10 mg be given", "patients may 2 times", "May 3 tablets be taken", "OCT 3 mm",
  "serial 7s, serial troponins at 0, 3 and 6 hours", "G2P1001, para 2-0-1-2", "at 12:30:45, 08:15", "ratio 3.5.2",
  "Doctor: What brings you in?\nPatient: No. Thank you, Doctor. What next?", "the doctor said", "I miss Those days",
  "drug name: Lisinopril", "name: unknown", "group A streptococcus", "case 2, patient 4", "phase 3 trial, stage 2",
  "3 Times Daily", "walks 2 Blocks, 10 Minutes Drive", "5 Days Past", "MS Contin 15 mg", "e.g. aspirin",
  "heparin 25000 units IN 500 ml", "insulin pump 24 units", "account of the fall", "call 911",
  "contact dermatitis 2019", "policy on restraint", "pH 7.35/pCO2 45/pO2 80", "troponin 0.04->0.12",
  "Hb 12.3 10/12 cells", "dose 5/500 mg", "80-120 mg/dl", "50/50 insulin", "lumbar 4/5 on 4/5 strength",
  "+3 pitting edema, 2+ pulses", "1000-2000 ml", "120 150 2000", "encounter for 2 hours",
]  # fmt: skip


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_is_found_once_and_as_nothing_else(kind, text):
  assert counted(text) == {kind: 1}
  assert counted(f"History of asthma. {text}, no allergies.").get(kind) == 1


@pytest.mark.parametrize("text", NOTHING)
def test_values_doses_vital_signs_and_plain_words_are_none(text):
  assert counted(text) == {}
  assert counted(text.lower()) == {}


def test_a_text_may_begin_with_age_and_sex():
  assert counted("92 F. TSH 4") == {"age_over_89": 1}
  assert counted("89 F. TSH 4") == counted("Temp 99 F. TSH 4") == {}


def test_every_kind_has_an_example():
  assert set(FOUND) == set(KINDS)


def test_rows_and_totals_are_counted_and_text_is_not_told():
  texts = [("a", "Dr. Kumar saw her on 3/12/2019 and 3/14/2019"), ("b", "well"), ("c", "since March 2019")]
  told = []
  report = identifiers(texts, told.append)
  assert (report.rows, report.rows_with_any, sum(told)) == (3, 2, 3)
  assert [(found.kind, found.rows, found.total, found.ids) for found in report.found] == [
    ("date", 2, 3, ("a", "c")),
    ("name", 1, 1, ("a",)),
  ]
  said = json.dumps(dataclasses.asdict(report))
  assert "Kumar" not in said and "2019" not in said


def test_ids_are_bounded():
  report = identifiers((str(row), "Dr. Kumar") for row in range(50))
  assert report.found[0].rows == 50 and len(report.found[0].ids) == LISTED


@pytest.mark.parametrize("unit", ["a.", "1.", "1-", "12 ", "a:", "A", "1", "+1 ", "May ", "Dr. ", "fax "])
def test_long_texts_without_sense_do_not_hold_it_up(unit):
  start = time.perf_counter()
  counted(unit * 10_000)
  assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", ["triage", "text_classification", "clinical_reasoning", "laboratory_thresholds"])
def test_simulated_patients_have_none(name):
  task = tasks.get(name)
  rows = [(row.id, task.render(row.fields)) for part in task.load().values() for row in part[:100]]
  assert identifiers(rows).found == ()
