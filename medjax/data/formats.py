"""Files of rows, kind by kind -> numbered rows as JSON knows them, read a piece at a time."""

import csv
import datetime
import decimal
import itertools
import json
import math
import pathlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from medjax.data.text_files import LONGEST, blocks, lines
from medjax.errors import UserError

Values = dict[str, Any]  # column -> value
Numbered = Iterator[tuple[int, Values]]

_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_COLUMNAR = (".parquet", ".arrow")
KINDS = f"{', '.join(_TEXT)} (also with .gz), {', '.join(_COLUMNAR)}"
_BATCH = 1024  # rows of a columnar file that are turned into Python at once
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_SPACES = re.compile(r"[ \t\r\n]*")


def kind(path: pathlib.Path) -> str:
  """The suffix that says how a file is read, in lower case and without .gz; empty where medjax cannot read it."""
  name = path.name.lower()
  suffix = pathlib.PurePath(name.removesuffix(".gz")).suffix
  return suffix if suffix in (_TEXT if name.endswith(".gz") else (*_TEXT, *_COLUMNAR)) else ""


def stem(path: pathlib.Path) -> str:
  """The name of a file without the suffix of its kind, in lower case."""
  return path.name.lower().removesuffix(".gz").removesuffix(kind(path))


def read_file(path: pathlib.Path) -> tuple[str, Numbered]:
  """The rows of a file, read as they are asked for.

  Returns:
    What its rows are counted in (`line`, that a row starts on, or `row`, from 1), and number and values of each row.
    An empty CSV cell is None, other CSV cells are text; of NaN comes None.

  Raises:
    UserError: a file of another kind, at once, or one that cannot be read, as far as it was read; names file and line.
  """
  suffix = kind(path)
  if not suffix:
    raise UserError(f"{path} ends in {path.suffix or 'nothing'}; medjax reads {KINDS}")
  if suffix in (".csv", ".tsv"):
    return "line", _csv(path, "\t" if suffix == ".tsv" else "")
  if suffix in _COLUMNAR:
    return "row", _columnar(path, _parquet_batches if suffix == ".parquet" else _arrow_batches)
  if suffix == ".json" and _first_character(path) == "[":
    return "row", _json_list(path)
  return "line", _jsonl(path, "" if suffix != ".json" else "; a .json file is a list of objects, or one object a line")


def plain(value: Any) -> Any:
  """Values of typed columns as JSON knows them: None for NaN and for bytes that are no text, dates in ISO form."""
  if isinstance(value, str | int | None):
    return value
  if isinstance(value, Mapping):
    return {name: plain(inner) for name, inner in value.items()}
  if isinstance(value, list | tuple):
    return [plain(inner) for inner in value]
  if isinstance(value, float):
    return None if math.isnan(value) else value
  if isinstance(value, decimal.Decimal):
    return float(value)
  if isinstance(value, bytes):
    return _decoded(value)
  if isinstance(value, datetime.timedelta):
    return value.total_seconds()
  if isinstance(value, uuid.UUID):
    return str(value)
  return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _decoded(value: bytes) -> str | None:
  try:
    return value.decode()
  except UnicodeDecodeError:
    return None


# --- JSON ---


class _Unusable(ValueError):
  """A number that JSON can write down and no column may hold."""


def _constant(name: str) -> None:
  if name != "NaN":
    raise _Unusable
  return None


def _finite(text: str) -> float:
  value = float(text)
  if math.isinf(value):
    raise _Unusable
  return value


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_finite)


def _refusal(error: Exception, where: str, place: str, hint: str = "") -> UserError:
  """Says why text is not JSON that can be used, without a word of it."""
  if isinstance(error, json.JSONDecodeError):
    return UserError(f"{where}: not JSON ({error.msg} at {place}){hint}")
  if isinstance(error, RecursionError):
    return UserError(f"{where}: lists or objects too deep in one another")
  return UserError(f"{where}: an infinite number, or one of thousands of digits; write null or a finite number")


def _row(values: Any, text: str, where: str) -> Values:
  """The values of a row that was read from `text`; UserError where they are no object or no text can hold them."""
  if not isinstance(values, dict):
    raise UserError(f"{where}: {type(values).__name__} instead of a JSON object with named columns")
  if _HALF_PAIR.search(text):
    try:
      json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
      raise UserError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff alone), which is no character") from None
  return values


def _jsonl(path: pathlib.Path, hint: str) -> Numbered:
  for number, line in enumerate(lines(path), 1):
    if line.isspace():
      continue
    where = f"{path} line {number}"
    try:
      values = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
      raise _refusal(error, where, f"column {getattr(error, 'colno', 1)}", hint) from None
    yield number, _row(values, line, where)


def _first_character(path: pathlib.Path) -> str:
  return next((block.lstrip()[0] for block in blocks(path) if not block.isspace()), "")


def _json_list(path: pathlib.Path) -> Numbered:
  """The objects of a list, of which no more than one and a block of text are in memory."""
  text = _Window(blocks(path))
  text.take()  # the bracket
  for number in itertools.count(1):
    where = f"{path} row {number}"
    if number == 1 and text.next() == "]":
      text.take()
      break
    if text.next() != "{":
      raise UserError(f"{where}: no JSON object with named columns where one should start")
    yield number, text.object(where)
    after = text.take()
    if after == "]":
      break
    if after != ",":
      raise UserError(f"{where}: {'something else' if after else 'the end of the file'} behind it, not , or ]")
  if text.next():
    raise UserError(f"{path}: more text behind its list; keep one list of objects")


class _Window:
  """Text that is read on as it is used, and forgotten behind."""

  def __init__(self, more: Iterator[str]):
    self._more, self._text, self._at, self._ended = more, "", 0, False

  def _read_on(self, wanted: int) -> None:
    pieces, length = [self._text[self._at :]], len(self._text) - self._at
    while length < wanted and not self._ended:
      pieces.append(next(self._more, ""))
      self._ended = not pieces[-1]
      length += len(pieces[-1])
    self._text, self._at = "".join(pieces), 0

  def next(self) -> str:
    """The next character that is no space; empty at the end."""
    while True:
      self._at = _SPACES.match(self._text, self._at).end()
      if self._at < len(self._text) or self._ended:
        return self._text[self._at : self._at + 1]
      self._read_on(1)

  def take(self) -> str:
    """The same, and goes behind it."""
    character = self.next()
    self._at += len(character)
    return character

  def object(self, where: str) -> Values:
    """The object that comes next: where it is not whole, more is read, twice as much each time."""
    while True:
      length = len(self._text) - self._at
      try:
        values, end = _DECODER.raw_decode(self._text, self._at)
      except (ValueError, RecursionError) as error:
        cut_off = isinstance(error, json.JSONDecodeError) and not self._ended
        if cut_off and length <= LONGEST:
          self._read_on(2 * length)
          continue
        place = f"character {getattr(error, 'pos', self._at) - self._at + 1} of it"
        hint = f", or an object of more than {LONGEST} characters" if cut_off else ""
        raise _refusal(error, where, place, hint) from None
      start, self._at = self._at, end
      return _row(values, self._text[start:end], where)


# --- CSV and TSV ---


def _csv(path: pathlib.Path, delimiter: str) -> Numbered:
  """Rows of a table; `delimiter` is empty where its header tells. Rows without a filled cell are none."""
  csv.field_size_limit(LONGEST)
  text = lines(path)
  before, first = 0, ""
  for first in text:
    said = re.fullmatch(r"sep=(.)\s*", first)  # as Excel says it
    if said:
      delimiter = said[1]
    elif not first.isspace():
      break
    before += 1
  delimiter = delimiter or _delimiter(first)
  reader = csv.reader(itertools.chain([first], text), strict=True, delimiter=delimiter)
  header: list[str] = []
  for line, cells in _numbered(reader, path, before):
    if not any(cells) or all(not cell or cell.isspace() for cell in cells):
      continue
    if not header:
      header = _header(cells, f"{path} line {line}")
      continue
    if len(cells) != len(header):
      named = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(delimiter, f"the delimiter {delimiter}")
      raise UserError(f"{path} line {line}: {len(cells)} cells under {len(header)} columns; quote cells with {named}")
    values = {name: None if not cell or cell.isspace() else cell for name, cell in zip(header, cells, strict=True)}
    if "" in values:
      del values[""]
      _check_nameless(header, cells, f"{path} line {line}")
    yield line, values


def _numbered(reader: Any, path: pathlib.Path, before: int) -> Iterator[tuple[int, list[str]]]:
  """The rows of a `csv.reader` and the lines that they start on; `before` lines were read ahead of it."""
  line = before + 1
  try:
    for cells in reader:
      yield line, cells
      line = before + reader.line_num + 1
  except csv.Error as error:
    what = str(error).partition(" - ")[0]
    raise UserError(f"{path} line {line}: {what}; check its quotes") from None


def _delimiter(header: str) -> str:
  bare = re.sub('"[^"]*"', "", header)
  semicolons, tabs = bare.count(";"), bare.count("\t")
  if "," in bare or not semicolons + tabs:
    return ","
  return ";" if semicolons >= tabs else "\t"


def _header(cells: Sequence[str], where: str) -> list[str]:
  header = [cell.strip() for cell in cells]
  repeated = sorted({name for name in header if name and header.count(name) > 1})
  if repeated:
    raise UserError(f"{where}: column {repeated[0]!r} appears twice; rename one")
  return header


def _check_nameless(header: Sequence[str], cells: Sequence[str], where: str) -> None:
  """A column without a name may be empty, or be first and count the rows, as pandas writes its index."""
  for place, (name, cell) in enumerate(zip(header, cells, strict=True), 1):
    if not name and cell.strip() and not (place == 1 and cell.strip().isdecimal()):
      raise UserError(f"{where}: a cell in column {place}, which has no name in the header; name the column")


# --- Parquet and Arrow ---


def _columnar(path: pathlib.Path, batches: Callable[[pathlib.Path], Iterator[Any]]) -> Numbered:
  import pyarrow

  number = 0
  try:
    for batch in batches(path):
      names = batch.schema.names
      repeated = sorted({name for name in names if names.count(name) > 1})
      if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} appears twice; rename one")
      for start in range(0, batch.num_rows, _BATCH):
        piece = batch.slice(start, _BATCH)
        columns = [_python(column, f"{path}: column {name!r}") for name, column in zip(names, piece, strict=True)]
        for row in range(piece.num_rows):
          number += 1
          yield number, {name: plain(column[row]) for name, column in zip(names, columns, strict=True)}
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path} is not a readable {kind(path)[1:]} file: {_reason(error)}") from None
  except UnicodeDecodeError:
    raise UserError(f"{path} has a column whose name is not UTF-8; write the file again with names in UTF-8") from None


def _python(column: Any, where: str) -> list[Any]:
  try:
    return column.to_pylist()
  except UnicodeDecodeError:
    raise UserError(f"{where} holds text that is not UTF-8; write the file again with text in UTF-8") from None


def _reason(error: Exception) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _parquet_batches(path: pathlib.Path) -> Iterator[Any]:
  import pyarrow.parquet

  with pyarrow.parquet.ParquetFile(path) as file:
    yield from file.iter_batches(batch_size=_BATCH)


def _arrow_batches(path: pathlib.Path) -> Iterator[Any]:
  import pyarrow

  with pyarrow.memory_map(str(path)) as file:
    if file.read(6) == b"ARROW1":
      reader = pyarrow.ipc.open_file(file)
      batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
      file.seek(0)
      batches = pyarrow.ipc.open_stream(file)
    for batch in batches:
      batch.validate(full=True)  # or a damaged file's offsets would lead anywhere in memory
      yield batch
