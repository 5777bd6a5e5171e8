"""Files and hub data sets -> records that know where they come from."""

import csv
import dataclasses
import datetime
import decimal
import difflib
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medjax.errors import UserError

SUFFIXES = (".jsonl", ".csv", ".parquet")
SPLIT_NAMES = {
  **{"train": "train", "training": "train", "test": "test"},
  **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
}


@dataclasses.dataclass(frozen=True)
class Record:
  """One row as it was found.

  Attributes:
    values: column -> value; an empty CSV cell is None, other CSV cells are text.
    where: file and line (or row), for messages.
    id: file name and line (or row), unique in the source.
    split: `train`, `validation` or `test` where the source says so, else empty.
  """

  values: Mapping[str, Any]
  where: str
  id: str
  split: str = ""

  def column(self, name: str, field: str = "") -> Any:
    """The value of a column; UserError with the columns there are where it is missing."""
    if name in self.values:
      return self.values[name]
    near = difflib.get_close_matches(name, [str(column) for column in self.values], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(
      f"{self.where}: no column {name!r}{hint} (columns: {', '.join(map(str, self.values))}); "
      f"name the right one with --config.data.columns.{field or name}=COLUMN"
    )


def read_records(source: str | os.PathLike) -> list[Record]:
  """Reads a data file, a directory with one file a split, or a hub data set.

  Args:
    source: a `.jsonl`, `.csv` or `.parquet` file; a directory with `train`, `validation` and `test` files (any of
      them) of these kinds; or a hub id `owner/name`, also `owner/name:configuration`.

  Returns:
    Records in the order of the file; those of a directory or a hub data set carry their split.

  Raises:
    UserError: the source is missing, empty or unreadable; names the file and the line.
  """
  path = pathlib.Path(source)
  if path.is_dir():
    return _read_directory(path)
  if path.is_file():
    return _read_file(path, "")
  if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", str(source)) and path.suffix not in SUFFIXES:
    return _read_hub(str(source))
  siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
  near = difflib.get_close_matches(str(path), siblings, 1)
  raise UserError(f"data source {source} does not exist" + (f"; did you mean {near[0]}?" if near else ""))


def split_name(name: Any, where: str) -> str:
  """The split that a name stands for; UserError where it stands for none."""
  split = SPLIT_NAMES.get(str(name).strip().lower())
  if split is None:
    raise UserError(f"{where}: split is {name!r}, not one of train, validation, test")
  return split


def _read_directory(path: pathlib.Path) -> list[Record]:
  found: dict[str, pathlib.Path] = {}
  for file in sorted(path.iterdir()):
    split = SPLIT_NAMES.get(file.stem.lower())
    if split and file.suffix.lower() in SUFFIXES:
      if split in found:
        raise UserError(f"{path}: {found[split].name} and {file.name} are both {split} data; keep one")
      found[split] = file
  if not found:
    raise UserError(f"{path} holds no train, validation or test file ending in {', '.join(SUFFIXES)}")
  return [record for split, file in found.items() for record in _read_file(file, split)]


def _read_file(path: pathlib.Path, split: str) -> list[Record]:
  readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
  reader = readers.get(path.suffix.lower())
  if reader is None:
    raise UserError(f"{path} ends in {path.suffix or 'nothing'}; medjax reads {', '.join(SUFFIXES)}")
  unit = "row" if reader is _parquet else "line"
  records = [
    Record(values, f"{path} {unit} {number}", f"{path.name}:{number}", split) for number, values in reader(path)
  ]
  if not records:
    raise UserError(f"{path} has no rows")
  return records


def read_text(path: str | os.PathLike) -> str:
  """The text of a UTF-8 file, with or without a byte order mark; UserError names the line of the first other byte."""
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{path} line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file, for example from Latin-1 "
      f"with: iconv -f latin1 -t utf-8 {path} > converted{pathlib.Path(path).suffix}"
    ) from None


def _jsonl(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in enumerate(read_text(path).split("\n"), 1):
    if not line.strip():
      continue
    try:
      values = json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(f"{path} line {number}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(values, dict):
      raise UserError(f"{path} line {number}: {type(values).__name__} instead of a JSON object with named columns")
    yield number, values


def _csv(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  text = read_text(path)
  csv.field_size_limit(max(len(text), 1))
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  header: list[str] = []
  line = 1
  while True:
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise UserError(f"{path} line {line}: {error}; check its quotes") from None
    start, line = line, reader.line_num + 1
    if not cells:
      continue
    if not header:
      header = [name.strip() for name in cells]
      repeated = sorted({name for name in header if header.count(name) > 1})
      if repeated:
        raise UserError(f"{path} line {start}: column {repeated[0]!r} appears twice; rename one")
      continue
    if len(cells) != len(header):
      raise UserError(f"{path} line {start}: {len(cells)} cells under {len(header)} columns; quote cells with commas")
    yield start, {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  import pyarrow
  import pyarrow.parquet

  try:
    rows = pyarrow.parquet.read_table(path).to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path} is not a readable parquet file: {_first_line(error)}") from None
  yield from ((number, _plain(row)) for number, row in enumerate(rows, 1))


def _read_hub(source: str) -> list[Record]:
  import datasets

  name, _, configuration = source.partition(":")
  try:
    splits = datasets.load_dataset(name, configuration or None)
  except Exception as error:  # noqa: BLE001 (the hub fails in many ways, all of them the source's)
    raise UserError(
      f"data source {source} is no local file, and the hub refused it: {_first_line(error)}; check the name, "
      "the network and HF_TOKEN"
    ) from error
  return [
    Record(_plain(row), f"{source} {split} row {number}", f"{split}:{number}", split_name(split, source))
    for split, rows in splits.items()
    for number, row in enumerate(rows, 1)
  ]


def _plain(value: Any) -> Any:
  """Values of typed columns as JSON knows them; NaN is None, dates are ISO text."""
  if isinstance(value, Mapping):
    return {name: _plain(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(inner) for inner in value]
  if isinstance(value, float) and math.isnan(value):
    return None
  if isinstance(value, decimal.Decimal):
    return float(value)
  return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
