"""Files that are whole or absent, and fingerprints of what they hold."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def write_aside(path: str | os.PathLike, binary: bool = False, private: bool = False) -> Iterator[IO]:
  """Opens a file for writing beside `path` and renames it into place when the block ends well.

  Args:
    path: what is written.
    binary: whether bytes are written, else UTF-8 text.
    private: whether its owner alone may read it, as texts of patients must be.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    with open(descriptor, "wb") if binary else open(descriptor, "w", encoding="utf-8") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  finally:
    aside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` as indented JSON, aside and then renamed."""
  with write_aside(path) as file:
    json.dump(value, file, indent=2, ensure_ascii=False)
    file.write("\n")


def fingerprint(value: Any) -> str:
  """A short SHA-256 of a JSON-able value (keys sorted), equal on every machine."""
  text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]
