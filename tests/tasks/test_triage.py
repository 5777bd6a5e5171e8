import re
from collections import Counter

import contents
import numpy as np
import pytest

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.files import fingerprint
from medjax.tasks import baselines, get, registered, simulator, triage

TASK = get("triage")
ROWS = TASK.load()


def test_task_is_registered():
  assert {task.name for task in registered()} >= {"triage", "numeric_classification"}
  with pytest.raises(UserError, match="unknown task 'triag'; known: .*triage"):
    get("triag")


def test_sizes_and_prefixes_are_fair():
  assert {split: len(rows) for split, rows in ROWS.items()} == {"train": 1000, "validation": 200, "test": 400}
  for target in TASK.targets:
    whole = Counter(row.labels[target] for row in triage.rows("train", 2000))
    prefix = Counter(row.labels[target] for row in ROWS["train"][:250])
    for label, count in whole.items():
      assert abs(prefix[label] / 250 - count / 2000) < 0.09, label


def test_validation_and_test_are_frozen():
  assert fingerprint([contents.of(row) for row in ROWS["test"]]) == "4bf9245c11dedc53"
  assert fingerprint([contents.of(row) for row in ROWS["validation"]]) == "b6ca0771124c62f8"


def test_train_is_frozen_and_longer_train_begins_with_it():
  assert fingerprint([contents.of(row) for row in ROWS["train"]]) == "22d96baabff7abc2"
  assert triage.rows("train", 2000)[:1000] == list(ROWS["train"])


def test_no_group_and_no_id_in_two_splits():
  for kind in ("group", "id"):
    sets = [{getattr(row, kind) for row in ROWS[split]} for split in ("train", "validation", "test")]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
  assert sum(map(len, sets)) == 1600


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_labels_are_in_their_sets_and_balanced(split):
  for name, target in TASK.targets.items():
    shares = Counter(row.labels[name] for row in ROWS[split])
    assert set(shares) == set(target.labels)
    assert min(shares.values()) >= 0.12 * len(ROWS[split]), shares
  for row in ROWS[split]:
    TASK.check(row)


def test_urgency_is_not_decided_by_provider():
  pairs = Counter((row.labels["provider"], row.labels["urgency"]) for row in ROWS["train"])
  for provider in triage.PROVIDERS:
    assert min(pairs[provider, "routine"], pairs[provider, "urgent"]) >= 40


def test_planted_label_is_refused():
  row = Row("message-1", "patient-1", {"message": "hello"}, {"provider": "doctor", "urgency": "urgent"})
  with pytest.raises(UserError, match="row message-1: provider is not one of physician, nurse"):
    TASK.check(row)


def test_prompt_shows_the_message_and_nothing_of_the_truth():
  for row, message in zip(ROWS["test"], simulator.messages("test"), strict=True):
    system, user = TASK.prompt(row)
    assert user["content"] == message.text
    assert system["content"] == TASK.instruction
  assert TASK.completion(ROWS["test"][0].labels) in {TASK.completion(labels) for labels in TASK.answers()}


def test_prompts_are_short():
  words = [
    len(re.findall(r"\w+|[^\w\s]", " ".join(part["content"] for part in TASK.prompt(row)))) for row in ROWS["test"]
  ]
  assert np.mean(words) < 80 and max(words) < 120


def test_rejections_are_wrong_in_one_target_and_in_the_label_sets():
  how = Counter()
  for index, row in enumerate(ROWS["train"]):
    wrong = TASK.rejections(row.labels, row.fields, np.random.default_rng(index))
    assert len(wrong) == 2
    for labels, kind in wrong:
      assert all(labels[name] in target.labels for name, target in TASK.targets.items())
      assert sum(labels[name] != row.labels[name] for name in TASK.targets) == 1
      shift = triage.URGENCIES.index(labels["urgency"]) - triage.URGENCIES.index(row.labels["urgency"])
      assert shift == {"under_triage": -1, "over_triage": 1, "wrong_provider": 0}[kind]
    how[row.labels["urgency"] == "routine", wrong[0][1]] += 1
  under, over = how[False, "under_triage"], how[True, "over_triage"]
  assert how[False, "over_triage"] == how[True, "under_triage"] == 0
  assert abs(under / (under + how[False, "wrong_provider"]) - triage.UNDER_TRIAGE_FIRST) < 0.07
  assert 1.5 < under / over < 2.7


def test_pairs_are_the_same_for_the_same_seed():
  rows = ROWS["train"][:20]
  assert TASK.pairs(rows, seed=3) == TASK.pairs(rows, seed=3) != TASK.pairs(rows, seed=4)
  assert all(pair.chosen != pair.rejected for pair in TASK.pairs(rows, seed=3, per_row=2))
  assert len(TASK.pairs(rows, seed=3, per_row=2)) == 40


def test_rows_of_a_user_need_no_topic():
  wrong = TASK.rejections({"provider": "clerk", "urgency": "urgent"}, {"message": "x"}, np.random.default_rng(0))
  assert {labels["provider"] for labels, _ in wrong} == {"clerk", "nurse"}


def test_words_alone_do_not_solve_it():
  train, test = ROWS["train"][:250], ROWS["test"]
  words = baselines.scores(baselines.bag_of_words(train, test, TASK), test)
  commonest = baselines.scores(baselines.majority(train, test, TASK), test)
  for target in TASK.targets:
    assert commonest[target][0] + 0.08 < words[target][0] < 0.75
    assert commonest[target][1] + 0.25 < words[target][1] < 0.75
