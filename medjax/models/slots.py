"""Where the tensors of a model file belong in the parameter tree, how their axes are turned, and back."""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from medjax.arrays import Array
from medjax.models.config import ModelConfig

Index = tuple[slice, ...]


class Turn(NamedTuple):
  """How a block of a tensor becomes a block of a parameter; equal for the like blocks of all layers.

  Attributes:
    lengths: the block's axes, split.
    order: of these in the parameter.
    shape: of the result.
    added: what is taken away from the values.
  """

  lengths: tuple[int, ...]
  order: tuple[int, ...]
  shape: tuple[int, ...]
  added: float

  def __call__(self, block: Array) -> Array:
    """The turned block, of numpy or JAX."""
    turned = block.reshape(self.lengths).transpose(self.order).reshape(self.shape)
    return turned - np.float32(self.added) if self.added else turned


@dataclasses.dataclass(frozen=True)
class Slot:
  """A tensor of a file, or some of its rows, and the parameter of one layer that it is.

  Attributes:
    tensor: name in the file.
    shape: the tensor's shape in the file.
    path: keys of the parameter tree, such as `("blocks", "attention", "q", "kernel")`.
    layer: index on the leading layer axis, or None for a parameter that is not stacked.
    view: for each axis of these rows the sizes that it is split into.
    axes: for each axis of the parameter the axes of the (flat) view that it is made of.
    start: first row of the tensor, where a tensor is several parameters.
    added: by how much the file's values exceed the parameter's.
  """

  tensor: str
  shape: tuple[int, ...]
  path: tuple[str, ...]
  layer: int | None
  view: tuple[tuple[int, ...], ...]
  axes: tuple[tuple[int, ...], ...]
  start: int = 0
  added: float = 0.0

  @property
  def rows(self) -> int:
    """How many rows of the tensor it is."""
    return math.prod(self.view[0])

  @property
  def target(self) -> tuple[int, ...]:
    """Shape of the parameter, without the layer axis."""
    flat = self._flat_view
    return tuple(math.prod(flat[axis] for axis in axes) for axes in self.axes)

  @property
  def row_axis(self) -> int:
    """The axis of the parameter along which rows of the file can be read in parts."""
    return self.axes.index((0,))

  def part(self, index: Index) -> tuple[Index, "Turn"]:
    """Where a part of the parameter is in the tensor, and how what is there becomes that part.

    Args:
      index: a slice with start and stop for each axis of the parameter. Of the axes that one of the tensor's is split
        into, only the first may be cut.
    """
    parts = [slice(0, size) for size in self._flat_view]
    for axes, part, size in zip(self.axes, index, self.target, strict=True):
      if (part.start, part.stop) != (0, size):
        (axis,) = axes
        parts[axis] = part
    in_file, lengths, at = [], [], 0
    for sizes in self.view:
      step = math.prod(sizes[1:])
      in_file.append(slice(parts[at].start * step, parts[at].stop * step))
      lengths += [parts[at].stop - parts[at].start, *sizes[1:]]
      assert all(part == slice(0, size) for part, size in zip(parts[at + 1 :], sizes[1:], strict=False))
      at += len(sizes)
    in_file[0] = slice(in_file[0].start + self.start, in_file[0].stop + self.start)
    order = tuple(axis for axes in self.axes for axis in axes)
    shape = tuple(part.stop - part.start for part in index)
    return tuple(in_file), Turn(tuple(lengths), order, shape, self.added)

  def rows_of(self, parameter: np.ndarray) -> np.ndarray:
    """These rows of the tensor, from the whole parameter of a layer."""
    flat, order = self._flat_view, [axis for axes in self.axes for axis in axes]
    turned = parameter.reshape([flat[axis] for axis in order]).transpose(np.argsort(order))
    rows = turned.reshape([math.prod(sizes) for sizes in self.view])
    return rows + np.float32(self.added) if self.added else rows

  @property
  def _flat_view(self) -> tuple[int, ...]:
    return tuple(size for sizes in self.view for size in sizes)


def whole(shape: Iterable[int]) -> Index:
  """The index of everything."""
  return tuple(slice(0, size) for size in shape)


def hf_slots(config: ModelConfig, fused: bool, prefix: str = "model.") -> list[Slot]:
  """Every tensor of a Hugging Face model of this config, with its place in the parameter tree.

  Args:
    config: the decoder's.
    fused: whether queries, keys and values are one tensor, and gate and up another, as in Phi-3.
    prefix: of all names but the head's.
  """
  V, D = config.vocab_size, config.width
  slots = [_plain(f"{prefix}embed_tokens.weight", "embed.embedding", None, V, D)]
  for layer in range(config.num_layers):
    slots += _block_slots(config, fused, f"{prefix}layers.{layer}.", layer)
  slots.append(_plain(f"{prefix}norm.weight", "final_norm.scale", None, D))
  if not config.tied_head:
    slots.append(_plain("lm_head.weight", "head.kernel", None, V, D))
  return slots


def _plain(tensor: str, path: str, layer: int | None, *shape: int) -> Slot:
  axes = tuple((axis,) for axis in range(len(shape)))
  return Slot(tensor, shape, tuple(path.split(".")), layer, tuple((size,) for size in shape), axes)


def _block_slots(config: ModelConfig, fused: bool, prefix: str, layer: int) -> list[Slot]:
  D, F = config.width, config.ffn_width
  H, K, E = config.num_heads, config.num_kv_heads, config.head_width

  def norm(name: str, path: str, width: int = D) -> Slot:
    return _plain(f"{prefix}{name}.weight", f"blocks.{path}.scale", layer, width)

  def linear(name: str, path: str, outputs: tuple[int, ...], inputs: tuple[int, ...], bias: bool = False):
    rows, columns = len(outputs), len(inputs)
    kernel = Slot(
      f"{prefix}{name}.weight",
      (math.prod(outputs), math.prod(inputs)),
      ("blocks", *path.split("."), "kernel"),
      layer,
      (outputs, inputs),
      tuple((axis,) for axis in (*range(rows, rows + columns), *range(rows))),
    )
    path_of_bias = ("blocks", *path.split("."), "bias")
    axes = tuple((axis,) for axis in range(rows))
    added = Slot(f"{prefix}{name}.bias", (math.prod(outputs),), path_of_bias, layer, (outputs,), axes)
    return [kernel, added] if bias else [kernel]

  after_attention = "post_attention_layernorm"
  slots = [norm("input_layernorm", "attention_norm")]
  slots += linear("self_attn.q_proj", "attention.q", (H, E), (D,), config.qkv_bias)
  slots += linear("self_attn.k_proj", "attention.k", (K, E), (D,), config.qkv_bias)
  slots += linear("self_attn.v_proj", "attention.v", (K, E), (D,), config.qkv_bias)
  slots += linear("self_attn.o_proj", "attention.o", (D,), (H, E), config.output_bias)
  if config.qk_norm:
    slots += [norm("self_attn.q_norm", "attention.q_norm", E), norm("self_attn.k_norm", "attention.k_norm", E)]
  if config.post_norms:
    slots += [
      norm(after_attention, "attention_post_norm"),
      norm("pre_feedforward_layernorm", "mlp_norm"),
      norm("post_feedforward_layernorm", "mlp_post_norm"),
    ]
  else:
    slots.append(norm(after_attention, "mlp_norm"))
  slots += linear("mlp.gate_proj", "mlp.gate", (F,), (D,))
  slots += linear("mlp.up_proj", "mlp.up", (F,), (D,))
  slots += linear("mlp.down_proj", "mlp.down", (D,), (F,))
  if not fused:
    return slots
  slots = fuse(slots, [f"{prefix}self_attn.{name}_proj.weight" for name in "qkv"], f"{prefix}self_attn.qkv_proj.weight")
  return fuse(slots, [f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up")], f"{prefix}mlp.gate_up_proj.weight")


def fuse(slots: list[Slot], parts: list[str], tensor: str) -> list[Slot]:
  """The same slots, where the tensors `parts` are one after the other the rows of `tensor`."""
  total = sum(slot.rows for slot in slots if slot.tensor in parts)
  fused, start = [], 0
  for slot in slots:
    if slot.tensor in parts:
      slot = dataclasses.replace(slot, tensor=tensor, shape=(total, *slot.shape[1:]), start=start)
      start += slot.rows
    fused.append(slot)
  return fused
