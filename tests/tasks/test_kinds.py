"""Tasks that a config defines: what is shown, which labels are read, and what is refused."""

import json
import pathlib
import re

import numpy as np
import pytest

from medjax import config as schema
from medjax import tasks
from medjax.data.items import training_items
from medjax.data.rows import rows_to_predict, task_rows
from medjax.errors import UserError


def config_of(tmp_path, rows, task, define, **overrides):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  changes = {"task": task, "data.source": str(path)} | {f"define.{key}": value for key, value in define.items()}
  config = schema.with_overrides(schema.base_config(), changes | overrides)
  schema.validate(config)
  return tasks.settled(config)


def every_row(config):
  return [row for rows in task_rows(config, tasks.of(config)).values() for row in rows]


NOTES = [
  {"id": f"n{i}", "note": f"Note {i}: cough.", "diagnosis": ["asthma", "Angina", "anaemia"][i % 3], "age": 40 + i}
  for i in range(30)
]


def test_a_column_of_text_and_a_column_of_labels_are_a_task(tmp_path):
  config = config_of(tmp_path, NOTES, "text_classification", {"prompt": "{note}", "labels": "diagnosis"})
  task = tasks.of(config)
  assert task.targets["diagnosis"].labels == ("anaemia", "Angina", "asthma")
  assert "anaemia, Angina, asthma" in task.instruction
  rows = every_row(config)
  assert {task.render(row.fields) for row in rows} == {note["note"] for note in NOTES}
  assert all("diagnosis" not in row.fields for row in rows)  # no code can show it by mistake
  assert {row.id: task.completion(row.labels) for row in rows} == {note["id"]: note["diagnosis"] for note in NOTES}


def test_the_labels_found_in_the_data_stay_with_the_config_without_the_data(tmp_path):
  config = config_of(tmp_path, NOTES, "text_classification", {"prompt": "{note}", "labels": "diagnosis"})
  saved = schema.from_dict(json.loads(json.dumps(schema.as_dict(config))))
  (tmp_path / "rows.jsonl").unlink()
  assert tasks.of(tasks.settled(saved)).targets == tasks.of(config).targets
  (tmp_path / "new.jsonl").write_text('{"note": "Dyspnoea."}\n')
  (row,) = rows_to_predict(saved, tasks.of(saved), str(tmp_path / "new.jsonl"))
  assert tasks.of(saved).render(row.fields) == "Dyspnoea."


def test_a_task_whose_labels_nobody_has_looked_for_is_refused(tmp_path):
  config = config_of(tmp_path, NOTES, "text_classification", {"prompt": "{note}", "labels": "diagnosis"})
  with pytest.raises(UserError, match="labels of 'diagnosis' are not listed; medjax.tasks.settled"):
    tasks.of(schema.with_overrides(config, {"define.labels": "diagnosis"}))


def test_numbers_as_labels_are_in_the_order_of_numbers(tmp_path):
  rows = [{"note": f"n{i}", "level": [10, 9, 2][i % 3]} for i in range(9)]
  config = config_of(tmp_path, rows, "text_classification", {"prompt": "{note}", "labels": "level"})
  assert tasks.of(config).targets["level"].labels == ("2", "9", "10")


def test_several_inputs_are_lines_and_missing_cells_are_said(tmp_path):
  define = {"inputs": "age,note", "labels": "diagnosis"}
  row = {**NOTES[0], "age": None}
  config = config_of(tmp_path, [row, *NOTES[1:]], "text_classification", define)
  task = tasks.of(config)
  shown = {r.id: task.render(r.fields) for r in every_row(config)}
  assert shown["n0"] == "age: not recorded\nnote: Note 0: cough."
  assert shown["n1"] == "age: 41\nnote: Note 1: cough."
  silent = schema.with_overrides(config, {"define.missing": ""})
  assert tasks.of(silent).render({"age": "?", "note": "x"}) == "note: x"


def test_codes_become_labels_and_rows_with_other_codes_are_left_out(tmp_path):
  rows = [{"v": i, "code": code} for i, code in enumerate(["A", "b", "K", "A ", None, "B", "Z"])]
  define = {"inputs": ("v",), "labels": "code", "values": {"sick": ("A", "B"), "well": "K"}, "other": "drop"}
  config = config_of(tmp_path, rows, "numeric_classification", define)
  assert [row.labels["code"] for row in sorted(every_row(config), key=lambda r: r.fields["v"])] == [
    *("sick", "sick", "well", "sick", "sick"),
  ]
  with pytest.raises(UserError, match=r"line 5: code is empty \(sick, well\).*define.other = 'drop'"):
    every_row(schema.with_overrides(config, {"define.other": "refuse"}))


def test_values_have_units_reference_ranges_and_flags(tmp_path):
  rows = [
    {"TSH": tsh, "FTI": None, "on_thyroxine": flag, "d": "ab"[i]}
    for i, (tsh, flag) in enumerate([(68.0, "t"), (0.1, "f")])
  ]
  define = {
    "inputs": (("TSH", "mU/L", 0.4, 4.5), "FTI"),
    "flags": "on_thyroxine",
    "labels": {"d": ("a", "b")},
    "missing": "not done",
  }
  task = tasks.of(config_of(tmp_path, rows, "numeric_classification", define))
  assert task.render(rows[0]) == "TSH 68 mU/L (high), FTI not done, on thyroxine"
  assert task.render(rows[1]) == "TSH 0.1 mU/L (low), FTI not done"
  assert task.render({"TSH": "4.5", "FTI": 3, "on_thyroxine": None}) == "TSH 4.5 mU/L, FTI 3"
  assert task.render({"TSH": "<0.02", "FTI": 3, "on_thyroxine": None}) == "TSH <0.02 mU/L (low), FTI 3"


def test_of_several_labels_each_is_asked_for_alone(tmp_path):
  rows = [{"note": f"n{i}", "signs": cell} for i, cell in enumerate(["fever; cough", "", "Cough", "rash;fever"] * 5)]
  config = config_of(tmp_path, rows, "text_classification", {"prompt": "{note}", "labels": "signs", "separator": ";"})
  task = tasks.of(config)
  assert list(task.targets) == ["cough", "fever", "rash"]
  row = next(row for row in every_row(config) if row.fields["note"] == "n3")
  assert row.labels == {"cough": "no", "fever": "yes", "rash": "yes"}
  assert task.example(row).answers == ("cough: no", "fever: yes", "rash: yes")
  assert [task.completion(answer) for answer in task.answers()][:2] == ["cough: no", "cough: yes"]
  for pair in task.pairs([row] * 8, 0):
    chosen, rejected = pair.chosen.split(": "), pair.rejected.split(": ")
    assert chosen[0] == rejected[0] and chosen[1] != rejected[1] == {"no": "yes", "yes": "no"}[chosen[1]]
    assert chosen[1] == row.labels[chosen[0]]


def test_triage_has_ordinal_targets_and_wrong_answers_beside_the_truth(tmp_path):
  rows = [{"m": f"m{i}", "who": "nurse", "urgency": ["routine", "urgent", "emergency"][i % 3]} for i in range(30)]
  define = {
    "prompt": "{m}",
    "labels": {"who": ("nurse", "physician"), "urgency": ("routine", "urgent", "emergency")},
    "ordinal": "urgency",
    "under_cost": 3.0,
    "decide": "costs",
  }
  task = tasks.of(config_of(tmp_path, rows, "triage", define))
  assert task.targets["urgency"].ordinal and task.targets["urgency"].under_cost == 3.0
  assert not task.targets["who"].ordinal and task.targets["who"].decide == "likeliest"
  hows = set()
  for seed in range(40):
    for labels, how in task.rejections({"who": "nurse", "urgency": "urgent"}, {}, np.random.default_rng(seed)):
      hows.add(how)
      if how != "wrong_label":
        assert labels == {"who": "nurse", "urgency": {"under_triage": "routine", "over_triage": "emergency"}[how]}
  assert hows == {"under_triage", "over_triage", "wrong_label"}


QUESTION = {"q": "Which?", "opts": {"A": "iron", "B": "zinc", "C": "lead"}, "key": "C", "why": "Blue lines."}


@pytest.mark.parametrize(
  ("options", "answer"),
  [
    ({"A": "iron", "B": "zinc", "C": "lead"}, "C"),
    (["iron", "zinc", "lead"], "Lead."),
    ("iron; zinc; lead", 2),
  ],
)
def test_options_come_in_three_forms_and_answers_as_letter_text_or_number(tmp_path, options, answer):
  rows = [{"q": "Which?", "opts": options, "key": answer}] * 2
  define = {"prompt": "{q}", "options": "opts", "answer": "key"}
  config = config_of(tmp_path, [{**row, "id": i} for i, row in enumerate(rows)], "clinical_reasoning", define)
  task = tasks.of(config)
  row = every_row(config)[0]
  assert task.render(row.fields) == "Which?\nA) iron\nB) zinc\nC) lead"
  assert row.labels == {"answer": "C"} and task.targets["answer"].labels == ("A", "B", "C")
  assert task.generation is None


def test_options_in_columns_may_be_fewer_in_some_rows(tmp_path):
  rows = [{"q": "1", "a": "x", "b": "y", "c": "z", "k": 0}, {"q": "2", "a": "x", "b": "y", "c": None, "k": 1}]
  define = {"prompt": "{q}", "options": ("a", "b", "c"), "answer": "k"}
  task = tasks.of(config_of(tmp_path, rows, "clinical_reasoning", define))
  assert task.render(rows[1]) == "2\nA) x\nB) y"
  assert list(task.allowed(rows[1], "answer")) == ["A", "B"]
  wrong = {
    labels["answer"]
    for s in range(20)
    for labels, _ in task.rejections({"answer": "B"}, rows[1], np.random.default_rng(s))
  }
  assert wrong == {"A"}


def test_reasons_come_before_an_answer_that_is_read_again(tmp_path):
  rows = [{**QUESTION, "id": i} for i in range(20)]
  define = {"prompt": "{q}", "options": "opts", "answer": "key", "reasons": "why"}
  config = config_of(tmp_path, rows, "clinical_reasoning", define)
  task, row = tasks.of(config), every_row(config)[0]
  text = task.completion(row.labels)
  assert text == "Blue lines.\nAnswer: C"
  read = task.generation.read
  assert read(text, row.fields) == {"answer": "C"}
  assert read("So it is zinc. answer: B) zinc", row.fields) == {"answer": "B"}
  assert read("Answer: lead", row.fields) == {"answer": "C"}
  assert read("It is lead.", row.fields) == read("Answer: D", row.fields) == {}


def test_a_free_answer_is_judged_by_its_words(tmp_path):
  rows = [{"q": f"Dose {i}?", "a": f"The {i} mg"} for i in range(20)]
  config = config_of(tmp_path, rows, "clinical_reasoning", {"prompt": "{q}", "answer": "a"})
  task, row = tasks.of(config), every_row(config)[0]
  assert task.targets["answer"].primary == "exact_match" and task.generation.max_new_tokens == 256
  assert task.generation.read(task.completion(row.labels), row.fields) == row.labels
  assert not task.rejections(row.labels, row.fields, np.random.default_rng(0))


def test_a_summary_needs_no_facts_and_is_judged_by_them_where_there_are_some(tmp_path):
  rows = [{"d": f"talk {i}", "s": f"Summary {i}. End.", "must": {"n": [str(i)]}} for i in range(20)]
  plain = tasks.of(config_of(tmp_path, rows, "summarization", {"prompt": "{d}", "summary": "s"}))
  assert plain.targets["summary"].facts is None and plain.targets["summary"].primary == "rougeL"
  row = every_row(config_of(tmp_path, rows, "summarization", {"prompt": "{d}", "summary": "s"}))[0]
  wrong = plain.rejections({"summary": "Denies cough. Takes 5 mg."}, row.fields, np.random.default_rng(0))
  assert {how for _, how in wrong} >= {"omitted_fact", "wrong_dose", "denied_as_present"}
  judged = config_of(tmp_path, rows, "summarization", {"prompt": "{d}", "summary": "s", "facts": True})
  target = tasks.of(judged).targets["summary"]
  assert target.primary == "fact_f1" and target.facts(every_row(judged)[0].fields).must


def test_long_texts_are_read_in_pieces_that_overlap_and_weigh_as_one(tmp_path):
  note = " ".join(f"w{i}" for i in range(25))
  rows = [{"id": f"r{i}", "note": note if i == 0 else "short", "y": "ab"[i % 2]} for i in range(12)]
  define = {"prompt": "{note}", "labels": "y", "window_words": 10, "window_overlap": 2}
  config = config_of(tmp_path, rows, "text_classification", define)
  task = tasks.of(config)
  row = next(row for row in every_row(config) if row.id == "r0")
  pieces = task.windows(row)
  assert [piece.fields["note"].split()[0] for piece in pieces] == ["w0", "w8", "w16"]
  assert [piece.fields["note"].split()[-1] for piece in pieces] == ["w9", "w17", "w24"]
  assert [piece.id for piece in pieces] == ["r0/1", "r0/2", "r0/3"]
  assert sum(piece.weight for piece in pieces) == pytest.approx(1)


def test_balanced_rows_weigh_the_same_for_each_label(tmp_path):
  rows = [{"note": f"n{i}", "y": "a" if i % 4 else "b"} for i in range(40)]
  config = config_of(
    tmp_path, rows, "text_classification", {"prompt": "{note}", "labels": "y", "class_weights": "balanced"}
  )
  examples = training_items(config, tasks.of(config))["train"]
  by_label = {label: sum(x.weight for x in examples if x.completion == label) for label in "ab"}
  assert by_label["a"] == pytest.approx(by_label["b"]) == pytest.approx(len(examples) / 2)


def test_stratified_splits_keep_shares_and_groups(tmp_path):
  rows = [{"note": f"n{i}", "patient": i // 2, "y": "rare" if i // 2 % 10 == 0 else "common"} for i in range(400)]
  define = {"prompt": "{note}", "labels": "y"}
  config = config_of(
    tmp_path, rows, "text_classification", define, **{"data.split_by": "patient", "data.stratify": True}
  )
  splits = task_rows(config, tasks.of(config))
  assert [len(splits[split]) for split in ("train", "validation", "test")] == [280, 40, 80]
  for split, found in splits.items():
    assert np.mean([row.labels["y"] == "rare" for row in found]) == pytest.approx(0.1, abs=0.051), split
  groups = [{row.group for row in found} for found in splits.values()]
  assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
  shuffled = tmp_path / "again"
  shuffled.mkdir()
  again = config_of(
    shuffled, rows[::-1], "text_classification", define, **{"data.split_by": "patient", "data.stratify": True}
  )
  moved = task_rows(again, tasks.of(again))
  texts = lambda found: {split: {row.fields["note"] for row in rows} for split, rows in found.items()}  # noqa: E731
  assert {row.group for row in moved["test"]} == groups[2] and texts(moved) == texts(splits)


@pytest.mark.parametrize(
  ("task", "define", "message"),
  [
    ("text_classification", {"labels": "diagnosis"}, "names no column to show"),
    ("text_classification", {"prompt": "{note}"}, "define.labels is empty"),
    ("text_classification", {"prompt": "{note} {diagnosis}", "labels": "diagnosis"}, "shows the label 'diagnosis'"),
    (
      "text_classification",
      {"prompt": "{note}", "labels": "note", "after": "note"},
      "shows the label 'note'",
    ),
    (
      "text_classification",
      {"promt": "{note}", "labels": "diagnosis"},
      "define.promt is no key .* did you mean prompt",
    ),
    (
      "text_classification",
      {"prompt": "{note}", "labels": "diagnose"},
      "no column 'diagnose'; did you mean 'diagnosis'",
    ),
    ("text_classification", {"prompt": "{nota}", "labels": "diagnosis"}, "no column 'nota'; did you mean 'note'"),
    ("text_classification", {"prompt": "{note}", "labels": {"diagnosis": ("asthma", "angina")}}, "none of the labels"),
    ("text_classification", {"prompt": "{note}", "labels": {"diagnosis": ("asthma",)}}, "give two or more labels"),
    ("text_classification", {"prompt": "{note}", "labels": "diagnosis", "other": "skip"}, "one of refuse, drop"),
    ("text_classification", {"prompt": "{note}", "labels": "diagnosis", "decide": "costs"}, "needs define.ordinal"),
    ("text_classification", {"prompt": "{note}", "labels": "diagnosis", "ordinal": "diagnosis"}, "from the least to"),
    ("text_classification", {"prompt": "{note}", "labels": "diagnosis", "window_words": "ten"}, "it must be int"),
    ("text_classification", {"prompt": "{note} {age}", "labels": "diagnosis", "window_words": 5}, "splits one column"),
    ("triage", {"prompt": "{note}", "labels": "diagnosis"}, "define.ordinal is empty"),
    ("numeric_classification", {"inputs": (("age", 3),), "labels": "diagnosis"}, "write a column, or"),
    ("clinical_reasoning", {"prompt": "{note}", "answer": "diagnosis", "options": "age"}, "holds no two to 26 options"),
    ("summarization", {"prompt": "{note}", "summary": "note"}, "shows the summary in the prompt"),
    ("summarize", {"prompt": "{note}"}, "did you mean summarization"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, task, define, message):
  with pytest.raises(UserError, match=message) as error:
    config = config_of(tmp_path, NOTES, task, define)
    every_row(config)
  assert "\n" not in str(error.value)
  assert "cough" not in str(error.value)  # nothing of a note


def test_a_cell_that_is_no_label_is_not_shown(tmp_path):
  rows = [*NOTES, {"id": "x", "note": "n", "diagnosis": "Jane Roe, born 1950", "age": 1}]
  define = {"prompt": "{note}", "labels": {"diagnosis": ("asthma", "angina", "anaemia")}}
  with pytest.raises(UserError, match="line 31: diagnosis is none of the labels") as error:
    every_row(config_of(tmp_path, rows, "text_classification", define))
  assert "Jane" not in str(error.value)


CODE = re.findall(
  r"```python\n(.*?)```", (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text(), re.DOTALL
)


def test_the_five_lines_of_the_docs_are_a_config(tmp_path):
  scope = {"base_config": schema.base_config}
  exec(CODE[0], scope)
  (tmp_path / "notes.csv").write_text("note,diagnosis\n" + "".join(f"n{i},{'ab'[i % 2]}\n" for i in range(20)))
  config = schema.with_overrides(scope["config"], {"data.source": str(tmp_path / "notes.csv")})
  schema.validate(config)
  assert tasks.of(tasks.settled(config)).targets["diagnosis"].labels == ("a", "b")
  assert len(CODE[0].splitlines()) == 5


def test_a_task_of_ones_own_comes_from_a_file(tmp_path):
  (tmp_path / "cough.py").write_text(CODE[1])
  rows = [{"note": f"n{i}", "cough": "yes"} for i in range(10)]
  config = config_of(tmp_path, rows, str(tmp_path / "cough.py"), {})
  assert tasks.of(config).name == "cough" and len(every_row(config)) == 10
  assert tasks.of(schema.with_overrides(config, {"task": f"{tmp_path}/cough.py:cough"})).name == "cough"
  with pytest.raises(UserError, match="registers no task 'fever'; it registers cough"):
    tasks.of(schema.with_overrides(config, {"task": f"{tmp_path}/cough.py:fever"}))
  (tmp_path / "broken.py").write_text("import medjax\nraise ValueError('x')")
  with pytest.raises(UserError, match="broken.py cannot be run: ValueError"):
    tasks.of(schema.with_overrides(config, {"task": f"{tmp_path}/broken.py"}))
