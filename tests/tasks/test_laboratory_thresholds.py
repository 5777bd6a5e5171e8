import re
from collections import Counter

import contents
import hash_seeds
import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.files import fingerprint
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.tasks import baselines, get, laboratory_thresholds, panels

TASK = laboratory_thresholds.LABORATORY_THRESHOLDS
ROWS = TASK.load()
SPLITS = ("train", "validation", "test")
ALL = [row for split in SPLITS for row in ROWS[split]]


def read(text):
  """Both labels, from the words and numbers of the panel alone."""
  opening, rest = re.split(r"[.\n]", text, maxsplit=1)
  limit = 32 if re.search(r"woman|F", opening) else 40
  sodium, enzymes = None, []
  for entry in re.split(r", |; |\n| / ", rest.strip()):
    name, value, after = re.match(r"(.+?)(?:: | = | \| | )(\d+(?:\.\d+)?)(.*)", entry).groups()
    if name in ("Na", "Na+", "sodium", "serum Na"):
      assert sodium is None
      sodium = float(value)
    elif name in ("ALT", "ALAT", "GPT", "SGPT", "AST", "ASAT", "GOT", "SGOT"):
      enzymes.append(float(value) * (60 if "ukat" in after else 1))
  highest = max(enzymes)
  return {
    "sodium": "low" if sodium < 135 else "high" if sodium > 145 else "normal",
    "transaminases": "normal" if highest <= limit else "raised" if highest <= 3 * limit else "markedly raised",
  }


def test_labels_follow_from_the_text_by_the_rule():
  for row in ALL:
    assert read(row.fields["panel"]) == row.labels, row.fields["panel"]


@pytest.mark.parametrize(
  ("sodium", "label"), [(134, "low"), (134.9, "low"), (135, "normal"), (145, "normal"), (145.1, "high"), (146, "high")]
)
def test_sodium_thresholds_are_normal(sodium, label):
  assert panels.sodium_class(sodium) == label


@pytest.mark.parametrize(
  ("sex", "alt", "ast", "label"),
  [
    ("M", 40, 12, "normal"),
    ("M", 41, None, "raised"),
    ("F", 32, 32, "normal"),
    ("F", 12, 33, "raised"),
    ("F", 40, 20, "raised"),
    ("F", 96, 20, "raised"),
    ("F", 97, 20, "markedly raised"),
    ("M", 97, 20, "raised"),
    ("M", None, 120, "raised"),
    ("M", 30, 121, "markedly raised"),
  ],
)
def test_transaminase_thresholds_belong_to_the_lower_class(sex, alt, ast, label):
  assert panels.transaminases_class(sex, alt, ast) == label


def test_boundaries_and_the_gap_between_the_sexes_occur():
  sodium = Counter(row.fields["sodium"] for row in ALL)
  assert min(sodium[value] for value in (134, 135, 145, 146)) >= 20
  highest = Counter(
    (row.fields["sex"], max(value for value in (row.fields["alt"], row.fields["ast"]) if value)) for row in ALL
  )
  for sex, limit in (("M", 40), ("F", 32)):
    assert min(highest[sex, value] for value in (limit, limit + 1, 3 * limit, 3 * limit + 1)) >= 10
  for low, high, classes in ((33, 40, ("normal", "raised")), (97, 120, ("raised", "markedly raised"))):
    for sex, label in zip("MF", classes, strict=True):
      within = [
        row.labels["transaminases"]
        for row in ALL
        if row.fields["sex"] == sex and low <= max(row.fields["alt"] or 0, row.fields["ast"] or 0) <= high
      ]
      assert set(within) == {label} and len(within) >= 50


def test_formats_units_and_order_change():
  text = [row.fields["panel"] for row in ALL]
  for wanted in (
    "mmol/l",
    "mEq/l",
    "IU/l",
    "ukat/l",
    "SGPT",
    "ASAT",
    "serum Na",
    " | ",
    " = ",
    " / ",
    "urine Na",
    "(was ",
  ):
    assert sum(wanted in panel for panel in text) >= 50, wanted
  sodium_first = np.mean([re.search(r"\bNa\b|sodium", panel).start() < len(panel) / 3 for panel in text])
  assert 0.2 < sodium_first < 0.8
  assert sum(row.fields["alt"] is None for row in ALL) >= 50 <= sum(row.fields["ast"] is None for row in ALL)


def test_sizes_balance_and_fair_prefixes():
  assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 1000, "validation": 200, "test": 400}
  for name, target in TASK.targets.items():
    for split in SPLITS:
      for count in (100, len(ROWS[split])):
        shares = Counter(row.labels[name] for row in ROWS[split][:count])
        assert all(0.22 < shares[label] / count < 0.46 for label in target.labels), (split, count, shares)
  both = Counter((row.labels["sodium"], row.labels["transaminases"]) for row in ALL)
  assert len(both) == 9 and min(both.values()) > 120


def test_splits_are_frozen():
  prints = {split: fingerprint([contents.of(row) for row in rows]) for split, rows in ROWS.items()}
  assert prints == {"train": "5298d927e9ee9832", "validation": "1be244919eedef40", "test": "d744e05db0551527"}


def test_same_panels_in_another_process_with_another_hash_seed():
  code = (
    "from medjax.tasks import panels; import hashlib;"
    "print(hashlib.sha256('|'.join(p.text for p in panels.panels('test')).encode()).hexdigest())"
  )
  assert len(hash_seeds.values(code)) == 1


def test_no_patient_in_two_splits_and_no_text_twice():
  groups = {split: {row.group for row in ROWS[split]} for split in SPLITS}
  assert not (groups["train"] & groups["test"] or groups["train"] & groups["validation"])
  assert not groups["validation"] & groups["test"]
  assert len({row.id for row in ALL}) == len({row.fields["panel"] for row in ALL}) == len(ALL) == 1600


def test_prompts_are_short():
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  lengths = [len(tokenizer(row.fields["panel"])["input_ids"]) for row in ALL]
  assert 20 <= min(lengths) and max(lengths) <= 100
  assert len(tokenizer(TASK.instruction)["input_ids"]) <= 75


def test_prompt_answer_and_registration():
  assert get("laboratory_thresholds") is TASK
  row = ROWS["test"][0]
  system, user = TASK.prompt(row)
  assert (system["content"], user["content"]) == (TASK.instruction, row.fields["panel"])
  assert TASK.completion({"sodium": "low", "transaminases": "markedly raised"}) == "low, markedly raised"
  assert len({TASK.completion(labels) for labels in TASK.answers()}) == 9
  wrong = Row("panel-1", "patient-1", {"panel": "x"}, {"sodium": "low", "transaminases": "high"})
  with pytest.raises(UserError, match="row panel-1: transaminases is not one of normal, raised"):
    TASK.check(wrong)


def test_rejections_are_neighbouring_classes_in_one_target():
  first = Counter()
  for index, row in enumerate(ROWS["train"]):
    wrong = TASK.rejections(row.labels, row.fields, np.random.default_rng(index))
    assert {how for _, how in wrong} == {"neighbouring_sodium", "neighbouring_transaminases"}
    for labels, how in wrong:
      name = how.removeprefix("neighbouring_")
      order = TASK.targets[name].labels
      assert [key for key in labels if labels[key] != row.labels[key]] == [name]
      assert abs(order.index(labels[name]) - order.index(row.labels[name])) == 1
    first[wrong[0][1]] += 1
  assert 0.4 < first["neighbouring_sodium"] / 1000 < 0.6


def test_middle_class_is_mistaken_for_the_nearer_neighbour():
  labels = {"sodium": "normal", "transaminases": "raised"}
  for sodium, alt, expected in ((136.0, 45, ("low", "normal")), (144.0, 118, ("high", "markedly raised"))):
    fields = {"sodium": sodium, "alt": alt, "ast": None, "sex": "M"}
    wrong = {how: other for other, how in TASK.rejections(labels, fields, np.random.default_rng(0))}
    assert wrong["neighbouring_sodium"]["sodium"] == expected[0]
    assert wrong["neighbouring_transaminases"]["transaminases"] == expected[1]


def test_rows_of_a_user_need_no_values():
  labels = {"sodium": "normal", "transaminases": "raised"}
  seen = set()
  for seed in range(20):
    for other, how in TASK.rejections(labels, {"panel": "Na 140, ALT 60"}, np.random.default_rng(seed)):
      seen.add(other[how.removeprefix("neighbouring_")])
  assert seen == {"low", "high", "normal", "markedly raised"}


def test_values_decide_and_words_do_not():
  def values(rows):
    fields = [row.fields for row in rows]
    return [[f["sodium"], max(f["alt"] or 0, f["ast"] or 0) / panels.LIMITS[f["sex"]]] for f in fields]

  train, test = ROWS["train"][:250], ROWS["test"]
  words = baselines.scores(baselines.bag_of_words(train, test, TASK), test)
  commonest = baselines.scores(baselines.majority(train, test, TASK), test)
  for name in TASK.targets:
    tree = DecisionTreeClassifier(random_state=0).fit(values(train), [row.labels[name] for row in train])
    assert np.mean(tree.predict(values(test)) == [row.labels[name] for row in test]) > 0.99
    assert commonest[name][1] + 0.2 < words[name][1] < 0.8
