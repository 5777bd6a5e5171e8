"""Low-rank adapters (LoRA): which layers have one, and the parameter tree with and without them.

Hu et al. 2021, arXiv 2106.09685: a frozen kernel W becomes W + s A B, with A [inputs, R] drawn and B [R, outputs] zero.
"""

import dataclasses
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from medjax.arrays import Array
from medjax.errors import UserError
from medjax.models.quantize import Quantized, dequantize
from medjax.models.sharding import KERNELS

Params = dict[str, Any]
A, B = "lora_a", "lora_b"
ALL = "all-linear"

# Layers that may have an adapter, and the names that Hugging Face and PEFT give them.
TARGETS = {
  "q": "q_proj",
  "k": "k_proj",
  "v": "v_proj",
  "o": "o_proj",
  "gate": "gate_proj",
  "up": "up_proj",
  "down": "down_proj",
}


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Adapters of a model.

  Attributes:
    rank: R.
    alpha: the adapter's output is multiplied by alpha / rank.
    targets: `all-linear`, or a regular expression that the names in `TARGETS` match as a whole (`q_proj|v_proj`).
    dropout: share of an adapter's inputs that is zeroed in training.
    rslora: multiply by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732, eq. 3).

  Raises:
    UserError: `targets` is no regular expression, or matches no layer.
  """

  rank: int
  alpha: float
  targets: str = ALL
  dropout: float = 0.0
  rslora: bool = False

  def __post_init__(self):
    try:
      matched = [name for name in TARGETS if self.adapts(name)]
    except re.error as error:
      raise UserError(f"lora.targets = {self.targets!r} is no regular expression ({error})") from None
    if not matched:
      raise UserError(f"lora.targets = {self.targets!r} matches none of {', '.join(TARGETS.values())}")

  @property
  def scale(self) -> float:
    """What an adapter's output is multiplied by."""
    return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

  def adapts(self, name: str) -> bool:
    """Whether the layer `name` (a key of `TARGETS`) has an adapter."""
    return self.targets == ALL or re.fullmatch(self.targets, TARGETS[name]) is not None


class Adapters(NamedTuple):
  """How adapters are run: with dropout drawn from `key`, or without."""

  key: Array | None = None

  def fold(self, number: int | Array) -> "Adapters":
    """The same with a key of its own for a layer."""
    return self if self.key is None else Adapters(jax.random.fold_in(self.key, number))


def dropped(x: Float[Array, "*X"], adapters: Adapters, rate: float) -> Float[Array, "*X"]:
  """Zeroes a share `rate` of the entries and scales the others by 1 / (1 - rate); the identity without a key."""
  if adapters.key is None or not rate:
    return x
  kept = jax.random.bernoulli(adapters.key, 1.0 - rate, x.shape)
  return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))


def split(params: Params) -> tuple[Params, Params]:
  """(base, adapters): the tree without adapters, and the tree of nothing else."""
  base, adapters = {}, {}
  for key, value in params.items():
    if isinstance(value, dict):
      base[key], inner = split(value)
      if inner:
        adapters[key] = inner
    elif key in (A, B):
      adapters[key] = value
    else:
      base[key] = value
  return base, adapters


def join(base: Params, adapters: Params) -> Params:
  """The tree that `split` took apart."""
  joined = dict(base)
  for key, value in adapters.items():
    joined[key] = join(base.get(key, {}), value) if isinstance(value, dict) else value
  return joined


def merged(params: Params, scale: float) -> Params:
  """The tree with plain kernels: dequantized where they are quantized, each adapter added to its kernel.

  Args:
    params: the whole tree.
    scale: of the adapters, see `LoraConfig.scale`.
  """
  result = {}
  for key, value in params.items():
    if not isinstance(value, dict):
      result[key] = value
    elif key in TARGETS:
      rest = {name: x for name, x in value.items() if name not in (A, B, "codes", "block_scale")}
      result[key] = {**rest, "kernel": merged_kernel(value, key, scale)}
    else:
      result[key] = merged(value, scale)
  return result


def merged_kernel(layer: Params, name: str, scale: float) -> Float[Array, "..."]:
  """The plain kernel of a linear layer; in float32 where it was quantized or an adapter is added to it.

  Args:
    layer: its parameters, of one layer or stacked.
    name: key of `TARGETS`.
    scale: of the adapter.
  """
  inputs = len(KERNELS[name][0])
  if "codes" in layer:
    stacked = layer["codes"].ndim - len("".join(KERNELS[name]))
    kernel = dequantize(Quantized(layer["codes"], layer["block_scale"]), stacked + inputs - 1)
  else:
    kernel = layer["kernel"]
  return _with_adapter(kernel, layer[A], layer[B], scale, inputs=inputs) if A in layer else kernel


@functools.partial(jax.jit, static_argnames="inputs")
def _with_adapter(kernel, a, b, scale, *, inputs: int):
  R = a.shape[-1]
  stacked = kernel.shape[: a.ndim - 1 - inputs]
  change = jnp.matmul(a.reshape(*stacked, -1, R), b.reshape(*stacked, R, -1), precision=jax.lax.Precision.HIGHEST)
  return kernel.astype(jnp.float32) + scale * change.reshape(kernel.shape)
