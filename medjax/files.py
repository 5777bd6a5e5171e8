"""Files that are whole or absent, locks of folders, and fingerprints of what files hold."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from medjax.errors import UserError

_SEAL = "fingerprint"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # a file system without flock


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
  aside = _beside(path)
  flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
  descriptor = os.open(aside, flags, 0o600 if private else 0o666)
  try:
    with open(descriptor, "wb") if binary else open(descriptor, "w", encoding="utf-8") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise
  sync(path.parent)


@contextlib.contextmanager
def folder_aside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A new folder beside `path`, which takes its place when the block ends well; what was there is deleted then."""
  path = pathlib.Path(path).absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = _beside(path)
  aside.mkdir()
  try:
    yield aside
    for inside in [*aside.rglob("*"), aside]:
      sync(inside)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(aside, path)
  except BaseException:
    shutil.rmtree(aside, ignore_errors=True)
    raise
  sync(path.parent)


def _beside(path: pathlib.Path) -> pathlib.Path:
  """A name that nobody can have put a file or link at: it is random."""
  return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def sync(path: str | os.PathLike) -> None:
  """Brings a file, or the names in a folder, to the disk."""
  descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that does not sync folders
      raise
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def locked(path: str | os.PathLike, told: str, patience_seconds: float = 0.0) -> Iterator[int]:
  """Holds a lock file while the block runs; the system lets go of it when the process ends, however it ends.

  The lock is `flock`'s. Over NFS it keeps hosts apart from Linux 2.6.12 on, unless mounted with `local_lock`. On a file
  system without locks a file beside it, `NAME.held`, is the lock: a process that is killed leaves it behind.

  Args:
    path: the file, which stays.
    told: one line about the holder, for those that come later.
    patience_seconds: how long to wait for another holder.

  Yields:
    The descriptor of the lock file; who inherits it holds the lock, too.

  Raises:
    BlockingIOError: another process holds it; its `strerror` is what that one has told.
    OSError: the file cannot be written.
  """
  deadline = time.monotonic() + patience_seconds
  with open(path, "a+", encoding="utf-8") as file, contextlib.ExitStack() as held:
    while True:
      try:
        _take(file, pathlib.Path(path), told, held)
        break
      except BlockingIOError:
        if time.monotonic() >= deadline:
          raise
        time.sleep(0.1)
    file.truncate(0)
    file.write(told + "\n")
    file.flush()
    os.fsync(file.fileno())  # or other hosts would not see it
    yield file.fileno()


def _take(file: IO[str], path: pathlib.Path, told: str, held: contextlib.ExitStack) -> None:
  """Locks a file, or creates the file that stands for a lock; BlockingIOError with what the holder has told."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return
  except BlockingIOError as error:
    file.seek(0)
    raise BlockingIOError(error.errno, file.read(1000).strip(), str(path)) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
  marker = path.with_name(f"{path.name}.held")
  try:
    descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
  except FileExistsError:
    holder = marker.read_text(encoding="utf-8", errors="replace")[:1000].strip()
    remedy = f"this file system has no locks, so remove {marker} if that process is gone"
    raise BlockingIOError(errno.EWOULDBLOCK, f"{holder}; {remedy}", str(path)) from None
  held.callback(marker.unlink, missing_ok=True)
  with open(descriptor, "w", encoding="utf-8") as owner:
    owner.write(told + "\n")
    owner.flush()
    os.fsync(owner.fileno())


def this_process() -> str:
  """Process id, host and time of now, by which a lock names its holder."""
  return f"process {os.getpid()} of {socket.gethostname()} since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"


def write_json(path: str | os.PathLike, value: Any, private: bool = False) -> None:
  """Writes `value` as indented JSON, aside and then renamed."""
  with write_aside(path, private=private) as file:
    json.dump(value, file, indent=2, ensure_ascii=False)
    file.write("\n")


def write_sealed(path: str | os.PathLike, value: Mapping[str, Any], private: bool = False) -> dict[str, Any]:
  """Writes a JSON object with its own `fingerprint` as a further key, and returns it; `read_sealed` verifies it."""
  value = json.loads(json.dumps(value))  # as it will be read: tuples are lists
  value[_SEAL] = fingerprint(value)
  write_json(path, value, private)
  return value


def read_sealed(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
  """Returns the object that `write_sealed` wrote, without its fingerprint; an object without one is not verified.

  Args:
    path: the file.
    remedy: for the error message, beside bringing the file back from a copy.

  Raises:
    UserError: the file cannot be read, is no JSON object, or was changed.
  """
  try:
    value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    problem = "" if isinstance(value, dict) else "it is not a JSON object"
  except FileNotFoundError:
    problem = "it is not there"
  except OSError as error:
    problem = f"it cannot be read: {error.strerror}"
  except (ValueError, RecursionError) as error:
    problem = f"it is not JSON: {error}"
  if not problem:
    known = value.pop(_SEAL, None)
    if known is not None and known != fingerprint(value):
      problem = f"it was changed after it was written: its {_SEAL} is of other values"
  if problem:
    raise UserError(f"{path}: {problem}; bring it back from a copy, or {remedy}")
  return value


def digest(path: str | os.PathLike) -> str:
  """The SHA-256 of a file, in hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


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
  found = digest(path)
  if found != sha256:
    raise UserError(
      f"{path}: SHA-256 is {found[:16]}..., not the {sha256[:16]}... of {package}; "
      f"pip install --no-deps --force-reinstall {package}"
    )
  return path
