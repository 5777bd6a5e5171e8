"""Files, directories and hub data sets -> records that know where they come from."""

import collections
import dataclasses
import difflib
import glob
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medjax.data import formats, hub
from medjax.errors import UserError

SPLIT_NAMES = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "validate", "val", "valid", "dev", "development"), "validation"),
  **dict.fromkeys(("test", "testing"), "test"),
}
_SHARD = re.compile(r"(?P<split>[a-z]+)(?P<rest>[-_.].+)?")  # train, train-00000-of-00002, train_a
_COUNTED = re.compile(r"[-_.](\d+)-of-(\d+)")


class Origin(NamedTuple):
  """A file or a split that records are counted in: `place` for messages, `name` for ids."""

  place: str
  name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """One row as it was found.

  Attributes:
    values: column -> value; an empty CSV cell is None, other CSV cells are text.
    origin: what the row was read from.
    number: its line or row there.
    split: `train`, `validation` or `test` where the source says so, else empty.
  """

  values: Mapping[str, Any]
  origin: Origin
  number: int
  split: str = ""

  @property
  def where(self) -> str:
    """File and line (or row), for messages."""
    return f"{self.origin.place} {self.number}"

  @property
  def id(self) -> str:
    """File name and line (or row), unique in the source."""
    return f"{self.origin.name}:{self.number}"

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


def read_records(source: str | os.PathLike, rows: Mapping[str, int] | None = None) -> list[Record]:
  """Reads data files, a directory with files for each split, or a hub data set.

  Args:
    source: one of
      a `.jsonl` (`.ndjson`), `.json`, `.csv`, `.tsv`, `.parquet` or `.arrow` file, those of text also gzipped (`.gz`);
      several files, as a pattern (`notes-*.csv`) or a list with commas;
      a directory with `train`, `validation` and `test` files (any of them), each one file or several
      (`train-00000-of-00002.parquet`);
      a directory that `save_to_disk` of `datasets` wrote;
      a hub id `hf:owner/name[:configuration][@revision]`; nothing else asks the network.
      With `#split` behind it, a hub id or a directory gives that split only, of a hub id also a slice such as
      `#train[:1000]`.
    rows: the first so many rows of each split are read, all where it is 0 or not named. A hub data set is streamed
      then, not downloaded whole. Says nothing of rows without a split, and of `#split`.

  Returns:
    Records in the order of the source. Those of a directory or a hub data set carry their split, and so do those of
    several files that are named for more than one split. With `#split` they carry none, so that all of the splits
    can be made out of one.

  Raises:
    UserError: the source is missing, empty or unreadable; names the file and the line.
  """
  text = os.path.expanduser(source)
  path = pathlib.Path(text)
  if path.is_dir():
    return _directory(path, "", rows)
  if path.is_file():
    return _read_files([(path, "")], rows)
  before, _, split = text.rpartition("#")
  if before and pathlib.Path(before).is_dir():
    return _directory(pathlib.Path(before), split, rows)
  if before and pathlib.Path(before).is_file():
    raise UserError(f"{text}: a file has no splits to take one of; leave out #{split}")
  id_ = hub.parse(text)
  if id_:
    return _by_split(hub.from_hub(id_, streamed=bool(rows) and not id_["split"]), text, rows)
  if "," in text or glob.has_magic(text):
    return _read_files(_several(text), rows)
  raise _missing(path)


def split_name(name: Any, where: str) -> str:
  """The split that a name stands for; UserError, which does not repeat it, where it stands for none."""
  name = str(name).strip().lower()
  if name in SPLIT_NAMES:
    return SPLIT_NAMES[name]
  near = difflib.get_close_matches(name, SPLIT_NAMES, 1)
  hint = f"; did you mean {near[0]}?" if near else ""
  raise UserError(f"{where}: split is none of train, validation, test{hint}")


def _missing(path: pathlib.Path) -> UserError:
  siblings = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
  near = difflib.get_close_matches(str(path), siblings, 1)
  hint = f"did you mean {near[0]}?" if near else "a data set of the hub is written hf:owner/name"
  return UserError(f"data source {path} does not exist; {hint}")


# --- files ---


def _several(text: str) -> list[tuple[pathlib.Path, str]]:
  """The files of a list and its patterns, with their splits where they are named for more than one."""
  files = []
  for part in filter(None, map(str.strip, text.split(","))):
    path = pathlib.Path(os.path.expanduser(part))
    if path.is_file():
      files.append(path)
    elif path.is_dir():
      raise UserError(f"data source {path} is a directory among several files; give files, or the directory alone")
    elif glob.has_magic(str(path)):
      found = [name for name in sorted(map(pathlib.Path, glob.glob(str(path), recursive=True))) if name.is_file()]
      if not found:
        raise UserError(f"data source {part}: no file is named like that")
      files += found
    else:
      raise _missing(path)
  twice = [path for path, count in collections.Counter(map(pathlib.Path.resolve, files)).items() if count > 1]
  if twice:
    raise UserError(f"data source {text} names {twice[0]} twice; name each file once")
  splits = [_split_of(path) for path in files]
  if "" in splits or len(set(splits)) == 1:
    splits = [""] * len(files)
  return list(zip(files, splits, strict=True))


def _read_files(files: Sequence[tuple[pathlib.Path, str]], rows: Mapping[str, int] | None) -> list[Record]:
  """The records of files in order; of a split no more than are wanted."""
  whole_names = len({path.name for path, _ in files}) < len(files)
  left = {split: count for split, count in (rows or {}).items() if count}
  records: list[Record] = []
  for path, split in files:
    if left.get(split) == 0:
      continue
    unit, numbered = formats.read_file(path)
    origin = Origin(f"{path} {unit}", str(path) if whole_names else path.name)
    start = len(records)
    records.extend(
      Record(values, origin, number, split) for number, values in itertools.islice(numbered, left.get(split))
    )
    if len(records) == start:
      raise UserError(f"{path} has no rows")
    if split in left:
      left[split] -= len(records) - start
  return records


# --- directories and hub data sets ---


def _directory(path: pathlib.Path, split: str, rows: Mapping[str, int] | None) -> list[Record]:
  if hub.is_saved(path):
    return _by_split(hub.from_disk(path, split), f"{path}#{split}" if split else str(path), rows)
  files = [(file, of) for of, several in _files_by_split(path).items() for file in several]
  if not split:
    return _read_files(files, rows)
  files = [(file, "") for file, of in files if of == SPLIT_NAMES.get(split.lower())]
  if not files:
    raise UserError(f"{path} has no {split} file")
  return _read_files(files, None)


def _files_by_split(path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """The files of each split, which are one, or several of one kind named alike and numbered or lettered."""
  found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for file in sorted(path.iterdir()):
    if file.is_file() and _split_of(file):
      found[_split_of(file)].append(file)
  if not found:
    raise UserError(f"{path} holds no train, validation or test file ending in {formats.KINDS}")
  for split, files in found.items():
    shards = [_SHARD.fullmatch(formats.stem(file)) for file in files]
    for file, shard in zip(files[1:], shards[1:], strict=True):
      alike = formats.kind(file) == formats.kind(files[0]) and shard["split"] == shards[0]["split"]
      if not (alike and shard["rest"] and shards[0]["rest"]):
        raise UserError(f"{path}: {files[0].name} and {file.name} are both {split} data; keep one")
    counted = [_COUNTED.fullmatch(shard["rest"] or "") for shard in shards]
    totals = {int(match[2]) for match in counted if match}
    if totals and totals != {len(files)}:
      raise UserError(
        f"{path}: {len(files)} files of {split} data, named {files[0].name} and so on, where their names say "
        f"{' and '.join(map(str, sorted(totals)))}; fetch what is missing, remove what is old"
      )
  return found


def _split_of(path: pathlib.Path) -> str:
  """The split that a data file is named for, else empty."""
  shard = _SHARD.fullmatch(formats.stem(path)) if formats.kind(path) else None
  return SPLIT_NAMES.get(shard["split"], "") if shard else ""


def _by_split(found: hub.Rows, source: str, rows: Mapping[str, int] | None) -> list[Record]:
  """Records of the rows of a data set; the split of one that has none is named with an empty text."""
  records: list[Record] = []
  for name, values_of_rows in found.items():
    split = SPLIT_NAMES.get(name.lower()) if name else ""
    if split is None:
      raise UserError(
        f"{source} has a split {name!r}, which is none of train, validation, test; take one split with {source}#{name}"
      )
    origin = Origin(f"{source} {name} row" if name else f"{source} row", name or pathlib.Path(source).name)
    wanted = itertools.islice(values_of_rows, (rows or {}).get(split) or None)
    records.extend(Record(values, origin, number, split) for number, values in enumerate(wanted, 1))
  if not records:
    raise UserError(f"{source} has no rows")
  return records
