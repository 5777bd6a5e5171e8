"""Data sets of the hub, and those that `datasets` has written to disk -> rows by split."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medjax.data.formats import plain
from medjax.errors import UserError

_ID = re.compile(
  r"hf:(?P<name>[\w.-]+/[\w.-]+)(:(?P<configuration>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>.+))?", re.ASCII
)
_BATCH = 1024  # rows that are turned into Python at once

# Split, as the data set calls it -> its rows; an empty name where it has no splits, or one was asked for.
Rows = dict[str, Iterator[dict[str, Any]]]


def parse(source: str) -> re.Match | None:
  """The parts of `hf:owner/name[:configuration][@revision][#split]`; None where the source is no hub id."""
  return _ID.fullmatch(source)


def from_hub(id_: re.Match, streamed: bool) -> Rows:
  """The rows of a hub data set.

  Args:
    id_: what `parse` found.
    streamed: whether rows are fetched as they are asked for, instead of all of them once, into the cache.

  Raises:
    UserError: the hub or the data set fails, at once or while rows are read.
  """
  import datasets

  source = id_[0]
  try:
    found = datasets.load_dataset(
      id_["name"], id_["configuration"], revision=id_["revision"], split=id_["split"], streaming=streamed
    )
  except Exception as error:  # noqa: BLE001 (the hub fails in many ways, all of them the source's)
    raise UserError(
      f"data source {source}: the hub refused it: {_reason(error)}; check the name, the network and HF_TOKEN"
    ) from error
  return _splits(found, source)


def is_saved(path: pathlib.Path) -> bool:
  """Whether a directory is what `save_to_disk` of `datasets` writes."""
  return (path / "dataset_dict.json").is_file() or all(
    (path / name).is_file() for name in ("dataset_info.json", "state.json")
  )


def from_disk(path: pathlib.Path, split: str) -> Rows:
  """The rows of a saved data set, or of one split of it; UserError as `from_hub`."""
  import datasets

  try:
    found = datasets.load_from_disk(str(path))
  except Exception as error:  # noqa: BLE001 (any file of the directory can be at fault)
    raise UserError(f"{path} is no whole data set of save_to_disk: {_reason(error)}; save it again") from error
  if not split:
    return _splits(found, str(path))
  if not isinstance(found, Mapping) or split not in found:
    names = ", ".join(found) if isinstance(found, Mapping) else "no splits"
    raise UserError(f"{path} has no split {split!r} (it has {names})")
  return _splits(found[split], f"{path}#{split}")


def _splits(found: Any, source: str) -> Rows:
  if isinstance(found, Mapping):
    return {split: _rows(rows, f"{source} {split}") for split, rows in found.items()}
  return {"": _rows(found, source)}


def _rows(rows: Any, where: str) -> Iterator[dict[str, Any]]:
  """Plain rows; of a class the name, not the number. Images and sounds stay files, which need no decoder."""
  import datasets

  number = 0
  try:
    classes = {
      name: feature for name, feature in (rows.features or {}).items() if isinstance(feature, datasets.ClassLabel)
    }
    for table in rows.with_format("arrow").iter(_BATCH):
      table.validate(full=True)  # or a damaged file's offsets would lead anywhere in memory
      for row in table.to_pylist():
        number += 1
        for name, feature in classes.items():
          row[name] = None if row[name] is None or row[name] < 0 else feature.int2str(row[name])
        yield plain(row)
  except Exception as error:  # noqa: BLE001 (the hub and its files fail in many ways)
    raise UserError(f"{where}: no row after row {number} can be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
  """What went wrong, without the values that a reader of cells may quote."""
  import pyarrow

  if isinstance(error, pyarrow.ArrowException | UnicodeError):
    return type(error).__name__
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
