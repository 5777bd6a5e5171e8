import dataclasses
import json

import numpy as np
import pytest

from medjax.data.duplicates import LISTED, duplicates, folded
from medjax.tasks import task as tasks

WORDS = [f"{stem}{ending}" for stem in ("ren", "card", "hep", "gastr", "neur", "derm") for ending in "abcdefghijklmnop"]


def note(seed, words):
  return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def split(**texts):
  return [(id_, f"patient of {id_}", text) for id_, text in texts.items()]


@pytest.mark.parametrize(
  "text, same",
  [
    ("Chest  PAIN,\nsince 2 h.", True),
    ("ｃｈｅｓｔ pain since 2 h", True),
    ("chest pain since 2h", True),
    ("chest pain since 2.5 h", False),
    ("chest pain since -2 h", False),
    ("chest pain since < 2 h", False),
  ],
)
def test_case_spaces_and_punctuation_do_not_count_but_values_do(text, same):
  assert (folded(text) == folded("chest pain since 2 h")) is same


def test_decimals_are_not_joined():
  assert folded("K 3.5") != folded("K 35") != folded("K 3 5")


def test_exact_duplicates_within_and_across_splits():
  report = duplicates(
    {
      "train": split(a="Chest pain.", b="chest pain", c="Leg pain"),
      "validation": split(d="Nosebleed"),
      "test": split(e="CHEST PAIN!", f="chest pain", g="Earache"),
    }
  )
  within, across = report.between("train", "train"), report.between("test", "train")
  assert (within.exact_rows, within.exact_pairs, within.near_rows) == (1, 1, 0)
  assert (across.first, across.second, across.exact_rows, across.exact_pairs) == ("train", "test", 2, 4)
  assert [(pair.first, pair.second, pair.similarity) for pair in across.pairs] == [("a", "e", 1.0)]
  assert report.between("validation", "test").exact_rows == 0
  assert report.rows == {"train": 3, "validation": 1, "test": 3}
  assert len(report.overlaps) == 6


@pytest.mark.parametrize("words", [25, 50, 58, 120])
def test_a_lightly_edited_text_is_a_near_duplicate(words):
  texts = [note(seed, words) for seed in range(40)]
  tokens = texts[7].split()
  edited = " ".join([*tokens[: words // 2], "splenic", *tokens[words // 2 :]])
  report = duplicates(
    {"train": [(str(i), str(i), text) for i, text in enumerate(texts)], "test": split(x=edited, y=note(99, words))}
  )
  across = report.between("train", "test")
  assert (across.near_rows, across.near_pairs, across.exact_rows) == (1, 1, 0)
  assert [(pair.first, pair.second) for pair in across.pairs] == [("7", "x")]
  assert 0.8 <= across.pairs[0].similarity < 1
  assert report.between("train", "train").near_rows == report.between("test", "test").near_rows == 0


def test_similarity_is_that_of_the_sets_of_five_word_shingles():
  tokens = note(1, 100).split()
  other = [*tokens[:50], "splenic", *tokens[51:]]
  shingles = [{tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in (tokens, other)]
  report = duplicates({"train": split(a=" ".join(tokens), b=" ".join(other))})
  wanted = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
  assert report.overlaps[0].pairs[0].similarity == pytest.approx(wanted)
  assert (report.overlaps[0].near_rows, report.overlaps[0].near_pairs) == (2, 1)


def test_a_row_with_an_exact_twin_is_not_counted_as_near_too():
  tokens = note(3, 100).split()
  edited = " ".join([*tokens[:-1], "splenic"])
  report = duplicates({"train": split(a=" ".join(tokens), b=edited), "test": split(c=edited)})
  across = report.between("train", "test")
  assert (across.exact_rows, across.exact_pairs, across.near_rows, across.near_pairs) == (1, 1, 0, 1)


def test_edited_copies_are_found_where_every_text_has_one_template():
  template = note(0, 100).split()
  rng = np.random.default_rng(1)
  texts = []
  for number in range(400):
    tokens = list(template)
    for place in rng.choice(100, 5, replace=False):
      tokens[place] = f"finding{number}x{place}"
    texts.append(tokens)
  copies = [[*tokens[:99], "splenic"] for tokens in texts[:40]]
  report = duplicates(
    {
      "train": [(f"a{i}", "", " ".join(tokens)) for i, tokens in enumerate(texts)],
      "test": [(f"b{i}", "", " ".join(tokens)) for i, tokens in enumerate(copies)],
    }
  )
  across = report.between("train", "test")
  assert report.crowded > 0
  assert across.near_rows == across.near_pairs == 40
  assert all(pair.first[1:] == pair.second[1:] for pair in across.pairs)
  assert len(across.pairs) == LISTED
  assert report.between("train", "train").near_rows == 0


def test_pairs_say_whether_they_are_of_one_patient():
  report = duplicates({"train": [("a", "p", "cough"), ("b", "p", "cough"), ("c", "q", "fever"), ("d", "r", "fever")]})
  assert [pair.same_group for pair in report.overlaps[0].pairs] == [True, False]


def test_equal_prompts_with_different_labels_are_conflicts():
  rows = {"train": split(a="cough", b="Cough.", c="fever", d="fever"), "test": split(e="cough", f="rash", g="rash")}
  labels = {"a": "low", "b": "low", "c": "low", "d": "low", "e": "high", "f": "low"}
  report = duplicates(rows, labels)
  assert (report.conflicts, report.conflict_rows, report.conflict_ids) == (1, 3, (("a", "e"),))
  assert duplicates(rows).conflicts == 0


def test_listed_pairs_are_bounded_and_counts_are_not():
  report = duplicates({"train": [(str(i), "", f"complaint {i % 100}") for i in range(1000)]})
  overlap = report.overlaps[0]
  assert (overlap.exact_rows, overlap.exact_pairs) == (900, 100 * 45)
  assert len(overlap.pairs) == LISTED


def test_every_row_is_told_to_progress_and_texts_are_not_in_the_report():
  told = []
  rows = {"train": split(a="Kumar cough", b="", c=note(0, 100), d=note(1, 52)), "test": split(e="Kumar cough")}
  report = duplicates(rows, {"a": "x", "e": "y"}, told.append)
  assert sum(told) == 5
  assert "kumar" not in json.dumps(dataclasses.asdict(report)).casefold()


def test_nothing_to_compare():
  report = duplicates({"train": [], "test": split(a="?", b="")})
  assert [(overlap.exact_rows, overlap.near_rows) for overlap in report.overlaps] == [(0, 0)] * 3


@pytest.mark.parametrize("name", ["triage", "text_classification", "clinical_reasoning", "summarization"])
def test_simulated_texts_of_one_template_are_not_near_duplicates(name):
  task = tasks.get(name)
  rows = {split: rows[:150] for split, rows in task.load().items()}
  report = duplicates(
    {split: [(row.id, row.group, task.render(row.fields)) for row in part] for split, part in rows.items()}
  )
  assert sum(overlap.exact_rows + overlap.near_rows for overlap in report.overlaps) == 0
