"""The configs of public sets, on a few rows in the form in which each set is published: read, trained on, evaluated."""

import json
import pathlib

import numpy as np
import pytest
import soak
import tiny

from medjax import config as schema
from medjax import tasks
from medjax.data.rows import task_rows
from medjax.evaluation.evaluate import evaluate
from medjax.training.loop import train

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SMALL = {
  "train.steps": 2,
  "train.batch_size": 2,
  "train.row_length": 2048,
  "optimizer.warmup_steps": 0,
  "data.max_prompt": 200,
}
QUESTION = "A 54-year-old man has chest pain. What is best?"


def csv(*rows):
  cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
  return "\n".join(",".join(f'"{cell}"' for cell in line) for line in cells) + "\n"


def jsonl(*rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


def ktas(i):
  row = {"Group": "Local", "Sex": "Male", "Age": 50 + i, "Arrival mode": "Walking", "Injury": "No"}
  row |= {"Chief_complain": f"pain {i}", "Mental": "Alert", "Pain": "Yes", "Systolic BP": 120 + i, "Diastolic BP": 80}
  row |= {"Heart Rate": "??", "Respiratory Rate": 16, "Body Temperature": 36.5, "KTAS_Nurse": "Emergency"}
  row |= {"Diagnosis in ED": "d", "Disposition": "Discharge", "KTAS_expert": ["Emergency", "Non-Emergency"][i % 2]}
  return row | {
    "Error_group": 1,
    "Length of stay_min": 9,
    "KTAS duration_min": 2.0,
    "Mistriage Category": "x",
    "status": "y",
  }


def dialog(i):
  text = f"Doctor: How are you?\nPatient: Fine, {i}."
  return {"ID": i, "section_header": ["GENHX", "ROS"][i % 2], "section_text": f"Well {i}.", "dialogue": text}


def thyroid(i):
  flags = ("on_thyroxine", "on_antithyroid_meds", "thyroid_surgery", "I131_treatment", "pregnant", "sick")
  row = {
    "age": 40 + i,
    "sex": "F",
    **dict.fromkeys(flags, "f"),
    "TSH": 1.0 + i,
    "T3": "",
    "TT4": 99,
    "T4U": 1.0,
    "FTI": 98,
  }
  return row | {"target": ["-", "F", "A", "Q"][i % 4], "patient_id": i}


def ddx(i):
  row = {"AGE": 30 + i, "DIFFERENTIAL_DIAGNOSIS": "[['GERD', 0.5]]", "SEX": "F", "PATHOLOGY": ["GERD", "Anemia"][i % 2]}
  return row | {"EVIDENCES": "['E_1']", "INITIAL_EVIDENCE": "E_1"}


def medmcqa(i):
  row = {"id": f"q{i}", "question": f"{QUESTION} {i}", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": i % 4}
  return row | {"exp": "because", "choice_type": "single"}


def pubmed(i):
  context = {
    "contexts": [f"We studied {i} patients.", "Results were clear."],
    "labels": ["METHODS", "RESULTS"],
    "meshes": [],
  }
  return {
    "pubid": i, "question": f"Does {i} help?", "context": context, "long_answer": "It does.", "final_decision": "yes"
  }  # fmt: skip


def medqa_hub(i):
  options = {"A": "aspirin", "B": "rest", "C": "statin", "D": "surgery"}
  row = {"question": f"{QUESTION} {i}", "answer": "rest", "options": options, "meta_info": "step1", "answer_idx": "B"}
  return row | {"metamap_phrases": ["chest pain"]}


def medqa_copy(i):
  return {"question": f"{QUESTION} {i}\nA) rest\nB) surgery", "answer": "AB"[i % 2], "answer_text": "rest"}


def visit(i):
  return {
    "dataset": "virtassist",
    "encounter_id": f"D{i}",
    "dialogue": f"[doctor] hi {i}",
    "note": f"CHIEF COMPLAINT {i}",
  }


# config, the file or files of the set, how many rows have what is expected of a prompt, an answer it must read
SETS = {
  "triage_emergency_department": ("t.csv", csv(*map(ktas, range(30))), "heart rate not recorded /min", "Emergency"),
  "mts_dialog_sections": (
    "",
    {s: csv(*map(dialog, range(6))) for s in ("train.csv", "validation.csv")},
    "Patient: Fine",
    "ROS",
  ),
  "mts_dialog_summaries": (
    "",
    {s: csv(*map(dialog, range(6))) for s in ("train.csv", "validation.csv")},
    "Section: ROS",
    "Well 1.",
  ),
  "medqa": ("q.jsonl", jsonl(*map(medqa_copy, range(30))), "A) rest", "A"),
  "medmcqa": ("q.jsonl", jsonl(*map(medmcqa, range(30)), medmcqa(30) | {"cop": -1}), "A) a\nB) b", "D"),
  "pubmedqa": ("q.jsonl", jsonl(*map(pubmed, range(30))), "We studied", "It does.\nAnswer: yes"),
  "aci_bench": (
    "",
    {s: csv(*map(visit, range(4))) for s in ("train.csv", "validation.csv", "test.csv")},
    "[doctor] hi",
    "CHIEF COMPLAINT 1",
  ),
  "ddxplus": (
    "",
    {s: csv(*map(ddx, range(4))) for s in ("train.csv", "validate.csv", "test.csv")},
    "33 years old, F.",
    "Anemia",
  ),
  "uci_thyroid": ("t.csv", csv(*map(thyroid, range(120))), "TSH 6.0 mU/L (high)", "hypothyroid"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny.write_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


def write(tmp_path, name, content):
  if isinstance(content, str):
    content = {name: content}
  for file, text in content.items():
    (tmp_path / file).write_text(text, encoding="utf-8")
  return tmp_path / name


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_in_its_published_form_is_read_trained_on_and_evaluated(name, tmp_path, model):
  file, content, shown, answer = SETS[name]
  source = write(tmp_path, file, content)
  changes = SMALL | {"model.path": str(model), "define.max_new_tokens": 4}
  if tasks.kind_of(schema.load(f"{CONFIGS / name}.py:{source}")).kind in (
    "text_classification",
    "numeric_classification",
    "triage",
  ):
    del changes["define.max_new_tokens"]
  config = tasks.settled(schema.load(f"{CONFIGS / name}.py:{source}", changes))
  task = tasks.of(config)
  rows = [row for of_split in task_rows(config, task).values() for row in of_split]
  assert any(shown in task.render(row.fields) for row in rows)
  assert any(task.completion(row.labels) == answer for row in rows)
  later = {*task.after, *task.label_columns}
  assert later and all(not later & set(row.fields) for row in rows)
  if name in soak.some([*SETS], 2):
    assert np.isfinite(train(config, tmp_path / "run").metrics["loss"])
    metrics = evaluate(config, str(tmp_path / "run"), "validation", tmp_path / "eval")
    assert metrics["n"] and metrics["task"] == name


def test_medqa_as_the_hub_has_it(tmp_path):
  source = write(tmp_path, "train.jsonl", jsonl(*map(medqa_hub, range(20))))
  config = tasks.settled(schema.load(f"{CONFIGS}/medqa.py", {"data.source": str(source)}))
  task = tasks.of(config)
  row = task_rows(config, task)["train"][0]
  assert task.render(row.fields).endswith("A) aspirin\nB) rest\nC) statin\nD) surgery") and row.labels == {
    "answer": "B"
  }
