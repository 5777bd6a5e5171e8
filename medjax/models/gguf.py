"""GGUF files of llama.cpp: metadata to a ModelConfig, tensors to Hugging Face's layout.

The header is read here, with every length checked against the file, since `gguf.GGUFReader` trusts it and takes
seconds over a vocabulary; types, block sizes and dequantization come from the `gguf` package. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import dataclasses
import math
import mmap
import os
import struct
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from medjax.errors import UserError
from medjax.models.config import Llama3Scaling, ModelConfig
from medjax.models.families import Slot, tensor_table
from medjax.models.layers import rope_frequencies

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ROPE_FACTORS = "rope_freqs.weight"

_NAMES = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}


@dataclasses.dataclass(frozen=True)
class _Tensor:
  shape: tuple[int, ...]
  kind: gguf.GGMLQuantizationType
  start: int
  size: int


class GgufFile:
  """An open GGUF file: `metadata` by key, tensor `shapes` by name, and `read(name)`.

  Raises:
    UserError: no GGUF, truncated, damaged, split or of another byte order; an unknown quantization.
  """

  def __init__(self, path: str | os.PathLike):
    self.where = str(path)
    with open(path, "rb") as file:
      if not os.fstat(file.fileno()).st_size:
        raise UserError(f"{self.where}: the file is empty; download it again")
      self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    self._at = 0
    if self._bytes[:4] != b"GGUF":
      raise UserError(f"{self.where}: not a GGUF file (its first bytes are {self._bytes[:4]!r}); download it again")
    self._at = 4
    version = self._take("I")
    if version not in (2, 3):
      raise UserError(f"{self.where}: GGUF version {version:#x} is not supported; medjax reads little-endian 2 and 3")
    tensor_count, key_count = self._take("Q"), self._take("Q")
    self.metadata: dict[str, Any] = {}
    for _ in range(key_count):
      key = self._string()
      self.metadata[key] = self._value(self._take("I"))
    if self.metadata.get("split.count", 1) > 1:
      raise UserError(f"{self.where}: one part of {self.metadata['split.count']}; join them with llama-gguf-split")
    infos = [self._tensor_info() for _ in range(tensor_count)]
    self._tensors = self._place(infos)
    self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    """One tensor, dequantized to float32 (float64 stays), with its axes in Hugging Face's order."""
    tensor = self._tensors[name]
    raw = np.frombuffer(self._bytes, np.uint8, tensor.size, tensor.start)
    if tensor.kind == gguf.GGMLQuantizationType.F64:
      return raw.view(np.float64).reshape(tensor.shape)
    # `dequantize` goes through its rows in Python; blocks do not depend on rows, so a few long rows are much faster.
    block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind][1]
    rows = raw.reshape(-1, block_bytes * math.gcd(tensor.size // block_bytes, 512))
    try:
      return dequantize(rows, tensor.kind).reshape(tensor.shape)
    except NotImplementedError as error:
      raise self._unreadable(name, tensor.kind.name) from error

  def _take(self, code: str) -> Any:
    size = struct.calcsize("<" + code)
    self._need(size)
    (value,) = struct.unpack_from("<" + code, self._bytes, self._at)
    self._at += size
    return value

  def _need(self, size: int) -> None:
    if self._at + size > len(self._bytes):
      raise UserError(
        f"{self.where}: truncated or damaged: the header needs byte {self._at + size} of {len(self._bytes)}; "
        "download it again"
      )

  def _string(self) -> str:
    size = self._take("Q")
    self._need(size)
    text = self._bytes[self._at : self._at + size]
    self._at += size
    try:
      return text.decode()
    except UnicodeDecodeError as error:
      raise UserError(
        f"{self.where}: damaged header: byte {self._at - size} is not UTF-8; download it again"
      ) from error

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._string()
    if kind in _SCALARS:
      return self._take(_SCALARS[kind])
    if kind != _ARRAY:
      raise UserError(f"{self.where}: damaged header: unknown value type {kind}; download it again")
    kind, count = self._take("I"), self._take("Q")
    if kind == _STRING:
      self._need(8 * count)
      return [self._string() for _ in range(count)]
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
      if name in tensors or math.prod(shape) % block:
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


def config_from_gguf(file: GgufFile) -> ModelConfig:
  """The ModelConfig that a file's metadata describes (architecture `llama`, which Mistral's files use too).

  Raises:
    UserError: another architecture, experts, partial or scaled rotary positions that medjax does not have, or a
      missing key.
  """
  architecture = file.metadata.get("general.architecture")
  if architecture != "llama":
    raise UserError(f"{file.where}: general.architecture = {architecture!r} is not supported; medjax reads llama")
  if file.metadata.get("llama.expert_count", 0):
    raise UserError(f"{file.where}: llama.expert_count is set; mixtures of experts are not supported")
  if file.metadata.get("llama.rope.scaling.type", "none") != "none":
    kind = file.metadata["llama.rope.scaling.type"]
    raise UserError(
      f"{file.where}: llama.rope.scaling.type = {kind!r} is not supported; medjax has llama3 scaling only"
    )
  if "token_embd.weight" not in file.shapes:
    raise UserError(f"{file.where}: tensor token_embd.weight is missing; download the file again")
  width, heads = _number(file, "embedding_length"), _number(file, "attention.head_count")
  head_width = _number(file, "attention.key_length", width // heads)
  rotated = _number(file, "rope.dimension_count", head_width)
  kv_heads = _number(file, "attention.head_count_kv", heads)
  if rotated != head_width or head_width % 2 or heads % kv_heads:
    raise UserError(
      f"{file.where}: {heads} heads of width {head_width}, {kv_heads} kv heads and {rotated} rotated columns do not "
      "fit together; medjax rotates whole heads and shares kv heads evenly"
    )
  config = ModelConfig(
    vocab_size=file.shapes["token_embd.weight"][0],
    width=width,
    num_layers=_number(file, "block_count"),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_width=head_width,
    ffn_width=_number(file, "feed_forward_length"),
    rope_theta=float(_number(file, "rope.freq_base", 10000.0)),
    norm_eps=float(_number(file, "attention.layer_norm_rms_epsilon")),
    tied_head="output.weight" not in file.shapes,
    max_positions=_number(file, "context_length"),
  )
  return dataclasses.replace(config, rope_scaling=_scaling(file, config))


def gguf_table(config: ModelConfig) -> dict[str, Slot]:
  """Every tensor that a GGUF file of this config holds, by name, with its place in the parameter tree.

  llama.cpp's converter interleaves the two halves of each head of q and k, row by row; the views here take that back,
  so that the parameters follow rotate-half.
  """
  table = {}
  for name, slot in tensor_table(config).items():
    stem = name.removesuffix(".weight")
    if slot.layer is not None:
      stem = stem.removeprefix(f"model.layers.{slot.layer}.")
    if stem in ("self_attn.q_proj", "self_attn.k_proj"):
      D, heads, E = slot.target
      slot = dataclasses.replace(slot, view=(heads, E // 2, 2, D), axes=(3, 0, 2, 1))
    prefix = "" if slot.layer is None else f"blk.{slot.layer}."
    table[f"{prefix}{_NAMES[stem]}.weight"] = slot
  return table


def ignored(name: str) -> bool:
  """Whether a tensor is not a weight: rotary factors, which `config_from_gguf` turns into a setting."""
  return name == _ROPE_FACTORS


def _number(file: GgufFile, key: str, default: float | None = None) -> Any:
  value = file.metadata.get(f"llama.{key}", default)
  if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
    raise UserError(f"{file.where}: llama.{key} = {value!r}; a positive number is needed, one for all layers")
  return value


def _scaling(file: GgufFile, config: ModelConfig) -> Llama3Scaling | None:
  """Llama 3's scaling, recognised by the divisors of the frequencies that the file holds."""
  if _ROPE_FACTORS not in file.shapes:
    return None
  given = file.read(_ROPE_FACTORS).ravel()
  scaling = Llama3Scaling(float(given.max()), 1.0, 4.0, 8192)
  scaled = rope_frequencies(dataclasses.replace(config, rope_scaling=scaling))
  expected = np.asarray(rope_frequencies(config) / scaled)
  if given.shape != expected.shape or not np.allclose(given, expected, rtol=1e-3):
    raise UserError(
      f"{file.where}: tensor {_ROPE_FACTORS} is no scaling of Llama 3.1 or 3.2; use the model's Hugging Face directory"
    )
  return scaling
