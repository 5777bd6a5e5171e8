"""Digests of a checkpoint's files: written with it, compared before it is read."""

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Callable, Collection

from medjax.files import digest, sync

NAME = "digests.json"
_SMALL = 2**20  # bytes; smaller files are read whatever is asked for
_READERS = 4


def write(folder: pathlib.Path) -> None:
  """Brings a checkpoint's files and folders to the disk and writes the SHA-256 of each, with its size, beside them.

  Files that lie in the folder itself are Orbax's notes of when it was written, which change once more.
  """
  paths = sorted(path for path in folder.glob("*/**/*") if path.is_file())
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    found = pool.map(_synced_digest, paths)
    files = {str(p.relative_to(folder)): [p.stat().st_size, d] for p, d in zip(paths, found, strict=True)}
  with open(folder / NAME, "w", encoding="utf-8") as file:
    json.dump({"sha256": files}, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  for directory in (path for path in [*folder.rglob("*"), folder] if path.is_dir()):
    sync(directory)


def _synced_digest(path: pathlib.Path) -> str:
  found = digest(path)
  sync(path)
  return found


def damage(
  folder: pathlib.Path,
  items: Collection[str] = (),
  whole: bool = True,
  part: tuple[int, int] = (0, 1),
  advance: Callable[[int, int], None] = lambda done, total: None,
) -> str:
  """What is wrong with the files of a checkpoint, or an empty text.

  Args:
    folder: of one step.
    items: folders in it that count, such as `params`; empty: all.
    whole: whether large files are read; else only their sizes are looked at.
    part: (which part, of how many): large files are shared out over processes.
    advance: told (bytes done, bytes in all).

  Returns:
    `FILE is missing`, or the like.
  """
  try:
    listed = json.loads((folder / NAME).read_text(encoding="utf-8"))["sha256"]
    if any(pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts for name in listed):
      return f"{NAME} names files of other folders"
    files = {folder / name: (int(size), str(known)) for name, (size, known) in listed.items()}
  except FileNotFoundError:
    return f"{NAME} is missing"
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return f"{NAME} cannot be read"
  files = {path: known for path, known in files.items() if not items or path.relative_to(folder).parts[0] in items}
  to_read = []
  for path, (size, _) in files.items():
    if not path.is_file():  # nor is a pipe or a device a file that was written
      return f"{path.relative_to(folder)} is missing"
    has = path.stat().st_size
    if has != size:
      return f"{path.relative_to(folder)} has {has} bytes of {size}"
    if size <= _SMALL or whole:
      to_read.append(path)
  to_read = to_read[part[0] :: part[1]]
  done, total = 0, sum(files[path][0] for path in to_read)
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    try:
      for path, found in zip(to_read, pool.map(digest, to_read), strict=True):
        if found != files[path][1]:
          return f"{path.relative_to(folder)} is not what was written"
        done += files[path][0]
        advance(done, total)
    except OSError as error:
      return f"a file cannot be read ({error.strerror})"
  return ""
