import re
from collections import Counter

import contents
import numpy as np
import pytest

from medjax.data.chat import Encoder
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.files import fingerprint
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.tasks import baselines, vignettes
from medjax.tasks.clinical_reasoning import CLINICAL_REASONING as TASK
from medjax.tasks.clinical_reasoning import WRONG_OPTION_FIRST, options, read
from medjax.tasks.vignettes_diagnoses import CLUSTERS

ROWS = TASK.load()
ALL = [row for rows in ROWS.values() for row in rows]
CLUSTER = {diagnosis.name: cluster for cluster in CLUSTERS for diagnosis in cluster.diagnoses}
SIGNS = [(diagnosis.name, sign) for cluster in CLUSTERS for diagnosis in cluster.diagnoses for sign in diagnosis.signs]
RULED_OUT = re.compile(
  r"\b(no|not|neither|absent|ruled out|in 20\d\d|years ago|brother|sister|mother|father|cousin)\b", re.IGNORECASE
)
FIELDS = {"vignette": "A limp.", "options": "gout; septic arthritis; COPD exacerbation; osteoarthritis"}


def pattern(template):
  """A finding's template as a regular expression."""
  parts = re.split(r"(\[[^\]]*\]|\{[^}]*\})", template)
  kinds = {"[": lambda part: f"(?:{part[1:-1]})", "{": lambda part: r"[\d.]*\d"}
  return "".join(kinds.get(part[:1], re.escape)(part) for part in parts)


PATTERNS = [
  (name, sign.text, re.compile(rf"\b{pattern(text)}\b", re.IGNORECASE), text != sign.text)
  for name, sign in SIGNS
  for text in (sign.text, sign.normal)
  if text
]
BOUNDS = {"temperature": 38, "ESR": 50, "BNP": 400, "lipase": 150, "D-dimer": 500, "morning stiffness": 60}


def value_is_abnormal(text):
  value = float(re.search(r"[\d.]*\d", text)[0])
  if text.lower().startswith("haemoglobin"):
    return value < 8
  for name, bound in BOUNDS.items():
    if text.lower().startswith(name.lower()):
      return value > bound
  return value > 10  # pack-years, and mmHg between the arms


def findings_of(row):
  """What the vignette's words say, clause by clause: (diagnosis, template) -> whether it is the patient's, now."""
  mine = [item for item in PATTERNS if CLUSTER[item[0]] is CLUSTER[row.labels["diagnosis"]]]
  found = {}
  for clause in re.split(r"\. | but ", row.fields["vignette"]):
    for name, template, expression, _ in mine:
      if (match := expression.search(clause)) is not None:
        live = not RULED_OUT.search(clause)
        if any(template == sign.text and sign.normal for _, sign in SIGNS):
          live = live and value_is_abnormal(match[0])
        found[name, template] = live
  return found


def parts_of(reasons):
  return re.fullmatch(r"(.+) are decisive\. (.+) is unlikely: (.+)\.", reasons).groups()


def cited(text):
  """Templates of the findings that a sentence cites, with the diagnoses they belong to."""
  return {(name, template) for name, template, expression, _ in PATTERNS if expression.search(text)}


def test_findings_of_a_cluster_belong_to_one_diagnosis():
  for cluster in CLUSTERS:
    names = [diagnosis.name for diagnosis in cluster.diagnoses]
    assert len(names) >= vignettes.OPTIONS
    templates = [sign.text for diagnosis in cluster.diagnoses for sign in diagnosis.signs]
    assert len(set(templates)) == len(templates)
    for diagnosis in cluster.diagnoses:
      assert set(diagnosis.near) <= set(names) - {diagnosis.name} and diagnosis.near
      assert len(diagnosis.signs) == 5 and sum(sign.strong for sign in diagnosis.signs) >= 2
      assert sum("{" in sign.text or "20" in sign.text for sign in diagnosis.signs) <= 1  # one is always deniable
  assert len(set(TASK.targets["diagnosis"].labels)) == 24


def test_truth_follows_from_the_words_of_the_vignette():
  for row in ALL:
    found = findings_of(row)
    live = Counter(name for (name, _), is_live in found.items() if is_live)
    assert live == {row.labels["diagnosis"]: 2}, row.fields["vignette"]
    stated = {(item["diagnosis"], item["sign"]): item["status"] == "present" for item in row.fields["findings"]}
    assert found == stated, row.fields["vignette"]
    strong = {sign.text for name, sign in SIGNS if name == row.labels["diagnosis"] and sign.strong}
    assert any(is_live and template in strong for (_, template), is_live in found.items())


def test_what_is_ruled_out_is_told_in_every_way():
  counts = Counter(item["status"] for row in ROWS["train"] for item in row.fields["findings"])
  assert counts["present"] == 2000
  assert min(counts[status] for status in ("absent", "normal", "past", "relative")) > 100


def test_the_same_finding_is_present_in_some_rows_and_ruled_out_in_others():
  seen = {}
  for row in ROWS["train"]:
    for item in row.fields["findings"]:
      seen.setdefault((item["diagnosis"], item["sign"]), Counter())[item["status"] == "present"] += 1
  assert set(seen) == {(name, sign.text) for name, sign in SIGNS}
  assert all(min(counts[True], counts[False]) >= 2 for counts in seen.values())


def test_options_hold_the_truth_once_and_its_neighbours():
  place = Counter()
  for row in ALL:
    names = options(row.fields)
    assert len(set(names)) == len(names) == vignettes.OPTIONS
    assert {id(CLUSTER[name]) for name in names} == {id(CLUSTER[row.labels["diagnosis"]])}
    place[names.index(row.labels["diagnosis"])] += 1
    assert row.fields["findings"][2]["diagnosis"] in names
  assert min(place.values()) > 0.22 * len(ALL)


def test_reasons_cite_what_the_vignette_says_and_nothing_else():
  for row in ALL:
    found, truth = findings_of(row), row.labels["diagnosis"]
    decisive, unlikely, against = parts_of(row.labels["reasons"])
    mine = {key for key in cited(decisive) if CLUSTER[key[0]] is CLUSTER[truth]}
    assert mine == {key for key, live in found.items() if live}
    name = next(name for name in options(row.fields) if name.lower() == unlikely.lower())
    keys = {key for key in cited(against) if key[0] == name}
    assert name != truth and len(keys) == 1 and all(found[key] is False for key in keys)
    text = re.sub("^no | only in the past$| only in a relative$", "", against)
    assert text.lower() in row.fields["vignette"].lower()
    said = next(item for item in row.fields["findings"] if item["text"] == text)
    assert (
      against
      == {
        "absent": f"no {text}",
        "normal": text,
        "past": f"{text} only in the past",
        "relative": f"{text} only in a relative",
      }[said["status"]]
    )


def test_sizes_and_any_prefix_is_a_fair_sample():
  assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 1000, "validation": 200, "test": 300}
  for rows in ROWS.values():
    for count in (24, 100, len(rows)):
      shares = Counter(row.labels["diagnosis"] for row in rows[:count])
      assert len(shares) == 24 and max(shares.values()) - min(shares.values()) <= 1


def test_splits_are_frozen():
  prints = {split: fingerprint([contents.of(row) for row in rows]) for split, rows in ROWS.items()}
  assert prints == {"train": "85e221795ee3a4f5", "validation": "cbad67b5542e4467", "test": "6bb337fc12323851"}


def test_no_patient_id_or_text_in_two_splits():
  for kind in (lambda row: row.group, lambda row: row.id, lambda row: row.fields["vignette"]):
    assert len({kind(row) for row in ALL}) == len(ALL) == 1500


def test_prompt_shows_vignette_and_options_and_nothing_of_the_truth():
  for row in ROWS["test"]:
    system, user = TASK.prompt(row)
    assert system["content"] == TASK.instruction
    assert user["content"] == f"{row.fields['vignette']}\nOptions: {row.fields['options']}"
    assert not any(name.lower() in row.fields["vignette"].lower() for name in options(row.fields))
    TASK.check(row)


def test_completion_is_read_back():
  for row in ALL:
    completion = TASK.completion(row.labels)
    assert read(completion, row.fields) == {"diagnosis": row.labels["diagnosis"]}
    assert completion == f"{row.labels['reasons']}\nAnswer: {row.labels['diagnosis']}"


@pytest.mark.parametrize(
  ("text", "diagnosis"),
  [
    ("Pus in the joint fluid.\nAnswer: septic arthritis", "septic arthritis"),
    ("answer :  Septic  ARTHRITIS. ", "septic arthritis"),
    ("ANSWER:\ncopd exacerbation.", "COPD exacerbation"),
    ("Answer: gout\nAnswer: osteoarthritis\nIt is a common disease.", "osteoarthritis"),
    ("Answer: gout\n\nUser: thanks", "gout"),
    ("Septic arthritis is unlikely. Answer: gout", "gout"),
    ("", None),
    ("gout", None),
    ("The answer is gout.", None),
    ("Answer:", None),
    ("Answer: gout\nAnswer:", None),
    ("Answer: gout or septic arthritis", None),
    ("Answer: gout; osteoarthritis", None),
    ("Answer: acute gout", None),
    ("Answer: not gout", None),
    ("Answer: arthritis", None),
    ("Answer: rheumatoid arthritis", None),  # a diagnosis of the task, but no option of the row
    ("Answer: gout; septic arthritis; COPD exacerbation; osteoarthritis", None),
  ],
)
def test_only_one_option_in_full_counts_as_an_answer(text, diagnosis):
  assert read(text, FIELDS) == ({"diagnosis": diagnosis} if diagnosis else {})


def test_wrong_option_misreads_findings_and_invented_finding_is_not_there():
  first = Counter()
  for index, row in enumerate(ROWS["train"]):
    found, truth = findings_of(row), row.labels["diagnosis"]
    wrong = TASK.rejections(row.labels, row.fields, np.random.default_rng(index))
    first[wrong[0][1]] += 1
    by_kind = {how: labels for labels, how in wrong}
    assert set(by_kind) == {"wrong_option", "right_option_invented_finding"}

    labels = by_kind["wrong_option"]
    assert read(TASK.completion(labels), row.fields) == {"diagnosis": labels["diagnosis"]} != {"diagnosis": truth}
    decisive, unlikely, against = parts_of(labels["reasons"])
    keys = {key for key in cited(decisive) if key[0] == labels["diagnosis"]}
    assert len(keys) == 2 and not any(found.get(key) for key in keys) and any(key in found for key in keys)
    assert unlikely.lower() == truth.lower()
    assert any(found.get(key) for key in cited(against.removeprefix("no ")))  # denies what is there

    labels = by_kind["right_option_invented_finding"]
    assert labels["diagnosis"] == truth and labels["reasons"] != row.labels["reasons"]
    keys = {key for key in cited(parts_of(labels["reasons"])[0]) if key[0] == truth}
    assert sorted(key in found for key in keys) == [False, True]
  assert abs(first["wrong_option"] / 1000 - WRONG_OPTION_FIRST) < 0.04


def test_pairs_are_the_same_for_the_same_seed():
  rows = ROWS["train"][:20]
  assert TASK.pairs(rows, seed=3) == TASK.pairs(rows, seed=3) != TASK.pairs(rows, seed=4)
  assert len(TASK.pairs(rows, seed=3, per_row=2)) == 40
  assert all(pair.chosen != pair.rejected for pair in TASK.pairs(rows, seed=3, per_row=2))


def test_options_may_be_a_list():
  listed = {**FIELDS, "options": FIELDS["options"].split("; ")}
  assert TASK.render(listed) == TASK.render(FIELDS) and read("Answer: gout", listed) == {"diagnosis": "gout"}


def test_rows_of_a_user_need_no_findings():
  labels = {"diagnosis": "gout", "reasons": "Needle crystals."}
  ((wrong, how),) = TASK.rejections(labels, FIELDS, np.random.default_rng(0))
  assert how == "wrong_option" and wrong["reasons"] == "Needle crystals."
  assert wrong["diagnosis"] in options(FIELDS)[1:]
  with pytest.raises(UserError, match="options is 'gout'; list at least two"):
    TASK.render({**FIELDS, "options": "gout"})
  with pytest.raises(UserError, match="row 1: diagnosis is not one of myocardial infarction"):
    TASK.check(Row("1", "1", FIELDS, {"diagnosis": "Gicht", "reasons": "x"}))


def test_prompts_and_answers_are_short():
  encoder = Encoder(load_config_and_tokenizer("embedded:smollm2-135m").tokenizer)
  segments = encoder.segments([TASK.example(row) for row in ALL])
  prompts, answers = (
    [len(ids) for ids in kind] for kind in zip(*((s.prompt, s.completions[0]) for s in segments), strict=True)
  )
  assert np.mean(prompts) < 130 and max(prompts) <= 152
  assert np.mean(answers) < 42 and max(answers) <= 52 < TASK.generation.max_new_tokens


def test_words_alone_do_not_solve_it():
  train, test = ROWS["train"][:250], ROWS["test"]
  words = baselines.scores(baselines.bag_of_words(train, test, TASK), test)["diagnosis"][0]
  assert 1 / vignettes.OPTIONS + 0.1 < words < 0.65
