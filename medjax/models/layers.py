"""Norm, rotary positions and the gated feed-forward layer."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from medjax.arrays import Array
from medjax.models.config import Llama3Scaling, ModelConfig
from medjax.models.sharding import constrain, gather, send_home, tokens_are_split

KEPT = "kept"


def normal(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
  """A float32 parameter drawn from N(0, 0.02^2), as the families' own initialisers do."""
  return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x_BTI: Float[Array, "B T *I"], kernel_IO: Float[Array, "*IO"], letters: str) -> Float[Array, "B T *O"]:
  """The product over all axes of `x` after the second with the first axes of the kernel, in the dtype of `x`.

  On a mesh the kernel is gathered for this product alone, and again for the backward pass, which keeps the kernel as it
  is stored. The kernel's gradient is a float32 sum over rows, tokens and devices, and is kept in pieces.

  Args:
    x_BTI: activations, in the compute dtype.
    kernel_IO: the parameter of one layer, as it is stored.
    letters: what the kernel's axes are (`"DHE"`), see `models.sharding`.
  """
  outputs = kernel_IO.shape[x_BTI.ndim - 2 :]
  return (_merged(x_BTI) @ _matrix(x_BTI, kernel_IO, letters)).reshape(*x_BTI.shape[:2], *outputs)


def _project_forward(x_BTI, kernel_IO, letters):
  return project(x_BTI, kernel_IO, letters), (x_BTI, kernel_IO)


def _project_backward(letters, residuals, gradient_BTO):
  x_BTI, kernel_IO = residuals
  x_PI, gradient_PO = _merged(x_BTI), _merged(gradient_BTO)
  x_gradient_PI = gradient_PO @ _matrix(x_BTI, kernel_IO, letters).T
  summed = tuple(range(x_PI.ndim - 1))
  kernel_gradient_IO = jnp.tensordot(x_PI, gradient_PO, (summed, summed), preferred_element_type=jnp.float32)
  kernel_gradient_IO = send_home(kernel_gradient_IO.reshape(kernel_IO.shape), letters)
  return x_gradient_PI.reshape(x_BTI.shape), kernel_gradient_IO.astype(kernel_IO.dtype)


project.defvjp(_project_forward, _project_backward)


def _matrix(x_BTI, kernel_IO, letters):
  """The gathered kernel as a matrix, in the dtype of `x`."""
  return gather(kernel_IO, letters, x_BTI.dtype).reshape(math.prod(x_BTI.shape[2:]), -1)


def _merged(x_BTI):
  """[P, I]: rows and tokens as one axis, so that a kernel's gradient is a sum over one axis.

  XLA's CPU backend copies both operands of a sum over two (docs/performance.md). Tokens that are split over devices
  stay apart, since no sharding describes the merged axis.
  """
  B, T = x_BTI.shape[:2]
  return x_BTI.reshape(*((B, T) if tokens_are_split() else (B * T,)), -1)


def keep(x: Array) -> Array:
  """Marks a value that the backward pass reads from memory where `remat` is `products` (see `Decoder`)."""
  return checkpoint_name(x, KEPT)


class RMSNorm(nnx.Module):
  """Root mean square norm in float32 (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4)."""

  def __init__(self, width: int, epsilon: float):
    self.scale = nnx.Param(jnp.ones(width, jnp.float32))
    self.epsilon = epsilon

  def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    x32_BTD = x_BTD.astype(jnp.float32)
    scale_BT1 = jax.lax.rsqrt(jnp.mean(x32_BTD**2, axis=-1, keepdims=True) + self.epsilon)
    # Rounded as the families' own code rounds; multiplied in float32, so that the scale's gradient is summed there.
    normed_BTD = (x32_BTD * scale_BT1).astype(x_BTD.dtype).astype(jnp.float32)
    scale_D = self.scale[...].astype(x_BTD.dtype).astype(jnp.float32)
    return (normed_BTD * scale_D[None, None]).astype(x_BTD.dtype)


class MLP(nnx.Module):
  """SiLU-gated feed-forward layer (Shazeer 2020, arXiv 2002.05202: SwiGLU without bias)."""

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.gate = normal(rngs, config.width, config.ffn_width)
    self.up = normal(rngs, config.width, config.ffn_width)
    self.down = normal(rngs, config.ffn_width, config.width)

  def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    gate_BTF = keep(constrain(project(x_BTD, self.gate[...], "DF"), "BTF"))
    up_BTF = keep(constrain(project(x_BTD, self.up[...], "DF"), "BTF"))
    return project(jax.nn.silu(gate_BTF) * up_BTF, self.down[...], "FD")


def rope_frequencies(config: ModelConfig) -> Float[Array, "R"]:
  """Rotary frequencies, R = E / 2 of them, in radians a position; scaled as Llama 3 does where the config says so.

  Unscaled: Su et al. 2021, arXiv 2104.09864, sec. 3.2.2.

  Llama 3's rule: wavelengths longer than `original / low_freq_factor` are stretched by `factor`, those shorter than
  `original / high_freq_factor` stay, and between them the two are blended linearly in `original / wavelength`.
  """
  exponents = jnp.arange(0, config.head_width, 2, dtype=jnp.float32) / config.head_width
  frequencies = 1.0 / (config.rope_theta**exponents)
  scaling: Llama3Scaling | None = config.rope_scaling
  if scaling is None:
    return frequencies
  turns = scaling.original_max_positions * frequencies / (2 * jnp.pi)
  blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
  blend = jnp.clip(blend, 0.0, 1.0)
  return frequencies * (blend + (1.0 - blend) / scaling.factor)


def rope_tables(
  positions_BT: Int[Array, "B T"], config: ModelConfig
) -> tuple[Float[Array, "B T 1 R"], Float[Array, "B T 1 R"]]:
  """Cosines and sines of each position's R = E / 2 angles, float32, with an axis for the heads."""
  angles = positions_BT[:, :, None, None].astype(jnp.float32) * rope_frequencies(config)[None, None, None, :]
  return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x_BTHE: Float[Array, "B T H E"], tables) -> Float[Array, "B T H E"]:
  """Rotates the first half of each head against the second half (Hugging Face's convention)."""
  cos, sin = tables
  first, second = jnp.split(x_BTHE.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHE.dtype)
