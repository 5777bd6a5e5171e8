import dataclasses
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from medjax import config as schema
from medjax.data import items, sources
from medjax.data.examples import Conversation, Example, PreferencePair, Row
from medjax.data.rows import rows_to_predict, task_rows
from medjax.errors import UserError
from medjax.tasks.task import Facts, Generation, Target, Task, TextTarget

TASK = Task(
  name="toy",
  description="Urgency of a complaint.",
  targets={"urgency": Target(("non-emergency", "emergency"), ordinal=True)},
  instruction="How urgent is it?",
  render=lambda fields: f"{fields['complaint']}, pain {fields['pain'] or 'not recorded'}",
  answer="{urgency}",
  rejections=lambda labels, fields, rng: [({"urgency": "non-emergency"}, "under-triage")],
)
ASK = {"role": "user", "content": "Q"}


def say(text):
  return {"role": "assistant", "content": text}


def write(path, content):
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif isinstance(content, str):
    path.write_text(content, encoding="utf-8")
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
  return str(path)


def with_source(source, **overrides):
  return schema.with_overrides(schema.base_config(), {"data.source": str(source), **overrides})


def test_csv_jsonl_and_parquet_hold_the_same_rows(tmp_path):
  rows = [{"text": "Fever, cough", "n": "1"}, {"text": 'says "ok"', "n": None}]
  csv = write(tmp_path / "a.csv", '\ufefftext,n\r\n"Fever, cough",1\r\n\r\n"says ""ok""",\r\n')
  jsonl = write(tmp_path / "a.jsonl", rows)
  parquet = tmp_path / "a.parquet"
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
  read = {name: sources.read_records(name) for name in (csv, jsonl, str(parquet))}
  assert all([dict(record.values) for record in records] == rows for records in read.values())
  assert [record.id for record in read[csv]] == ["a.csv:2", "a.csv:4"]
  assert [record.where for record in read[jsonl]] == [f"{jsonl} line 1", f"{jsonl} line 2"]


def test_csv_line_numbers_survive_line_breaks_in_cells(tmp_path):
  path = write(tmp_path / "a.csv", 'a,b\n"one\ntwo",1\nthree,2\n')
  assert [record.id for record in sources.read_records(path)] == ["a.csv:2", "a.csv:4"]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.csv", "", "a.csv has no rows"),
    ("a.csv", "a,b\n", "a.csv has no rows"),
    ("a.jsonl", "\n\n", "a.jsonl has no rows"),
    ("a.csv", b"a,b\n1,2\nfi\xe8vre,3\n", r"a.csv line 3: byte 0xe8 is not UTF-8; convert .* iconv"),
    ("a.jsonl", b'{"a": "\xff"}\n', r"a.jsonl line 1: byte 0xff is not UTF-8"),
    ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv line 3: 3 cells under 2 columns"),
    ("a.csv", "a,a\n1,2\n", "a.csv line 1: column 'a' appears twice"),
    ("a.csv", 'a,b\n1,2\n1,"2\n', "a.csv line 3: .*check its quotes"),
    ("a.jsonl", '{"a": 1}\n{"a": \n', r"a.jsonl line 2: not JSON \(.* at column"),
    ("a.jsonl", "[1, 2]\n", "a.jsonl line 1: list instead of a JSON object"),
    ("a.parquet", b"PAR1 but not really", "a.parquet is not a readable parquet file"),
    ("a.xlsx", b"PK", r"a.xlsx ends in .xlsx; medjax reads .jsonl, .*.csv, .*.parquet"),
  ],
)
def test_unreadable_files_are_refused_with_file_and_line(tmp_path, name, content, message):
  with pytest.raises(UserError, match=message) as error:
    sources.read_records(write(tmp_path / name, content))
  assert "\n" not in str(error.value)


def test_missing_file_is_refused_with_the_name_that_was_meant(tmp_path):
  write(tmp_path / "triage.csv", "a\n1\n")
  with pytest.raises(UserError, match=r"triag.csv does not exist; did you mean .*triage.csv\?"):
    sources.read_records(tmp_path / "triag.csv")


def test_directory_gives_each_file_its_split(tmp_path):
  for name, text in [
    ("train.csv", "a\n1\n2\n"),
    ("dev.csv", "a\n3\n"),
    ("test.jsonl", '{"a": "4"}\n'),
    ("notes.txt", ""),
  ]:
    write(tmp_path / name, text)
  found = {(record.values["a"], record.split) for record in sources.read_records(tmp_path)}
  assert found == {("1", "train"), ("2", "train"), ("3", "validation"), ("4", "test")}
  write(tmp_path / "validation.csv", "a\n5\n")
  with pytest.raises(UserError, match="dev.csv and validation.csv are both validation"):
    sources.read_records(tmp_path)


def found(source, rows=None):
  return [(record.values["a"], record.split) for record in sources.read_records(source, rows)]


def test_a_split_of_a_directory_may_be_several_files(tmp_path):
  for i in range(2):
    rows = [{"a": 2 * i}, {"a": 2 * i + 1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"train-0000{i}-of-00002.parquet")
    write(tmp_path / f"validate_{i}.jsonl", [{"a": 10 + i}])
  write(tmp_path / "test.csv.gz", gzip.compress(b"a\n20\n"))
  train, validation = [(i, "train") for i in range(4)], [(10, "validation"), (11, "validation")]
  assert found(tmp_path) == [("20", "test"), *train, *validation]
  assert found(tmp_path, {"train": 3, "validation": 1, "test": 5}) == [("20", "test"), *train[:3], validation[0]]
  assert found(f"{tmp_path}#train") == [(i, "") for i in range(4)]
  assert sources.read_records(tmp_path)[1].id == "train-00000-of-00002.parquet:1"
  with pytest.raises(UserError, match="has no train_sft file"):
    sources.read_records(f"{tmp_path}#train_sft")
  (tmp_path / "train-00001-of-00002.parquet").unlink()
  with pytest.raises(UserError, match="1 files of train data, named train-00000-of-.* say 2; fetch what is missing"):
    sources.read_records(tmp_path)


@pytest.mark.parametrize("names", [("train.csv", "train-old.csv"), ("train_1.csv", "training_2.csv")])
def test_files_that_are_not_parts_of_one_split_are_refused(tmp_path, names):
  for name in names:
    write(tmp_path / name, "a\n1\n")
  with pytest.raises(UserError, match="are both train data; keep one"):
    sources.read_records(tmp_path)


def test_patterns_and_lists_of_files(tmp_path, monkeypatch):
  for name in ("notes-1.csv", "notes-2.csv", "train.csv", "train_2.csv", "dev.csv", "more/notes-1.csv"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name, f"a\n{name}\n")
  monkeypatch.chdir(tmp_path)
  assert found("notes-*.csv") == [("notes-1.csv", ""), ("notes-2.csv", "")]
  assert found("notes-2.csv, more/*.csv") == [("notes-2.csv", ""), ("more/notes-1.csv", "")]
  assert found("train*.csv") == [("train.csv", ""), ("train_2.csv", "")], "of one split: to be split"
  assert found("train.csv,dev.csv") == [("train.csv", "train"), ("dev.csv", "validation")]
  ids = [record.id for record in sources.read_records("**/notes-1.csv")]
  assert ids == ["more/notes-1.csv:2", "notes-1.csv:2"], "unique where files have the same name"
  (tmp_path / "home").mkdir()
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  write(tmp_path / "home" / "a,b [1].csv", "a\n7\n")
  assert found("~/a,b [1].csv") == [("7", "")], "a file of that very name comes first"
  for source, message in [
    ("note-*.csv", r"data source note-\*.csv: no file is named like that"),
    ("train.csv,dve.csv", r"dve.csv does not exist; did you mean dev.csv\?"),
    ("train.csv,more", "more is a directory among several files"),
    ("dev.csv,*.csv", "names .*dev.csv twice"),
    ("dev.csv#train", "dev.csv#train: a file has no splits"),
  ]:
    with pytest.raises(UserError, match=message):
      sources.read_records(source)


@pytest.mark.parametrize("limits", [(2, 1, 1), (2, 1, 0)])
def test_the_limits_of_a_run_are_those_of_the_rows_that_are_read(tmp_path, limits):
  for split in ("train", "validation", "test"):
    write(tmp_path / f"{split}.jsonl", [{"prompt": "Q", "completion": "A", "id": f"{split}{i}"} for i in range(3)])
  write(tmp_path / "test.jsonl", [{"prompt": "Q", "completion": "A"}, "not a row"])
  overrides = dict(zip(("data.train_rows", "data.validation_rows", "data.test_rows"), limits, strict=True))
  if not limits[2]:
    with pytest.raises(UserError, match="test.jsonl line 2"):
      items.training_items(with_source(tmp_path, **overrides))
    return
  read = items.training_items(with_source(tmp_path, **overrides))
  assert {split: [item.id for item in items] for split, items in read.items()} == {
    "train": ["train0", "train1"],
    "validation": ["validation0"],
  }


@pytest.mark.parametrize(
  ("row", "prompt", "completion"),
  [
    ({"prompt": "Q", "completion": " A"}, "Q", " A"),
    ({"prompt": [ASK], "completion": [say("A")]}, (ASK,), "A"),
    ({"messages": [ASK, say("A")]}, (ASK,), "A"),
    ({"messages": [say("B"), ASK, say("A")]}, (say("B"), ASK), "A"),
    ({"text": "A note."}, None, "A note."),
  ],
)
def test_examples_in_every_form(tmp_path, row, prompt, completion):
  records = sources.read_records(write(tmp_path / "a.jsonl", [row]))
  assert items.examples_from_records(records, {}) == [Example("a.jsonl:1", prompt, completion)]


def test_messages_with_several_answers_are_a_conversation_unless_an_answer_is_judged(tmp_path):
  row = {"messages": [ASK, say("B"), ASK, say("A")]}
  train = items.training_items(with_source(write(tmp_path / "a.jsonl", [row])))["train"]
  assert train == [Conversation("a.jsonl:1", (ASK, say("B"), ASK, say("A")))]
  rows = [{**row, "label": 1}, {"messages": [ASK, ASK, say("C")], "label": 0}]
  source = write(tmp_path / "b.jsonl", rows)
  judged = items.training_items(with_source(source, **{"method": "dpo", "preference.loss": "kto"}))["train"]
  assert [(each.prompt, each.completion) for each in judged] == [((ASK, say("B"), ASK), "A"), ((ASK, ASK), "C")]


@pytest.mark.parametrize(
  ("row", "prompt"),
  [
    ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, "Q"),
    ({"prompt": [ASK], "chosen": [say("good")], "rejected": [say("bad")]}, (ASK,)),
    ({"chosen": [ASK, say("good")], "rejected": [ASK, say("bad")]}, (ASK,)),
    ({"prompt": "Q", "chosen": [ASK, say("good")], "rejected": [ASK, say("bad")]}, (ASK,)),
  ],
)
def test_preference_pairs_in_trl_forms(tmp_path, row, prompt):
  records = sources.read_records(write(tmp_path / "a.jsonl", [{"id": 7, **row}]))
  assert items.pairs_from_records(records, {}) == [PreferencePair("7", prompt, "good", "bad", "given")]


def test_columns_rename_what_the_source_calls_otherwise(tmp_path):
  source = write(tmp_path / "a.jsonl", [{"question": "Q", "answer": "A", "key": "k1"}])
  columns = {"prompt": "question", "completion": "answer", "id": "key"}
  train = items.training_items(with_source(source, **{"data.columns": columns}))["train"]
  assert train == [Example("k1", "Q", "A")]


@pytest.mark.parametrize(
  ("rows", "overrides", "message"),
  [
    (
      [{"promt": "Q", "completion": "A"}],
      {},
      r"line 1: no column 'prompt'; did you mean 'promt'\? \(columns: promt, comp",
    ),
    (
      [{"prompt": "Q", "completion": "A"}, {"prompt": "Q"}],
      {},
      r"line 2: no column 'completion'.*--config.data.columns.comp",
    ),
    ([{"prompt": "Q", "completion": 3}], {}, "line 1: completion is a int; it must be text"),
    ([{"prompt": "Q", "completion": ""}], {}, "line 1: completion is empty"),
    ([{"messages": [ASK]}], {}, "line 1: the last message of messages must be an assistant's"),
    ([{"messages": [{"role": "doctor", "content": "x"}]}], {}, "line 1: messages has a role that is not system"),
    ([{"messages": [ASK, say(""), ASK, say("A")]}], {}, "line 1: messages holds an empty answer; every answer"),
    ([{"messages": ["x"]}], {}, "line 1: messages must hold messages such as"),
    ([{"prompt": "Q", "completion": [say("a"), say("b")]}], {}, "completion holds 2 messages"),
    ([{"id": 1, "prompt": "Q", "completion": "A"}] * 2, {}, r"line 2: its id is also that of .* line 1"),
    ([{"split": "trian", "prompt": "Q", "completion": "A"}], {}, "line 1: split is none of .*; did you mean train"),
    ([{"split": "test", "prompt": "Q", "completion": "A"}], {}, "no train rows"),
    ([{"prompt": "Q", "completion": "A"}], {"data.columns.promt": "prompt"}, "columns.promt names no field"),
    ([{"prompt": "Q", "chosen": "A", "rejected": "A"}], {"method": "dpo"}, "line 1: chosen and rejected are the same"),
    ([{"prompt": "Q", "chosen": "A"}], {"method": "dpo"}, "line 1: no column 'rejected'"),
    (
      [{"chosen": [ASK, say("A")], "rejected": [say("x"), say("B")]}],
      {"method": "dpo"},
      "line 1: chosen and rejected differ before their last",
    ),
    (
      [{"prompt": "other", "chosen": [ASK, say("A")], "rejected": [ASK, say("B")]}],
      {"method": "dpo"},
      "line 1: the prompt is not among the messages of chosen",
    ),
  ],
)
def test_training_rows_that_do_not_fit_are_refused_with_file_and_line(tmp_path, rows, overrides, message):
  source = write(tmp_path / "a.jsonl", rows)
  with pytest.raises(UserError, match=message) as error:
    items.training_items(with_source(source, **overrides))
  assert "\n" not in str(error.value)


def test_training_reads_split_column_and_limits_and_never_the_test_split(tmp_path):
  rows = [{"id": i, "prompt": "Q", "completion": "A", "split": s} for i, s in enumerate("train train dev test".split())]
  source = write(tmp_path / "a.jsonl", rows)
  read = items.training_items(with_source(source, **{"data.train_rows": 1}))
  assert {split: [item.id for item in found] for split, found in read.items()} == {"train": ["0"], "validation": ["2"]}


def patients(count):
  lines = [f"{i},{i // 3},pain {i},{i % 10}, {('Emergency', 'NON-emergency')[i % 2]} " for i in range(count)]
  return "visit,patient,complaint,pain,expert\n" + "\n".join(lines) + "\n"


COLUMNS = {"data.columns": {"urgency": "expert", "id": "visit"}, "data.split_by": "patient"}


def test_task_rows_split_by_patient_with_labels_as_the_task_spells_them(tmp_path):
  config = with_source(write(tmp_path / "a.csv", patients(600)), **COLUMNS)
  splits = task_rows(config, TASK)
  groups = {split: {row.group for row in rows} for split, rows in splits.items()}
  assert sum(map(len, splits.values())) == 600 and sum(map(len, groups.values())) == 200
  assert (
    120 <= len(groups["train"]) <= 160 and 10 <= len(groups["validation"]) <= 32 and 25 <= len(groups["test"]) <= 55
  )
  row = next(row for rows in splits.values() for row in rows if row.id == "1")
  assert row == Row(
    "1", "0", {"visit": "1", "patient": "0", "complaint": "pain 1", "pain": "1"}, {"urgency": "non-emergency"}
  )
  assert "expert" not in row.fields


def test_the_split_of_a_patient_depends_on_the_patient_alone(tmp_path):
  few, many = (with_source(write(tmp_path / f"{n}.csv", patients(n)), **COLUMNS) for n in (90, 300))
  many = schema.with_overrides(many, {"seed": 5})
  in_few, in_many = (
    {row.group: split for split, rows in task_rows(config, TASK).items() for row in rows} for config in (few, many)
  )
  assert in_few.items() <= in_many.items()


def test_rows_without_ids_split_by_their_content(tmp_path):
  text = "complaint,pain,urgency\n" + "".join(f"c{i % 50},{i % 7},emergency\n" for i in range(700))
  one, renamed = (task_rows(with_source(write(tmp_path / name, text)), TASK) for name in ("a.csv", "b.csv"))
  contents = [{tuple(row.fields.values()) for row in rows} for rows in one.values()]
  assert sum(map(len, contents)) == len(set.union(*contents)) == 350
  assert [[r.fields for r in rows] for rows in one.values()] == [[r.fields for r in rows] for rows in renamed.values()]


def test_limits_keep_the_first_rows(tmp_path):
  source = write(tmp_path / "a.csv", patients(300))
  full = task_rows(with_source(source, **COLUMNS), TASK)
  limits = {"data.train_rows": 5, "data.validation_rows": 3, "data.test_rows": 2}
  limited = task_rows(with_source(source, **COLUMNS, **limits), TASK)
  assert limited == {"train": full["train"][:5], "validation": full["validation"][:3], "test": full["test"][:2]}


@pytest.mark.parametrize(
  ("text", "overrides", "message"),
  [
    ("complaint,pain,urgency\na,1,urgent\n", {}, "line 2: urgency is not one of non-emergency, emergency"),
    ("complaint,pain,urgency\na,1,emergensy\n", {}, r"did you mean 'emergency'\?"),
    ("complaint,pain,urgency\na,1,\n", {}, "line 2: urgency is empty; it must be one of"),
    ("complaint,pain,urgncy\na,1,emergency\n", {}, r"line 2: no column 'urgency'; did you mean 'urgncy'\?"),
    ("complaint,urgency\na,emergency\n", {}, r"line 2: no column 'pain'.*--config.data.columns.pain=COLUMN"),
    ("complaint,pain,urgency\na,1,emergency\n", {"data.columns.pain": "NRS"}, "line 2: no column 'NRS'.*columns.pain="),
    ("complaint,pain,urgency\na,1,emergency\n", {"data.split_by": "patient"}, "line 2: no column 'patient'"),
    ("complaint,pain,urgency,p\na,1,emergency,\n", {"data.split_by": "p"}, "line 2: p is empty"),
    (
      "complaint,pain,urgency,p,split\na,1,emergency,7,train\nb,1,emergency,7,test\n",
      {"data.split_by": "p"},
      "line 3: rows of its p are in train and in test",
    ),
  ],
)
def test_task_rows_that_do_not_fit_are_refused_with_file_and_line(tmp_path, text, overrides, message):
  source = write(tmp_path / "a.csv", text)
  with pytest.raises(UserError, match=message) as error:
    task_rows(with_source(source, **overrides), TASK)
  assert str(error.value).startswith(source) and "\n" not in str(error.value)


def test_task_without_data_asks_for_a_file():
  with pytest.raises(UserError, match="task toy has no data of its own"):
    task_rows(schema.base_config(), TASK)


def test_own_data_of_a_task_becomes_examples_and_pairs():
  rows = [Row(str(i), str(i), {"complaint": "c", "pain": None}, {"urgency": "emergency"}) for i in range(3)]
  task = dataclasses.replace(TASK, load=lambda: {"train": rows[:2], "validation": rows[2:], "test": []})
  config = schema.base_config()
  examples = items.training_items(config, task)
  assert [item.completion for item in examples["train"]] == ["emergency"] * 2
  config.method = "dpo"
  pairs = items.training_items(config, task)
  assert [(p.chosen, p.rejected, p.how) for p in pairs["validation"]] == [
    ("emergency", "non-emergency", "under-triage")
  ]


def test_rows_to_predict_need_no_labels_and_keep_them_out_of_the_prompt(tmp_path):
  config = with_source("", **{"data.columns.urgency": "expert"})
  without = write(tmp_path / "a.csv", "complaint,pain\na,1\nb,\n")
  assert [row.labels for row in rows_to_predict(config, TASK, without)] == [{}, {}]
  with_labels = write(tmp_path / "b.csv", "complaint,pain,expert\na,1,who knows\n")
  assert rows_to_predict(config, TASK, with_labels)[0].fields == {"complaint": "a", "pain": "1"}


REASONED = dataclasses.replace(
  TASK,
  targets={**TASK.targets, "summary": TextTarget(lambda fields: Facts({}, {}))},
  answer="{reasons}\nSummary: {summary}\nUrgency: {urgency}",
  generation=Generation(32, lambda text, fields: {}),
)


def test_texts_and_reasons_come_from_columns_of_their_names(tmp_path):
  text = "complaint,pain,urgency,gist,reasons\na,1,EMERGENCY, Chest pain. ,It is new.\n"
  config = with_source(
    write(tmp_path / "a.csv", text), **{"data.columns.summary": "gist", "data.columns.id": "complaint"}
  )
  (row,) = [row for rows in task_rows(config, REASONED).values() for row in rows]
  assert row.labels == {"urgency": "emergency", "summary": "Chest pain.", "reasons": "It is new."}
  assert row.fields == {"complaint": "a", "pain": "1"}, "nothing of the answer is left for the prompt"
  assert REASONED.completion(row.labels) == "It is new.\nSummary: Chest pain.\nUrgency: emergency"
  (unlabelled,) = rows_to_predict(config, REASONED, config.data.source)
  assert unlabelled.fields == row.fields and unlabelled.labels == {}


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({"summary": "s"}, r"line 1: no column 'reasons'.*--config.data.columns.reasons=COLUMN"),
    ({"reasons": "r"}, "line 1: no column 'summary'"),
    ({"reasons": "r", "summary": " "}, "line 1: summary is empty; the answer needs it"),
    ({"reasons": ["r"], "summary": "s"}, "line 1: reasons is a list; the answer needs it as text"),
  ],
)
def test_an_answer_that_lacks_a_part_is_refused(tmp_path, rows, message):
  source = write(tmp_path / "a.jsonl", [{"complaint": "a", "pain": 1, "urgency": "emergency", **rows}])
  with pytest.raises(UserError, match=message):
    task_rows(with_source(source), REASONED)


def test_fingerprint_follows_content():
  one, other = Example("a", (ASK,), "A"), Example("a", (ASK,), "B")
  assert items.fingerprint([one]) == items.fingerprint([dataclasses.replace(other, completion="A")])
  assert len({items.fingerprint(found) for found in ([one], [other], [one, other], [])}) == 4


def test_a_weight_of_one_leaves_the_fingerprint_of_data_as_it_was():
  """The name was noted before there were weights: checkpoints hold it."""
  examples = [Example("a", ({"role": "user", "content": "Q"},), "A"), Example("b", "Q", " A"), Example("c", None, "T")]
  assert items.fingerprint(examples) == "02d6bb97a878b882"
  heavier = [dataclasses.replace(examples[0], weight=2.0), *examples[1:]]
  assert items.fingerprint(heavier) != items.fingerprint(examples)
  turns = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})
  assert items.fingerprint([Conversation("a", turns)]) != items.fingerprint([Example("a", turns[:1], "A")])
