"""GGUF files of llama.cpp, read in parts (`models.gguf_models` knows which model a file holds).

The header is read here, with every length checked against the file, since `gguf.GGUFReader` trusts it and takes
seconds over a vocabulary; types, block sizes and dequantization come from the `gguf` package. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import dataclasses
import math
import os
import struct
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from medjax.errors import UserError
from medjax.models.slots import Index
from medjax.models.tensor_files import MappedFile

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# No model has more; a file with holes has room for any number.
_MOST_TENSORS, _MOST_KEYS, _MOST_ENTRIES, _MOST_TEXT = 2**20, 2**16, 2**23, 2**24


@dataclasses.dataclass(frozen=True)
class _Tensor:
  shape: tuple[int, ...]
  kind: gguf.GGMLQuantizationType
  start: int
  size: int


class GgufFile:
  """An open GGUF file, see `TensorFile`; `metadata` holds its keys, `kinds` the quantization of each tensor.

  Raises:
    UserError: no GGUF, truncated, damaged, split or of another byte order; an unknown quantization.
  """

  def __init__(self, path: str | os.PathLike):
    self.where = str(path)
    self._file = MappedFile(path)
    self._bytes = self._file.bytes
    self._at = 0
    if self._bytes[:4] != b"GGUF":
      raise UserError(f"{self.where}: not a GGUF file (its first bytes are {self._bytes[:4]!r}); download it again")
    self._at = 4
    version = self._take("I")
    if version not in (2, 3):
      raise UserError(f"{self.where}: GGUF version {version:#x} is not supported; medjax reads little-endian 2 and 3")
    tensor_count, key_count = self._at_most(_MOST_TENSORS), self._at_most(_MOST_KEYS)
    self.metadata: dict[str, Any] = {}
    for _ in range(key_count):
      key = self._string()
      self.metadata[key] = self._value(self._take("I"))
    if self.metadata.get("split.count", 1) not in (0, 1):
      raise UserError(f"{self.where}: one part of {self.metadata['split.count']}; join them with llama-gguf-split")
    infos = [self._tensor_info() for _ in range(tensor_count)]
    self._tensors = self._place(infos)
    self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
    self.kinds = {name: tensor.kind.name for name, tensor in self._tensors.items()}

  def read(self, name: str, index: Index) -> np.ndarray:
    """A part of a tensor, dequantized to float32 (float64 stays)."""
    tensor = self._tensors[name]
    shape = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    rows, *columns = index if len(tensor.shape) > 1 else (slice(0, 1), *index)
    raw = self._file.rows(tensor.start, tensor.size // shape[0], rows)
    if tensor.kind == gguf.GGMLQuantizationType.F64:
      values = np.frombuffer(raw.tobytes(), np.float64)
    else:
      # `dequantize` goes through its rows in Python; blocks do not depend on rows, so a few long rows are much faster.
      block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind][1]
      blocks = raw.reshape(-1, block_bytes * math.gcd(raw.size // block_bytes, 512))
      try:
        values = dequantize(blocks, tensor.kind)
      except NotImplementedError as error:
        raise self._unreadable(name, tensor.kind.name) from error
    part = values.reshape(rows.stop - rows.start, *shape[1:])[(slice(None), *columns)].copy()
    self._file.release(raw)
    return part if len(tensor.shape) > 1 else part[0]

  def _take(self, code: str) -> Any:
    size = struct.calcsize("<" + code)
    self._need(size)
    (value,) = struct.unpack_from("<" + code, self._bytes, self._at)
    self._at += size
    return value

  def _at_most(self, most: int) -> int:
    """A count or length; UserError where it is more than any model's, which a file with holes could make true."""
    count = self._take("Q")
    if count > most:
      raise UserError(f"{self.where}: damaged header: {count} entries where {most} are the most; download it again")
    return count

  def _need(self, size: int) -> None:
    if self._at + size > len(self._bytes):
      raise UserError(
        f"{self.where}: truncated or damaged: the header needs byte {self._at + size} of {len(self._bytes)}; "
        "download it again"
      )

  def _string(self) -> str:
    size = self._at_most(_MOST_TEXT)
    self._need(size)
    text = self._bytes[self._at : self._at + size]
    self._at += size
    try:
      return text.decode()
    except UnicodeDecodeError as error:
      raise UserError(
        f"{self.where}: damaged header: byte {self._at - size} is not UTF-8; download it again"
      ) from error

  def _strings(self, count: int) -> list[str]:
    """Reads the strings of a vocabulary in one tight loop; `_string` reads, and refuses, from the first bad one on."""
    data, at, found = self._bytes, self._at, []
    unpack, most = struct.Struct("<Q").unpack_from, _MOST_TEXT
    try:
      for _ in range(count):
        (size,) = unpack(data, at)
        end = at + 8 + size
        if size > most or end > len(data):
          break
        found.append(data[at + 8 : end].decode())
        at = end
    except (struct.error, UnicodeDecodeError):
      pass
    self._at = at
    return found + [self._string() for _ in range(count - len(found))]

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._string()
    if kind in _SCALARS:
      return self._take(_SCALARS[kind])
    if kind != _ARRAY:
      raise UserError(f"{self.where}: damaged header: unknown value type {kind}; download it again")
    kind, count = self._take("I"), self._at_most(_MOST_ENTRIES)
    if kind == _STRING:
      self._need(8 * count)
      return self._strings(count)
    if kind not in _SCALARS:
      raise UserError(f"{self.where}: damaged header: array of type {kind}; download it again")
    self._need(count * struct.calcsize("<" + _SCALARS[kind]))
    values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._bytes, self._at)
    self._at += count * struct.calcsize("<" + _SCALARS[kind])
    return list(values)

  def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
    name, rank = self._string(), self._take("I")
    if rank > 4 or not name.isprintable():
      raise UserError(f"{self.where}: damaged header: tensor {name!r} has {rank} axes; download it again")
    shape = tuple(self._take("Q") for _ in range(rank))[::-1]
    return name, shape, self._take("I"), self._take("Q")

  def _place(self, infos: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, _Tensor]:
    """Sizes and absolute offsets, each checked against the file before anything is read."""
    alignment = self.metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
      raise UserError(f"{self.where}: general.alignment = {alignment!r}; a positive integer is needed")
    data = -(-self._at // alignment) * alignment
    tensors = {}
    for name, shape, number, offset in infos:
      try:
        kind = gguf.GGMLQuantizationType(number)
      except ValueError as error:
        raise self._unreadable(name, f"number {number}") from error
      block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
      if name in tensors or not shape or 0 in shape or shape[-1] % block:
        raise UserError(f"{self.where}: damaged header: tensor {name} is there twice or has shape {shape}")
      size = math.prod(shape) // block * block_bytes
      if data + offset + size > len(self._bytes):
        raise UserError(
          f"{self.where}: truncated: tensor {name} ends at byte {data + offset + size} of {len(self._bytes)}; "
          "download it again"
        )
      tensors[name] = _Tensor(shape, kind, data + offset, size)
    return tensors

  def _unreadable(self, name: str, kind: str) -> UserError:
    return UserError(
      f"{self.where}: tensor {name} has quantization {kind}, which the gguf package cannot read; "
      "take a file in F16, Q8_0 or a common Q4-Q6 type"
    )
