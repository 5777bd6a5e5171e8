import math
import re
from collections import Counter

import contents
import hash_seeds
import numpy as np
import pytest

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.files import fingerprint
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.tasks import baselines, get, notes, notes_text, text_classification

TASK = text_classification.TEXT_CLASSIFICATION
ROWS = TASK.load()
SPLITS = ("train", "validation", "test")
ALL = [note for split in SPLITS for note in notes.notes(split)]

URINARY_WORDS = re.compile(r"dysuria|burning|painful urination|urgency|urges|frequency|voiding|suprapubic|CVA|flank")
RELATIVES = re.compile(r"\b(sister|husband|wife|roommate|cousin|mother|daughter)\b")
DENIED = re.compile(r"^(denies|no|without|negative for) | denied$")


def read_symptoms(statement):
  """Whether the words of one statement say that the patient has an unexplained urinary symptom now."""
  if RELATIVES.search(statement) or re.search(r"weeks ago|months ago|last (month|winter|year)|in 20\d\d", statement):
    return False
  if DENIED.search(statement) or re.search("due to|explain|from |cause is", statement):
    return False
  return bool(URINARY_WORDS.search(statement))


def read_urine(statement):
  """Whether the words of one statement say that this visit's urine is positive."""
  if not re.search(r"today|this visit|^current", statement):
    return False
  if "WBC" in statement:
    return "nitrite positive" in statement and int(re.search(r"(\d+) WBC", statement)[1]) >= 10
  result = statement.split(": ", 1)[1]
  if re.search("Candida|mixed flora|no growth|sterile|negative|pending", result):
    return False
  count = re.search(r"10\^(\d)|([\d,]+)(k?)(?: CFU/ml)", result)
  value = 10 ** int(count[1]) if count[1] else int(count[2].replace(",", "")) * (1000 if count[3] else 1)
  return value >= 100_000


def test_labels_follow_from_the_words_by_the_rule():
  seen = Counter()
  for split in SPLITS:
    for row, note in zip(ROWS[split], notes.notes(split), strict=True):
      symptom = any(read_symptoms(text) for text in {item.text for item in note.symptoms})
      urine = any(read_urine(item.text) for item in note.urines)
      assert row.labels["uti"] == ("yes" if symptom and urine else "no"), note.text
      seen[symptom, urine] += 1
  assert min(seen[key] for key in ((True, True), (True, False), (False, True), (False, False))) > 100


def test_ground_truth_has_one_present_urine_and_every_status():
  for note in ALL:
    assert [urine.status for urine in note.urines].count("now") == 1
    assert any(item.status in ("live", "explained") for item in note.symptoms)
  urinary = Counter(item.status for note in ALL for item in note.symptoms if item.name in notes_text.URINARY)
  assert min(urinary[status] for status in ("live", "explained", "denied", "past", "family")) > 50


@pytest.mark.parametrize(
  ("truth", "positive"),
  [
    ({"count": 100_000, "species": 1, "bacterium": True}, True),
    ({"count": 99_999, "species": 1, "bacterium": True}, False),
    ({"count": 100_000, "species": 2, "bacterium": True}, True),
    ({"count": 100_000, "species": 3, "bacterium": True}, False),
    ({"count": 1_000_000, "species": 1, "bacterium": False}, False),
    ({}, False),
  ],
)
def test_culture_threshold_is_inclusive(truth, positive):
  assert notes.significant(notes.Urine("now", "culture", "", **truth)) == positive


@pytest.mark.parametrize(
  ("nitrite", "leukocytes", "positive"), [(True, 10, True), (True, 9, False), (False, 90, False)]
)
def test_urinalysis_needs_both(nitrite, leukocytes, positive):
  assert notes.significant(notes.Urine("now", "urinalysis", "", nitrite=nitrite, leukocytes=leukocytes)) == positive


def test_statements_stand_in_the_text_and_padding_gives_nothing_away():
  loose = re.compile(r"\W+")
  plain = [note for note in ALL if not re.search(r"w/|wks|mths|&|\brep\.|\bpos\b|\bneg\b|\d d\b", note.text)]
  assert len(plain) > 700
  for note in plain:
    flat = loose.sub(" ", note.text.lower())
    for item in (*note.symptoms, *note.urines):
      assert loose.sub(" ", item.text.lower()).strip() in flat
  padding = [*notes_text.OPINIONS, *notes_text.HISTORIES, *notes_text.BACKGROUNDS, *notes_text.VITALS]
  causes = [cause for options in (*notes_text.CAUSES.values(), tuple(notes_text.OTHER.values())) for cause in options]
  for words in (*padding, *causes):
    assert not URINARY_WORDS.search(words) and not re.search("CFU|WBC|nitrite|culture", words), words


@pytest.mark.parametrize(
  "phrase",
  ["dysuria", "urgency", "frequency", "suprapubic", "flank pain", "e. coli", "100,000", "nitrite positive", "denies"]
  + ["resolved", "today", "ago", "last month", "sterile", "kidney stone", "possible uti per triage", "recurrent utis"],
)
def test_same_phrase_stands_under_both_labels(phrase):
  both = Counter(row.labels["uti"] for split in SPLITS for row in ROWS[split] if phrase in row.fields["note"].lower())
  assert min(both["yes"], both["no"]) >= 8
  assert abs(math.log(both["yes"] / both["no"])) < math.log(3.5), both


def test_sizes_balance_and_fair_prefixes():
  assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 1000, "validation": 200, "test": 400}
  for split in SPLITS:
    for count in (100, 200, len(ROWS[split])):
      share = np.mean([row.labels["uti"] == "yes" for row in ROWS[split][:count]])
      assert 0.4 < share < 0.56, (split, count)
    for row in ROWS[split]:
      TASK.check(row)


def test_splits_are_frozen():
  prints = {split: fingerprint([contents.of(row) for row in rows]) for split, rows in ROWS.items()}
  assert prints == {"train": "08152d98e0c80106", "validation": "170d717b1208bd8f", "test": "69b093e2dd7e7c26"}


def test_same_notes_in_another_process_with_another_hash_seed():
  code = (
    "from medjax.tasks import notes; import hashlib;"
    "print(hashlib.sha256('|'.join(n.text for n in notes.notes('test')).encode()).hexdigest())"
  )
  assert len(hash_seeds.values(code)) == 1


def test_no_patient_in_two_splits_and_no_text_twice():
  groups = {split: {row.group for row in ROWS[split]} for split in SPLITS}
  assert not (groups["train"] & groups["test"] or groups["train"] & groups["validation"])
  assert not groups["validation"] & groups["test"]
  assert len({row.id for split in SPLITS for row in ROWS[split]}) == len(ALL) == 1600
  assert len({" ".join(re.findall(r"\w+", note.text.lower())) for note in ALL}) == len(ALL)


def test_notes_of_a_patient_agree():
  people = {}
  for note in ALL:
    assert people.setdefault(note.patient.index, note.patient) == note.patient
    assert re.search(rf"\b{note.patient.age}(\b|[fm]\b)", note.text.splitlines()[0].lower())
    if note.patient.sex == "M":
      assert not re.search(r"ovarian|vaginal|\bhusband\b", note.text.lower())


def test_notes_are_short_and_of_one_length_under_both_labels():
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  lengths = {"yes": [], "no": []}
  for split in SPLITS:
    for row in ROWS[split]:
      lengths[row.labels["uti"]].append(len(tokenizer(row.fields["note"])["input_ids"]))
  both = np.array(lengths["yes"] + lengths["no"])
  assert both.min() >= 45 and both.max() <= 95
  assert abs(np.mean(lengths["yes"]) - np.mean(lengths["no"])) < 3
  assert len(tokenizer(TASK.instruction)["input_ids"]) <= 60


def test_prompt_answer_and_registration():
  assert get("text_classification") is TASK
  row = ROWS["test"][0]
  system, user = TASK.prompt(row)
  assert (system["content"], user["content"]) == (TASK.instruction, row.fields["note"])
  assert TASK.answers() == [{"uti": "yes"}, {"uti": "no"}]
  assert TASK.completion(row.labels) == row.labels["uti"]
  wrong = Row("note-1", "patient-1", {"note": "x"}, {"uti": "possible"})
  with pytest.raises(UserError, match="row note-1: uti is not one of yes, no"):
    TASK.check(wrong)


def test_pairs_reject_the_other_label():
  pairs = TASK.pairs(ROWS["train"][:50], seed=0)
  assert {(pair.chosen, pair.rejected) for pair in pairs} == {("yes", "no"), ("no", "yes")}
  assert {pair.how for pair in pairs} == {"wrong_label"} and len(pairs) == 50


def test_words_alone_do_not_solve_it():
  train, test = ROWS["train"], ROWS["test"]
  commonest = baselines.scores(baselines.majority(train[:250], test, TASK), test)["uti"][1]
  few = baselines.scores(baselines.bag_of_words(train[:250], test, TASK), test)["uti"][1]
  many = baselines.scores(baselines.bag_of_words(train, test, TASK), test)["uti"][1]
  assert commonest < 0.36
  assert 0.58 < few < 0.8
  assert few < many < 0.85
