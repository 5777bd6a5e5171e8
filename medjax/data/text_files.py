"""Text files, a piece at a time: their encoding, line ends and compression."""

import codecs
import contextlib
import functools
import gzip
import io
import os
import pathlib
import re
import shlex
import zlib
from collections.abc import Iterator
from typing import IO

from medjax.errors import UserError

LONGEST = 16 * 2**20  # characters of a line, a cell or an object; what is longer is a damaged file, not a note
_BLOCK = 2**20
_GZIP = b"\x1f\x8b"
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
_ENCODINGS = {  # first bytes -> encoding, the longer ones first
  codecs.BOM_UTF32_LE: "utf-32",
  codecs.BOM_UTF32_BE: "utf-32",
  codecs.BOM_UTF16_LE: "utf-16",
  codecs.BOM_UTF16_BE: "utf-16",
}


def lines(path: str | os.PathLike) -> Iterator[str]:
  """The lines of a UTF-8 file with their ends. What is gzipped is unpacked, whatever its name.

  A line ends with LF or CRLF, or with CR where the first one does. It is never longer than `LONGEST`, so that memory
  stays bounded.

  Raises:
    UserError: the file cannot be read, or a line is no UTF-8, holds a NUL or is too long; names file and line.
  """
  with _opened(path) as file:
    for number, line in enumerate(iter(functools.partial(file.readline, LONGEST + 1), ""), 1):
      if len(line) > LONGEST:
        raise UserError(f"{path} line {number}: longer than {LONGEST} characters; is it the file that you meant?")
      if "\0" in line:
        raise UserError(_nul(path, number))
      yield line


def blocks(path: str | os.PathLike) -> Iterator[str]:
  """The text of a file as `lines` reads it, in pieces that lines may be longer than; UserError as `lines`."""
  ends = 0
  with _opened(path) as file:
    for block in iter(functools.partial(file.read, _BLOCK), ""):
      if "\0" in block:
        raise UserError(_nul(path, ends + block.count("\n", 0, block.index("\0")) + 1))
      ends += block.count("\n")
      yield block


def read_text(path: str | os.PathLike) -> str:
  """The whole text of a file, with or without a byte order mark; UserError as `lines`."""
  return "".join(lines(path))


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[io.TextIOWrapper]:
  try:
    with _bytes(path) as file:
      start = file.peek(4)[:4]
      for mark, encoding in _ENCODINGS.items():
        if start.startswith(mark):
          raise UserError(f"{path} is {encoding.upper()} text; {_conversion(path, encoding)}")
      if start == b"PK\x03\x04":
        raise UserError(f"{path} is a zip archive or an Excel workbook; save its sheet as CSV in UTF-8")
      with io.TextIOWrapper(file, "utf-8-sig", newline=_line_end(file).decode()) as text:
        yield text
  except UnicodeDecodeError:
    try:
      line = _bad_byte(path)
    except _DAMAGED:
      line = _damaged(path)
    raise UserError(line) from None
  except _DAMAGED:
    raise UserError(_damaged(path)) from None
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _bytes(path: str | os.PathLike) -> Iterator[IO[bytes]]:
  with open(path, "rb") as file:
    if file.peek(2)[:2] != _GZIP:
      yield file
      return
    with gzip.GzipFile(fileobj=file) as unpacked:
      yield unpacked


def _line_end(file: IO[bytes]) -> bytes:
  """CR where the first line that is not long ends with it alone, as on old Macs; else LF, before which a CR may be."""
  return b"\r" if re.match(rb"[^\r\n]*\r+[^\r\n]", file.peek(_BLOCK)) else b"\n"


def _damaged(path: str | os.PathLike) -> str:
  return f"{path} is gzipped and damaged or cut off; copy it again"


def _bad_byte(path: str | os.PathLike) -> str:
  """Says on which line the first byte is that is not UTF-8, from a second reading."""
  decoder = codecs.getincrementaldecoder("utf-8")()
  line = 1
  with _bytes(path) as file:
    end = _line_end(file)
    while True:
      block = file.read(_BLOCK)
      try:
        decoder.decode(block, final=not block)
      except UnicodeDecodeError as error:
        # Bytes that the decoder had kept from the block before stand first in `error.object`; no line ends among them.
        line += error.object.count(end, 0, error.start)
        byte = error.object[error.start]
        return f"{path} line {line}: byte 0x{byte:02x} is not UTF-8; {_conversion(path, 'latin1')}"
      line += block.count(end)


def _conversion(path: str | os.PathLike, encoding: str) -> str:
  path = pathlib.Path(path)
  name, suffix = shlex.quote(str(path)), path.suffix
  command = f"iconv -f {encoding} -t utf-8"
  if suffix.lower() == ".gz":
    command, suffix = f"gzip -dc {name} | {command}", path.with_suffix("").suffix
  else:
    command = f"{command} {name}"
  guess = ", for example from Latin-1" if encoding == "latin1" else ""
  return f"convert the file{guess} with: {command} > converted{suffix}"


def _nul(path: str | os.PathLike, line: int) -> str:
  return (
    f"{path} line {line}: a NUL byte, which no text holds; the file is damaged, or not UTF-8 but UTF-16 "
    f"(if so, {_conversion(path, 'utf-16')})"
  )
