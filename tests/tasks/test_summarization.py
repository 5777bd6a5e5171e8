import json
import re
from collections import Counter

import contents
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.evaluation.text_metrics import TEXT_METRICS, score_text, stated, unsupported_numbers
from medjax.files import fingerprint
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.tasks import encounters, summarization
from medjax.tasks import encounters_facts as expressions

TASK = summarization.SUMMARIZATION
ROWS = TASK.load()
ALL = [row for rows in ROWS.values() for row in rows]
CHECKED = ROWS["test"] + ROWS["train"][:130]  # whose facts are looked for; expressions take long to compile
ROW = next(
  row
  for row in ROWS["train"]
  if re.match(r"\d+F: left knee pain", row.labels["summary"]) and "No known" in row.labels["summary"]
)


def score(row, text):
  return score_text(text, row.labels["summary"], row.fields["encounter"], summarization.facts(row.fields))


def mean(rows, text_of, metric="fact_f1"):
  return np.mean([score(row, text_of(row))[metric] for row in rows])


def test_sizes_and_longer_train_begins_with_train():
  assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 800, "validation": 150, "test": 200}
  assert summarization.rows("train", 1600)[:800] == ROWS["train"]


def test_splits_are_frozen():
  prints = {split: fingerprint([contents.of(row) for row in rows]) for split, rows in ROWS.items()}
  assert prints == {"train": "b6ef4dcbef326d91", "validation": "cdcb4799cc510d2b", "test": "dc13e6d9d5a5307e"}


def test_rows_survive_json():
  assert json.loads(json.dumps(ROW.fields)) == ROW.fields


def test_no_patient_id_or_text_in_two_splits():
  homes = {}
  for split, rows in ROWS.items():
    for row in rows:
      assert homes.setdefault(row.group, split) == split
  assert len({row.id for row in ALL}) == len(ALL)
  assert len({" ".join(re.findall(r"\w+", row.fields["encounter"].lower())) for row in ALL}) == len(ALL)


def test_a_prefix_is_a_fair_sample():
  sided = [bool(re.search("left|right", row.labels["summary"])) for row in summarization.rows("train", 1600)]
  allergic = ["No known" not in row.labels["summary"] for row in summarization.rows("train", 1600)]
  for marks in (sided, allergic):
    assert abs(np.mean(marks[:200]) - np.mean(marks)) < 0.08
    assert 0.4 < np.mean(marks) < 0.6


def test_every_reference_states_every_fact_and_invents_nothing():
  for row in CHECKED:
    TASK.check(row)
    values = score(row, row.labels["summary"])
    assert (values["fact_f1"], values["fact_recall"], values["invention_rate"]) == (1, 1, 0), row.id


def test_every_fact_can_be_read_in_the_encounter_and_nothing_forbidden_is_said_there():
  # What is denied, over, a relative's, normal, or a dose before stands in the text: the expressions see through it.
  for row in CHECKED:
    facts, text = summarization.facts(row.fields), row.fields["encounter"]
    assert set(stated(text, facts.must)) == set(facts.must), row.id
    assert not stated(text, facts.must_not), (row.id, stated(text, facts.must_not))
    assert not unsupported_numbers(row.labels["summary"], text), row.id


def test_every_wrong_summary_is_seen_by_its_own_kind_of_mistake():
  seen = Counter()
  forbidden = {kind: kind for kind in ("wrong_dose", "wrong_unit")}
  forbidden |= {"wrong_side": "other_side", "denied_as_present": "denied"}
  for row in CHECKED[::4]:
    facts = summarization.facts(row.fields)
    for kind, texts in row.fields["wrong"].items():
      for text in texts:
        values = score(row, text)
        assert values["fact_f1"] < 1, (row.id, kind)
        assert values["invention_rate"] == (kind != "omitted_fact"), (row.id, kind)
        if kind in forbidden:
          assert set(stated(text, facts.must_not)) == {forbidden[kind]}, (row.id, kind)
        if kind == "omitted_fact":
          assert values["fact_recall"] < 1, row.id
        seen[kind] += 1
  assert set(seen) == set(summarization.MISTAKES)


def test_each_kind_of_mistake_is_frequent_in_pairs():
  pairs = TASK.pairs(ROWS["train"], seed=0)
  how = Counter(pair.how for pair in pairs)
  assert set(how) == set(summarization.MISTAKES)
  assert min(how.values()) > 0.12 * len(pairs) and max(how.values()) < 0.22 * len(pairs), how
  assert pairs == TASK.pairs(ROWS["train"], seed=0) != TASK.pairs(ROWS["train"], seed=1)
  assert all(pair.chosen != pair.rejected for pair in pairs)


def test_pairs_differ_in_the_mistake_alone():
  for pair in TASK.pairs(ROWS["train"][:200], seed=2, per_row=6):
    chosen, rejected = (text.rstrip(".").split(". ") for text in (pair.chosen, pair.rejected))
    if pair.how == "wrong_side":
      swapped = pair.rejected.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
      assert swapped == pair.chosen != pair.rejected
    else:
      assert len(set(chosen) - set(rejected)) <= 1, (pair.chosen, pair.rejected)


def test_rows_of_a_user():
  labels = {"summary": "71F: cough. Penicillin allergy. X-ray pending."}
  wrong = TASK.rejections(labels, {"encounter": "..."}, np.random.default_rng(0))
  assert [how for _, how in wrong] == ["omitted_fact"]
  kept = wrong[0][0]["summary"].rstrip(".").split(". ")
  assert len(kept) == 2 and set(kept) < set(labels["summary"].rstrip(".").split(". "))
  assert TASK.rejections({"summary": "Cough."}, {"encounter": "..."}, np.random.default_rng(0)) == []
  with pytest.raises(UserError, match="names no facts; give `must`"):
    summarization.facts({"encounter": "..."})


def test_an_empty_text_is_unparseable():
  assert TASK.generation.read(" 71F: cough.\n", {}) == {"summary": "71F: cough."}
  assert TASK.generation.read(" \n ", {}) == {}


def test_copying_the_beginning_is_no_summary():
  def first_sentences(row):
    return " ".join(re.split(r"(?<=[.?!])\s+", row.fields["encounter"])[:3])

  def as_long_as_the_reference(row):
    return " ".join(row.fields["encounter"].split()[: len(row.labels["summary"].split())])

  assert mean(ROWS["test"], first_sentences) < 0.5
  assert mean(ROWS["test"], as_long_as_the_reference) < 0.6
  assert mean(ROWS["test"], as_long_as_the_reference, "rougeL") < 0.35


def test_another_row_s_summary_states_little_and_invents():
  others = ROWS["test"][1:] + ROWS["test"][:1]
  pairs = list(zip(ROWS["test"], others, strict=True))
  values = [score(row, other.labels["summary"]) for row, other in pairs]
  assert np.mean([value["fact_recall"] for value in values]) < 0.3
  assert np.mean([value["invention_rate"] for value in values]) > 0.95


def test_wordings_that_a_model_may_choose():
  age, count, unit = re.match(r"(\d+)F: left knee pain for (\d+) (\w+)", ROW.labels["summary"]).groups()
  rest = ROW.labels["summary"].split(". ", 1)[1]
  opening = f"{age}-year-old woman with a {count}-{unit[:-1]} history of pain in her left knee"
  for text in (
    f"{opening}. {rest.replace('No known allergies.', 'She denies any allergies.')}",
    f"{opening}, no fever, fall or locking, gout and Lyme disease resolved. {rest}",
    f"{opening}. Right knee was fine. Sister has a penicillin allergy. {rest}",
  ):
    assert (score(ROW, text)["fact_f1"], score(ROW, text)["invention_rate"]) == (1, 0), text
  for text in (
    f"{opening}, R knee swollen. {rest}",
    f"{opening}. Allergic to penicillin. {rest}",
    f"{opening}. She had 77 visits. {rest}",
  ):
    assert (score(ROW, text)["fact_recall"], score(ROW, text)["invention_rate"]) == (1, 1), text
  assert score(ROW, f"{opening.replace('left', 'right')}. {rest}")["fact_recall"] == 7 / 8


@pytest.mark.parametrize(
  ("text", "is_stated"),
  [
    ("Fever since Monday", True),
    ("Febrile", True),
    ("no rash. Fever.", True),
    ("No rash but fever", True),
    ("temp 37.2; fever at night", True),
    ("a 74-year-old man with fever", True),
    ("a 3-week history of fever", True),
    ("history of fever", False),
    ("old fever chart", False),
    ("No fever", False),
    ("no rash, cough or fever", False),
    ("Denies fever", False),
    ("Any fever? No", False),
    ("Fever: denied", False),
    ("Fever in 2016, gone", False),
    ("Her sister has a fever", False),
    ("feverfew tea", False),
  ],
)
def test_present_sees_denial_time_and_person(text, is_stated):
  assert bool(stated(text, {"fever": (expressions.present("fever|febrile"),)})) == is_stated


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("Metoprolol 2.5 mg once daily", {"dose"}),
    ("metoprolol, 2.5mg", {"dose"}),
    ("metoprolol raised from 1.25 mg to 2.5 mg", {"dose"}),
    ("metoprolol 25 mg", {"wrong_dose"}),
    ("metoprolol 12.5 mg", {"wrong_dose"}),
    ("metoprolol 1.25 mg", {"wrong_dose"}),
    ("metoprolol 2.5 mcg", {"wrong_unit"}),
    ("metoprolol 2.5 g", {"wrong_unit"}),
    ("metoprolol twice daily", set()),
    ("atorvastatin 20 mg", set()),
  ],
)
def test_doses_need_drug_number_and_unit(text, found):
  patterns = {"dose": expressions.dosed("metoprolol", "2.5", "mg"), **expressions.misdosed("metoprolol", "2.5", "mg")}
  assert set(stated(text, patterns)) == found


def test_an_allergy_is_not_its_denial_nor_the_next_drug():
  own = {"own": expressions.allergic("penicillin"), "none": expressions.NO_ALLERGY}
  for text, found in (
    ("Allergic to penicillin", {"own"}),
    ("Allergies: penicillin (rash)", {"own"}),
    ("Allergies?\nPt: Penicillin", {"own"}),
    ("Egg allergy. Penicillin 500 mg. No fever", set()),
    ("No penicillin allergy", set()),
    ("NKDA", {"none"}),
    ("Allergies: none. Penicillin 500 mg", {"none"}),
    ("not allergic to penicillin", set()),
  ):
    assert set(stated(text, own)) == found, text


def test_no_drug_is_given_against_an_allergy():
  for item in encounters.encounters("train"):
    allergen = item.person.allergen
    given = item.summary.split(". ")[2].split()[0].lower()
    assert allergen is None or given not in encounters.CONFLICTS.get(allergen.name, ()), item.summary


def test_lengths_in_the_embedded_model_s_tokens():
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer

  def count(text):
    return len(tokenizer(text)["input_ids"])

  longest = 0
  for row, pair in zip(ROWS["train"], TASK.pairs(ROWS["train"], seed=0), strict=True):
    prompt = len(
      tokenizer.apply_chat_template(list(pair.prompt), tokenize=True, add_generation_prompt=True)["input_ids"]
    )
    assert prompt <= 170 and 30 <= count(pair.chosen) <= 46 and count(pair.rejected) <= 52, row.id
    longest = max(longest, prompt + count(pair.chosen) + count(pair.rejected) + 2)
  assert longest <= 256  # a pair fits the default row
  assert max(count(row.labels["summary"]) for row in ALL) + 1 < TASK.generation.max_new_tokens


def test_primary_metric_is_known():
  assert TASK.targets["summary"].primary in TEXT_METRICS
