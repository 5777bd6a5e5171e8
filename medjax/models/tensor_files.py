"""Files of tensors, mapped and read in parts: safetensors here, GGUF in `models.gguf`. Nothing in them is run."""

import json
import mmap
import os
import pathlib
from typing import Protocol

import ml_dtypes
import numpy as np
import safetensors

from medjax.errors import UserError
from medjax.models.slots import Index

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class TensorFile(Protocol):
  """An open file of tensors.

  Attributes:
    where: its name, for messages.
    shapes: shape of each tensor, with its axes in Hugging Face's order.
  """

  where: str
  shapes: dict[str, tuple[int, ...]]

  def read(self, name: str, index: Index) -> np.ndarray:
    """A part of a tensor; only its rows are looked at, and no page of the file stays in memory."""


class MappedFile:
  """The bytes of a file, read through the page cache and not kept.

  Raises:
    UserError: the file is empty.
  """

  def __init__(self, path: str | os.PathLike):
    with open(path, "rb") as file:
      if not os.fstat(file.fileno()).st_size:
        raise UserError(f"{path}: the file is empty; download it again")
      self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

  def rows(self, start: int, row_bytes: int, rows: slice) -> np.ndarray:
    """uint8 [rows, row_bytes], a view; `start` is where row 0 begins."""
    count = rows.stop - rows.start
    flat = np.frombuffer(self.bytes, np.uint8, count * row_bytes, start + rows.start * row_bytes)
    return flat.reshape(count, row_bytes)

  def release(self, rows: np.ndarray) -> None:
    """Gives pages back that a view of `rows` has brought into memory; what they held is to be copied before."""
    if not hasattr(self.bytes, "madvise") or not rows.nbytes:
      return  # a system without it drops pages when it needs the memory
    first = rows.__array_interface__["data"][0] - np.frombuffer(self.bytes, np.uint8).__array_interface__["data"][0]
    page = mmap.PAGESIZE
    start = first // page * page
    self.bytes.madvise(mmap.MADV_DONTNEED, start, first + rows.nbytes - start)


class SafetensorsFile:
  """An open safetensors file; see `TensorFile`. `dtypes` holds the stored dtype of each tensor.

  Raises:
    UserError: truncated or damaged (the safetensors package checks the header), or a dtype that is no float.
  """

  def __init__(self, path: str | os.PathLike):
    self.where = str(path)
    try:
      with safetensors.safe_open(path, "np"):
        pass
    except (safetensors.SafetensorError, OSError) as error:
      raise UserError(f"{path}: truncated or damaged ({error}); download it again") from error
    self._file = MappedFile(path)
    size = int.from_bytes(self._file.bytes[:8], "little")
    header = json.loads(self._file.bytes[8 : 8 + size])
    header.pop("__metadata__", None)
    self.shapes, self.dtypes, self._starts = {}, {}, {}
    for name, entry in header.items():
      if not name.isprintable():
        raise UserError(f"{path}: tensor {name!r} has an unprintable name; download the file again")
      if entry["dtype"] not in _DTYPES:
        raise UserError(f"{path}: tensor {name} is {entry['dtype']}, which medjax does not read; use F32 or BF16")
      self.shapes[name] = tuple(entry["shape"])
      self.dtypes[name] = np.dtype(_DTYPES[entry["dtype"]])
      self._starts[name] = 8 + size + entry["data_offsets"][0]

  def read(self, name: str, index: Index) -> np.ndarray:
    """A part of a tensor, in its stored dtype."""
    shape, dtype = self.shapes[name], self.dtypes[name]
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    raw = self._file.rows(self._starts[name], row_bytes, index[0])
    part = raw.reshape(-1).view(dtype).reshape(len(raw), *shape[1:])[(slice(None), *index[1:])].copy()
    self._file.release(raw)
    return part


def open_shards(paths: list[pathlib.Path]) -> dict[str, SafetensorsFile]:
  """The file that holds each tensor of a model in several files.

  Raises:
    UserError: a file cannot be read, or a tensor is in two of them.
  """
  holders: dict[str, SafetensorsFile] = {}
  for path in paths:
    file = SafetensorsFile(path)
    twice = holders.keys() & file.shapes.keys()
    if twice:
      raise UserError(f"{path}: tensor {min(twice)!r} is in another shard too, or damaged; download the model again")
    holders |= dict.fromkeys(file.shapes, file)
  return holders
