"""Files of rows: what is read back, and what is refused, in bounded memory and without a word of the rows."""

import csv
import datetime
import gzip
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.data import formats, sources, text_files
from medjax.errors import UserError

SECRET = "Jane Roe"
LONG_LINES = (b"x" * 99 + b"\n") * 20_000  # of several blocks
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def values(path):
  return [dict(record.values) for record in sources.read_records(path)]


def ids(path):
  return [record.id.rpartition(":")[2] for record in sources.read_records(path)]


def seen(cell):
  """A cell as medjax reads it: one of spaces alone is empty."""
  return cell if cell.strip() else None


@settings(max_examples=150, deadline=None)
@given(
  rows=st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width), min_size=1)),
  end=st.sampled_from(["\n", "\r\n", "\r"]),
  quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
  kind=st.sampled_from([(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t"), (".csv.gz", ",")]),
  mark=st.booleans(),
)
def test_any_table_of_csv_writer_is_read_back(rows, end, quoting, kind, mark):
  suffix, delimiter = kind
  header = [f"c{i}" for i in range(len(rows[0]))]
  delimiter = delimiter if len(header) > 1 or suffix == ".tsv" else ","
  text = io.StringIO(newline="")
  if any("\n" in cell or "\r" in cell for row in rows for cell in row):
    quoting = csv.QUOTE_ALL  # the writer quotes no line end that is not its own
  csv.writer(text, lineterminator=end, quoting=quoting, delimiter=delimiter).writerows([header, *rows])
  content = text.getvalue().encode("utf-8-sig" if mark else "utf-8")
  expected = [dict(zip(header, map(seen, row), strict=True)) for row in rows if any(map(seen, row))]
  with tempfile.TemporaryDirectory() as folder:
    path = write(
      pathlib.Path(folder) / f"a{suffix}", gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content
    )
    assert [found for _, found in formats.read_file(path)[1]] == expected


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
  max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
  rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=5),
  ascii_only=st.booleans(),
  indent=st.sampled_from([None, 1]),
  end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_objects_of_json_are_read_back(rows, ascii_only, indent, end):
  lines = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + end
  whole = json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
  with tempfile.TemporaryDirectory() as folder:
    for name, content in [("a.jsonl", lines), ("a.ndjson", lines), ("b.json", lines), ("a.json", whole)]:
      path = write(pathlib.Path(folder) / name, content)
      assert [found for _, found in formats.read_file(path)[1]] == rows, name


def test_a_list_in_json_may_be_larger_than_a_block_and_so_may_its_objects(tmp_path):
  rows = [{"n": i, "text": "x" * (5 * text_files._BLOCK if i == 2 else 300_000)} for i in range(8)]
  path = write(tmp_path / "a.json", json.dumps(rows))
  assert values(path) == rows and ids(path) == [str(i) for i in range(1, 9)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_numbered_by_the_line_that_they_start_on(tmp_path, end):
  text = f'{end}a,b{end}"one{end}two",1{end}{end}three,2{end} ,{end}four,4{end}{end}{end}'
  assert ids(write(tmp_path / "a.csv", text)) == ["3", "6", "8"]
  assert ids(write(tmp_path / "a.jsonl", f'{end}{{"a": 1}}{end} {end}{{"a": 2}}')) == ["2", "4"]


@pytest.mark.parametrize(
  "text",
  ["a;b\n1,5;x\n", "a\tb\n1,5\tx\n", 'sep=;\n"a, b";b\n1,5;x\n', '"a, or b";b\n1,5;x\n', "sep=|\na|b\n1,5|x\n"],
)
def test_the_header_of_a_csv_tells_its_delimiter(tmp_path, text):
  assert [list(row.values()) for row in values(write(tmp_path / "a.csv", text))] == [["1,5", "x"]]


def test_nameless_columns_are_left_out_where_they_are_empty_or_an_index(tmp_path):
  assert values(write(tmp_path / "a.csv", ",text,,\n0,one,,\n1,two,, \n")) == [{"text": "one"}, {"text": "two"}]
  for row in ("0,one,x,", f"{SECRET},one,,"):
    with pytest.raises(UserError, match=r"line 2: a cell in column \d, which has no name") as error:
      values(write(tmp_path / "b.csv", f",text,,\n{row}\n"))
    assert SECRET not in str(error.value)


def test_numbers_that_are_none_are_none_and_types_stay_as_they_are_row_by_row(tmp_path):
  path = write(tmp_path / "a.jsonl", '{"a": NaN}\n{"a": 1}\n{"a": "1"}\n{"a": [NaN, 1.5]}\n')
  assert values(path) == [{"a": None}, {"a": 1}, {"a": "1"}, {"a": [None, 1.5]}]


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_columnar_files_give_plain_values(tmp_path, kind):
  day, took = datetime.date(2020, 1, 2), datetime.timedelta(seconds=90)
  rows = [{"x": float("nan"), "day": day, "took": took, "note": b"caf\xc3\xa9"}] * 1500
  rows.append({"x": 1.5, "day": None, "took": None, "note": b"\xff\x00"})
  table = pyarrow.Table.from_pylist(rows)
  if kind == "parquet":
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=1000)
  else:
    path = tmp_path / "a.arrow"
    new = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with new(str(path), table.schema) as writer:
      writer.write_table(table)
  found = values(path)
  assert found[0] == {"x": None, "day": "2020-01-02", "took": 90.0, "note": "café"}
  assert found[1500] == {"x": 1.5, "day": None, "took": None, "note": None} and len(found) == 1501
  assert ids(path)[-1] == "1501"


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.csv", f"a,b\n1,{SECRET}\n".encode("utf-16"), r"a.csv is UTF-16 text; convert .* iconv -f utf-16 "),
    ("a.jsonl", f'{{"a": "{SECRET}"}}'.encode("utf-16-le"), r"a.jsonl line 1: a NUL byte.*UTF-16"),
    ("a.csv", f"a\r{SECRET}\rx\0y\r", r"a.csv line 3: a NUL byte"),
    ("a.json", f'[\n{{"a": "{SECRET}"}},\n"\0"]', r"a.json line 3: a NUL byte"),
    ("a.csv", b"a\r" + LONG_LINES.replace(b"\n", b"\r") + b"\xe8\r", r"a.csv line 20002: byte 0xe8 is not UTF-8"),
    ("a.csv", b"a\r\n" + LONG_LINES + b"\xe2\x82", r"a.csv line 20002: byte 0xe2 is not UTF-8"),
    (
      "a b.csv.gz",
      gzip.compress(b"a\n\xe8\n", mtime=0),
      r"line 2: byte 0xe8 .* gzip -dc '.*a b.csv.gz' \| iconv .* converted.csv",
    ),
    (
      "a.csv.gz",
      gzip.compress(b"a\n" + bytes(range(32, 127)) * 999, mtime=0)[:-20],
      "a.csv.gz is gzipped and damaged or cut",
    ),
    ("a.csv", b"PK\x03\x04 and so on", "a.csv is a zip archive or an Excel workbook; save its sheet as CSV"),
    ("a.parquet.gz", b"", "a.parquet.gz ends in .gz; medjax reads"),
    ("a.csv", "a,b\nx\ry,1\n", "a.csv line 2: new-line character seen in unquoted field; check its quotes"),
    ("a.tsv", f"a\tb\n1\t{SECRET}\t3\n", "a.tsv line 2: 3 cells under 2 columns; quote cells with tabs"),
    ("a.csv", f'a,b\n1,2\n1,"{SECRET}"x\n', "a.csv line 3: .*check its quotes"),
    ("a.csv", f'a,b\n1,2\n1,"{SECRET}\n' + "x,y\n" * 2**22, r"a.csv line 3: field larger than .*check its quotes"),
    ("a.jsonl", f'{{"a": 1}}\n{{"a": Infinity, "b": "{SECRET}"}}', "a.jsonl line 2: an infinite number"),
    ("a.jsonl", '{"a": 1}\n{"a": -1e999}', "a.jsonl line 2: an infinite number"),
    ("a.jsonl", f'{{"a": {"1" * 5000}}}', "a.jsonl line 1: .*thousands of digits"),
    ("a.jsonl", '{"a": ' + "[" * 100_000, "a.jsonl line 1: lists or objects too deep"),
    ("a.jsonl", '{"a": "\\ud83d\\ude00"}\n{"a": "\\ud83d"}', "a.jsonl line 2: half of a surrogate pair"),
    ("a.jsonl", f'{{"a": "{SECRET}" "b"}}', r"a.jsonl line 1: not JSON \(.* at column 18\)"),
    ("a.json", f'[{{"a": 1}}, {{"b": "{SECRET}", }}]', r"a.json row 2: not JSON \(.* at character \d+ of it\)"),
    ("a.json", f'[{{"a": 1}}, "{SECRET}"]', "a.json row 2: no JSON object with named columns where one should start"),
    ("a.json", f'[{{"a": 1}} "{SECRET}"]', "a.json row 1: something else behind it, not , or ]"),
    ("a.json", '[{"a": 1}', "a.json row 1: the end of the file behind it"),
    ("a.json", '[{"a": 1}, {"a": -Infinity}]', "a.json row 2: an infinite number"),
    ("a.json", '[{"a": 1}]\n[{"a": 1}]', "a.json: more text behind its list"),
    (
      "a.json",
      f'{{"rows":\n "{SECRET}"}}',
      "a.json line 1: not JSON .*; a .json file is a list of objects, or",
    ),
    ("a.json", "[]", "a.json has no rows"),
    ("a.json", " ", "a.json has no rows"),
    ("a.csv", "sep=;\n", "a.csv has no rows"),
    ("a.arrow", b"ARROW1 but not really", "a.arrow is not a readable arrow file"),
    ("a.arrow", b"", "a.arrow is not a readable arrow file"),
  ],
)
def test_what_cannot_be_read_is_refused_with_its_place_and_no_word_of_it(tmp_path, name, content, message):
  with pytest.raises(UserError, match=message) as error:
    sources.read_records(write(tmp_path / name, content))
  assert "\n" not in str(error.value) and SECRET not in str(error.value)


def test_a_column_of_a_columnar_file_must_be_text_and_named_once(tmp_path):
  text = pyarrow.array([b"fi\xe8vre"], pyarrow.binary()).view(pyarrow.string())
  for table, message in [
    (pyarrow.table({"note": text}), "a.parquet: column 'note' holds text that is not UTF-8"),
    (pyarrow.table([[1], [2]], names=["a", "a"]), "a.parquet: column 'a' appears twice"),
  ]:
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
      values(tmp_path / "a.parquet")


READ = """
import pathlib, re, sys
from medjax.data import sources
from medjax.errors import UserError

def peak():  # of this process alone: what `resource` says starts with its parent's
  return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

before = peak()
try:
  sources.read_records(sys.argv[1])
except UserError as error:
  print(peak() - before, error)
"""


@pytest.mark.parametrize(
  ("name", "start", "piece", "message"),
  [
    ("a.csv", 'a,b\n1,"', "x", "a.csv line 2: longer than"),
    ("a.csv", 'a,b\n1,"', "x\n", "a.csv line 2: field larger than"),
    ("a.jsonl", '{"a": "', "x", "a.jsonl line 1: longer than"),
    ("a.json", '[{"a": "', "x", "a.json row 1: not JSON .*, or an object of more than"),
  ],
)
def test_what_has_no_end_for_200_mb_is_refused_in_less_memory_than_half_of_it(tmp_path, name, start, piece, message):
  with open(tmp_path / name, "w") as file:
    file.write(start)
    for _ in range(200):
      file.write(piece * (2**20 // len(piece)))
  done = subprocess.run([sys.executable, "-c", READ, tmp_path / name], capture_output=True, text=True, check=True)
  (tmp_path / name).unlink()
  kilobytes, said = done.stdout.split(" ", 1)
  assert re.search(message, said)
  assert int(kilobytes) < 100 * 1024


def test_records_of_short_rows_are_small(tmp_path):
  count = 50_000
  path = write(tmp_path / "a.csv", "id,sex\n" + "".join(f"{i},f\n" for i in range(count)))
  read = "import sys, tracemalloc; from medjax.data import sources; tracemalloc.start()\n"
  read += "records = sources.read_records(sys.argv[1]); print(tracemalloc.get_traced_memory()[0] // len(records))"
  done = subprocess.run([sys.executable, "-c", read, path], capture_output=True, text=True, check=True)
  assert int(done.stdout) < 450, "bytes a row: a dict, a number and two short texts"
