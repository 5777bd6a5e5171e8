"""Frozen weights in 8 or 4 bits, a scale for each block of up to 64 along a kernel's last input axis.

Element-wise throughout, so that a kernel that is cut over devices stays cut; qwix, whose numbers the tests hold these
to, flattens arrays and looks values up by index.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8, UInt8

from medjax.arrays import Array
from medjax.errors import UserError

BLOCK = 64
KINDS = ("none", "int8", "nf4")

# Quantiles of the normal distribution, scaled to [-1, 1]: Dettmers et al. 2023, arXiv 2305.14314, appendix E.
NF4 = (
  *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
  *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
  *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Quantized(NamedTuple):
  """A kernel in blocks.

  Attributes:
    codes: int8 of the kernel's shape; or uint8, where the blocked axis holds half as many: of a block of b the first
      b / 2 nf4 codes in the low bits and the others in the high bits.
    scale: float32, one for each block.
  """

  codes: Int8[Array, "..."] | UInt8[Array, "..."]
  scale: Float[Array, "..."]


def quantized_shapes(sizes: tuple[int, ...], axis: int, kind: str) -> Quantized:
  """Shapes and dtypes of a kernel of these sizes in blocks along `axis`."""
  block = _block(sizes[axis], kind)

  def with_axis(size: int) -> tuple[int, ...]:
    return (*sizes[:axis], size, *sizes[axis + 1 :])

  codes = sizes if kind == "int8" else with_axis(sizes[axis] // 2)
  return Quantized(
    jax.ShapeDtypeStruct(codes, jnp.int8 if kind == "int8" else jnp.uint8),
    jax.ShapeDtypeStruct(with_axis(sizes[axis] // block), jnp.float32),
  )


def quantize(kernel: Float[Array, "..."], axis: int, kind: str) -> Quantized:
  """Rounds to the nearest of 255 even steps (`int8`) or 16 quantiles (`nf4`) up to the largest weight of a block.

  Args:
    kernel: any float dtype; computed in float32.
    axis: the blocked axis, counted from the front.
    kind: `int8` or `nf4`.
  """
  block = _block(kernel.shape[axis], kind)
  blocks = _split(kernel.astype(jnp.float32), axis, block)
  most = jnp.max(jnp.abs(blocks), axis=axis + 1, keepdims=True)
  scale = jnp.where(most > 0, most, 1.0) / (127.0 if kind == "int8" else 1.0)
  steps = blocks / scale
  if kind == "int8":
    codes = jnp.round(steps).astype(jnp.int8)
  else:
    middles = [(low + high) / 2 for low, high in zip(NF4[:-1], NF4[1:], strict=True)]
    codes = sum((steps > middle).astype(jnp.uint8) for middle in middles)
    low, high = jnp.split(codes, 2, axis=axis + 1)
    codes = low | (high << 4)
  return Quantized(_join(codes, axis), jnp.squeeze(scale, axis + 1))


def dequantize(kernel: Quantized, axis: int) -> Float[Array, "..."]:
  """The kernel's values in float32."""
  codes, count = kernel.codes, kernel.scale.shape[axis]
  steps = _split(codes, axis, codes.shape[axis] // count)
  if codes.dtype == jnp.uint8:
    steps = jnp.concatenate([_nf4_values(steps & 15), _nf4_values(steps >> 4)], axis=axis + 1)
  return _join(steps.astype(jnp.float32) * jnp.expand_dims(kernel.scale, axis + 1), axis)


def _nf4_values(codes: Array) -> Array:
  """Values of codes: each bit chooses between two halves, which costs no memory access."""
  values = [jnp.float32(value) for value in NF4]
  for bit in range(4):
    is_set = (codes >> bit) & 1 == 1
    values = [jnp.where(is_set, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
  return values[0]


def _block(size: int, kind: str) -> int:
  block = math.gcd(BLOCK, size)
  if kind == "nf4" and block % 2:
    raise UserError(f"lora.quantize = nf4 stores weights in pairs, and a kernel's axis has {size}; use int8")
  return block


def _split(x: Array, axis: int, block: int) -> Array:
  return x.reshape(*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])


def _join(x: Array, axis: int) -> Array:
  return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
