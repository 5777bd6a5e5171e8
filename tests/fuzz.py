"""Feeds what medjax reads with damaged input: configs, rows, predictions, safetensors and GGUF headers.

  python tests/fuzz.py [INPUTS [SEED]]

Whatever comes, a target returns or raises UserError; anything else is a finding. Runs so many inputs in all
(100,000 by default), a target in a process of its own, which may take a gigabyte of memory, and prints what was found.
"""

import collections
import functools
import gzip
import json
import math
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import hypothesis
import hypothesis.strategies as st

from medjax import config as schema
from medjax import tasks
from medjax.config_checks import CHOICES
from medjax.data import items
from medjax.errors import UserError
from medjax.evaluation.judging import read_answers
from medjax.models.gguf import GgufFile
from medjax.models.tensor_files import SafetensorsFile

_MEMORY = 2**30

# ---- Values ---------------------------------------------------------------------------------------------------------

_NUMBERS = st.one_of(
  st.integers(-3, 3),
  st.integers(),
  st.integers(2**31 - 2, 2**31 + 2),
  st.integers(2**63 - 2, 2**64 + 2),
  st.floats(),
)
_TEXTS = st.one_of(
  st.text(max_size=12),
  st.sampled_from(["", " ", "train", "True", "none", "1e400", "nan", "[1, (2", "{'a': 1}", "\ud800", "\0", "\r\n"]),
)
_PLAIN = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
_VALUES = st.recursive(
  _PLAIN,
  lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=4)),
  max_leaves=8,
)


@st.composite
def _damaged(draw, data: bytes) -> bytes:
  """The bytes with a few of them changed, taken out, put in, or cut off."""
  found = bytearray(data)
  for _ in range(max(draw(st.integers(-3, 4)), 0)):
    place = draw(st.integers(0, max(len(found) - 1, 0)))
    match draw(st.integers(0, 4)):
      case 0:
        found[place : place + 1] = bytes([draw(st.integers(0, 255))])
      case 1:
        del found[place : place + draw(st.integers(1, 8))]
      case 2:
        found[place:place] = draw(st.binary(max_size=9))
      case 3:
        found[place : place + 8] = struct.pack("<Q", draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])))
      case _:
        del found[place:]
  return bytes(found)


# ---- Targets: a strategy of inputs each, and what reads them -------------------------------------------------------

_DEFAULTS = schema._flat(schema.base_config())
_KEYS = st.one_of(
  st.sampled_from(["", "train", "mesh", "define.labels", "define.ordinal.a", "data.columns.id", "study.grid.sft"]),
  st.builds("{}{}".format, st.sampled_from(["", "define.", "data.columns.", "study.grid."]), _TEXTS),
)
# Mostly a key that there is, with a value that it may have.
_OVERRIDE = st.one_of(
  st.sampled_from([(key, value) for key, values in CHOICES.items() for value in values]),
  st.sampled_from(list(_DEFAULTS.items())),
  st.tuples(st.sampled_from(list(_DEFAULTS)), st.one_of(st.integers(0, 9), st.integers(0, 9).map(str), _NUMBERS)),
  st.tuples(st.sampled_from(list(_DEFAULTS)), _VALUES),
  st.tuples(_KEYS, _VALUES),
)
_GRIDS = st.dictionaries(
  st.one_of(st.sampled_from(["sft", "dpo", "base", "triage/sft"]), _TEXTS),
  st.lists(st.lists(_OVERRIDE, max_size=2).map(dict), max_size=2),
  max_size=2,
)


@st.composite
def _configs(draw) -> dict:
  found = dict(draw(st.lists(_OVERRIDE, max_size=4)))
  return found | ({"study.grid": draw(_GRIDS)} if draw(st.integers(0, 3)) == 0 else {})


def read_config(overrides: dict) -> None:
  config = schema.with_overrides(_ready(), overrides)
  schema.validate(config)
  schema.validate_data(config)
  again = schema.from_dict(json.loads(json.dumps(schema.as_dict(config))))  # as config.json keeps it
  assert schema.as_dict(again) == schema.as_dict(config), "config.json does not hold the config"
  tasks.settled(config)


@functools.cache
def _ready() -> schema.ml_collections.ConfigDict:
  return schema.with_overrides(schema.base_config(), {"data.source": "rows.jsonl"})


_COLUMNS = st.one_of(
  st.sampled_from(["id", "split", "prompt", "completion", "messages", "text", "chosen", "rejected", "label"]), _TEXTS
)
_MESSAGES = st.lists(
  st.fixed_dictionaries(
    {"role": st.one_of(st.sampled_from(["system", "user", "assistant"]), _VALUES), "content": _VALUES}
  ),
  max_size=3,
)
_SAID = st.text('abc \u00e9\n,"', min_size=1, max_size=8)
_SOUND_ROW = st.one_of(
  st.fixed_dictionaries({"prompt": _SAID, "completion": _SAID, "label": st.booleans()}, optional={"id": _SAID}),
  st.fixed_dictionaries({"prompt": _SAID, "chosen": _SAID, "rejected": _SAID}, optional={"split": st.just("train")}),
)
_ROW = st.dictionaries(_COLUMNS, st.one_of(_TEXTS, _MESSAGES, _VALUES), max_size=6)


@st.composite
def _row_files(draw) -> tuple[str, bytes, str]:
  """(suffix, content, what they are to be) of a file of rows."""
  sound = draw(st.booleans())
  rows = draw(st.lists(_SOUND_ROW if sound else st.one_of(_SOUND_ROW, _ROW, _VALUES), min_size=sound, max_size=4))
  suffix = draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"]))
  if suffix in (".csv", ".tsv"):
    cells = draw(st.lists(st.lists(st.one_of(_COLUMNS, _TEXTS), min_size=1, max_size=5), max_size=5))
    if sound:
      names = ["prompt", "completion", "label"]
      cells = [names, *([str(row.get(name, "b")).strip('\n",') or "a" for name in names] for row in rows)]
    between = draw(st.sampled_from([",", ";", "\t", '","']))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(between.join(row) for row in cells)
  elif suffix == ".json":
    text = json.dumps(rows, ensure_ascii=draw(st.booleans()))
  else:
    text = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
  content = draw(_damaged(text.encode("utf-8", "surrogatepass")))
  if suffix in (".parquet", ".arrow"):
    content = draw(_damaged(_columnar(suffix)))
  if draw(st.integers(0, 5)) == 0 and suffix[1:] in ("jsonl", "json", "csv", "tsv"):
    suffix, content = f"{suffix}.gz", draw(_damaged(gzip.compress(content, 1, mtime=0)))
  return suffix, content, draw(st.sampled_from(["sft", "sigmoid", "kto"]))


@functools.cache
def _columnar(suffix: str) -> bytes:
  """A small file of typed columns."""
  import pyarrow
  import pyarrow.parquet

  columns = {"prompt": ["a", "b"], "completion": [" x", None], "chosen": ["c", "d"], "rejected": ["e", "f"]}
  table = pyarrow.table(columns)
  sink = pyarrow.BufferOutputStream()
  if suffix == ".parquet":
    pyarrow.parquet.write_table(table, sink)
  else:
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
      writer.write_table(table)
  return sink.getvalue().to_pybytes()


def _written(suffix: str, content: bytes) -> pathlib.Path:
  path = _folder() / f"input{suffix}"
  path.write_bytes(content)
  return path


@functools.cache
def _folder() -> pathlib.Path:
  holder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
  _HOLDERS.append(holder)
  return pathlib.Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory] = []


def read_rows(file: tuple[str, bytes, str]) -> None:
  suffix, content, kind = file
  items.training_items(_config_of(_written(suffix, content), kind))


@functools.cache
def _config_of(path: pathlib.Path, kind: str) -> schema.ml_collections.ConfigDict:
  settings = {"data.source": str(path), "preference.pairs": "given"}
  settings |= {"method": "sft"} if kind == "sft" else {"method": "dpo", "preference.loss": kind}
  return schema.with_overrides(schema.base_config(), settings)


_OF_TARGET = st.one_of(st.dictionaries(st.sampled_from(["summary", "a", ""]), _VALUES, max_size=2), _VALUES)
_PREDICTION = st.one_of(
  st.fixed_dictionaries(
    {"id": st.one_of(_SAID, _VALUES), "group": _VALUES, "prediction": _OF_TARGET, "reference": _OF_TARGET},
    optional={"text": _VALUES},
  ),
  st.fixed_dictionaries({"id": _SAID, "prediction": st.just({"a": "b"}), "reference": st.just({"a": "c"})}),
)


@st.composite
def _predictions(draw) -> tuple[bytes, str, bool]:
  """(content, target, whether whole texts are wanted) of a predictions.jsonl."""
  lines = draw(st.lists(_PREDICTION, max_size=3))
  content = "\n".join(json.dumps(line, ensure_ascii=draw(st.booleans())) for line in lines)
  damaged = draw(_damaged(content.encode("utf-8", "surrogatepass")))
  return damaged, draw(st.sampled_from(["", "", "a", "summary"])), draw(st.booleans())


def read_predictions(given: tuple[bytes, str, bool]) -> None:
  content, target, whole = given
  read_answers(_written(".jsonl", content), target, whole)


_SHAPES = st.lists(st.one_of(st.integers(0, 4), _NUMBERS, _VALUES), max_size=4)
_OFFSETS = st.one_of(st.lists(st.integers(0, 64), min_size=2, max_size=2), st.lists(_VALUES, max_size=3))
_DTYPES = st.one_of(st.sampled_from(["F32", "BF16", "F16", "F64", "I8", "F8_E4M3", "BOOL"]), _VALUES)
_ENTRY = st.one_of(
  st.fixed_dictionaries({"dtype": _DTYPES, "shape": _SHAPES, "data_offsets": _OFFSETS}),
  st.dictionaries(_TEXTS, _VALUES, max_size=3),
)


@st.composite
def _safetensors(draw) -> bytes:
  if draw(st.booleans()):
    sizes = draw(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=3))
    header, at = {}, 0
    for number, shape in enumerate(sizes):
      size = 4 * math.prod(shape)
      header[f"t{number}"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
      at += size
  else:
    header, at = draw(st.dictionaries(_TEXTS, _ENTRY, max_size=3)), draw(st.integers(0, 64))
  text = json.dumps(header).encode()
  return draw(_damaged(struct.pack("<Q", len(text)) + text + bytes(at)))


def read_safetensors(content: bytes) -> None:
  file = SafetensorsFile(_written(".safetensors", content))
  for name, shape in file.shapes.items():
    if shape:
      file.read(name, tuple(slice(0, size) for size in shape))


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _string(text: str) -> bytes:
  data = text.encode("utf-8", "surrogatepass")
  return struct.pack("<Q", len(data)) + data


@st.composite
def _gguf_value(draw) -> bytes:
  kind = draw(st.sampled_from([*_SCALARS, 8, 9]))
  if kind == 8:
    return struct.pack("<I", 8) + _string(draw(_TEXTS))
  if kind == 9:
    inner = draw(st.sampled_from([0, 4, 8]))
    count = draw(st.integers(0, 3))
    body = b"".join(_string("a") if inner == 8 else struct.pack(f"<{_SCALARS[inner]}", 1) for _ in range(count))
    return struct.pack("<IIQ", 9, inner, count) + body
  return struct.pack("<I", kind) + struct.pack(f"<{_SCALARS[kind]}", draw(st.integers(0, 1)))


@st.composite
def _gguf(draw) -> bytes:
  names = st.one_of(st.sampled_from(["general.alignment", "split.count", "general.architecture"]), _TEXTS)
  values = draw(st.lists(st.tuples(names, _gguf_value()), max_size=3))
  tensors, at = b"", 0
  count = draw(st.integers(0, 3))
  for number in range(count):
    shape = draw(st.lists(st.integers(0, 40), max_size=4))
    kind = draw(st.integers(0, 40))
    tensors += _string(f"t{number}") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
    at += 32 * draw(st.integers(0, 6))
  header = b"GGUF" + struct.pack("<IQQ", 3, count, len(values))
  return draw(_damaged(header + b"".join(_string(name) + value for name, value in values) + tensors + bytes(at + 64)))


def read_gguf(content: bytes) -> None:
  file = GgufFile(_written(".gguf", content))
  for name, shape in file.shapes.items():
    if math.prod(shape) < 10**6:
      file.read(name, tuple(slice(0, size) for size in shape))


TARGETS = {
  "config": (_configs(), read_config),
  "rows": (_row_files(), read_rows),
  "predictions": (_predictions(), read_predictions),
  "safetensors": (_safetensors(), read_safetensors),
  "gguf": (_gguf(), read_gguf),
}


def check(target: str, given) -> None:
  """AssertionError where the target neither returns nor raises a UserError with a reason."""
  try:
    TARGETS[target][1](given)
  except UserError as error:
    assert str(error).strip(), "no reason is given"


# ---- As a program --------------------------------------------------------------------------------------------------


def run_target(target: str, inputs: int, seed: int) -> None:
  """Prints, as JSON, the findings of one target: how often, and where the exception came from."""
  with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
  found: dict[str, list] = collections.defaultdict(list)
  outcomes = collections.Counter()

  @hypothesis.seed(seed)
  @hypothesis.settings(
    max_examples=inputs,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(TARGETS[target][0])
  def one(given):
    try:
      TARGETS[target][1](given)
      outcomes["read"] += 1
    except UserError:
      outcomes["refused"] += 1
    except Exception as error:
      frame = traceback.extract_tb(error.__traceback__)[-1]
      where = f"{type(error).__name__} at {pathlib.Path(frame.filename).name}:{frame.lineno}"
      if len(found[where]) < 2:
        found[where].append(f"{str(error)[:200]} <- {given!r}"[:1500])
      outcomes["other"] += 1

  began = time.monotonic()
  one()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
  told = {"target": target, **outcomes, "seconds": round(time.monotonic() - began), "peak_mb": peak, "found": found}
  print(json.dumps(told))


def main(words: list[str]) -> int:
  if words and words[0] in TARGETS:
    run_target(words[0], int(words[1]), int(words[2]))
    return 0
  inputs, seed = int(words[0]) if words else 100_000, words[1] if len(words) > 1 else "0"
  bad = 0
  for target in TARGETS:
    command = [sys.executable, __file__, target, str(-(-inputs // len(TARGETS))), seed]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    found = told.pop("found")
    print(told, flush=True)
    for where, examples in found.items():
      bad += 1
      print(f"  {where}", *examples, sep="\n    ", flush=True)
  return int(bad > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
