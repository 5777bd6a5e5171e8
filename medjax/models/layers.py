"""Linear layers with what variants add to them, norm, and the gated feed-forward layer."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from medjax.arrays import Array, precision_of
from medjax.models import sharding
from medjax.models.config import ModelConfig
from medjax.models.lora import Adapters, LoraConfig, dropped
from medjax.models.quantize import Quantized, dequantize, quantized_shapes
from medjax.models.sharding import constrain, gather, send_home, tokens_are_split

KEPT = "kept"


def normal(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
  """A float32 parameter drawn from N(0, 0.02^2), as the families' own initialisers do."""
  return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, jnp.float32))


Kernel = Float[Array, "*IO"] | Quantized


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x_BTI: Float[Array, "B T *I"], kernel_IO: Kernel, letters: str) -> Float[Array, "B T *O"]:
  """The product over all axes of `x` after the second with the first axes of the kernel, in the dtype of `x`.

  On a mesh the kernel is gathered for this product alone, and again for the backward pass, which keeps the kernel as it
  is stored. The kernel's gradient is a float32 sum over rows, tokens and devices, and is kept in pieces; a quantized
  kernel has none.

  Args:
    x_BTI: activations, in the compute dtype.
    kernel_IO: the parameter of one layer, as it is stored.
    letters: what the kernel's axes are (`"DHE"`), see `models.sharding`.
  """
  kernel_IO = _gathered(x_BTI, kernel_IO, letters)
  outputs = kernel_IO.shape[x_BTI.ndim - 2 :]
  return jnp.matmul(_merged(x_BTI), _matrix(x_BTI, kernel_IO), precision=precision_of(x_BTI.dtype)).reshape(
    *x_BTI.shape[:2], *outputs
  )


def _project_forward(x_BTI, kernel_IO, letters):
  return project(x_BTI, kernel_IO, letters), (x_BTI, kernel_IO)


def _project_backward(letters, residuals, gradient_BTO):
  x_BTI, kernel_IO = residuals
  x_PI, gradient_PO = _merged(x_BTI), _merged(gradient_BTO)
  kernel_OI = _matrix(x_BTI, _gathered(x_BTI, kernel_IO, letters)).T
  x_gradient_PI = jnp.matmul(gradient_PO, kernel_OI, precision=precision_of(x_BTI.dtype))
  x_gradient_BTI = x_gradient_PI.reshape(x_BTI.shape)
  if isinstance(kernel_IO, Quantized):
    return x_gradient_BTI, None
  summed = tuple(range(x_PI.ndim - 1))
  kernel_gradient_IO = jnp.tensordot(
    x_PI, gradient_PO, (summed, summed), precision=precision_of(x_PI.dtype), preferred_element_type=jnp.float32
  )
  kernel_gradient_IO = send_home(kernel_gradient_IO.reshape(kernel_IO.shape), letters)
  return x_gradient_BTI, kernel_gradient_IO.astype(kernel_IO.dtype)


project.defvjp(_project_forward, _project_backward)


def _gathered(x_BTI, kernel_IO, letters):
  """The kernel where it is used, in the dtype of `x`; of a quantized one the codes travel."""
  if not isinstance(kernel_IO, Quantized):
    return gather(kernel_IO, letters, x_BTI.dtype)
  here = Quantized(*(gather(x, letters, x.dtype) for x in kernel_IO))
  return dequantize(here, x_BTI.ndim - 3).astype(x_BTI.dtype)


def _matrix(x_BTI, kernel_IO):
  return kernel_IO.reshape(math.prod(x_BTI.shape[2:]), -1)


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


def soft_capped(x: Float[Array, "*X"], cap: float | None) -> Float[Array, "*X"]:
  """Cap tanh(x / cap) (Gemma 2, arXiv 2408.00118, sec. 2); `x` where there is no cap."""
  return x if cap is None else cap * jnp.tanh(x / cap)


class Linear(nnx.Module):
  """A linear layer: a kernel (or its quantized blocks), and where the variant has them a bias and a low-rank adapter.

  Args:
    name: key of `lora.TARGETS`; decides the letters of the kernel's axes, see `models.sharding`.
    config: gives their sizes.
    bias: whether there is a bias.
    lora: adapters of the model.
    quantize: how the kernel is stored, one of `quantize.KINDS`.
    rngs: source of the initial values.
  """

  def __init__(
    self, name: str, config: ModelConfig, bias: bool, lora: LoraConfig | None, quantize: str, *, rngs: nnx.Rngs
  ):
    self.number = list(sharding.KERNELS).index(name)
    self.inputs, self.outputs = sharding.KERNELS[name]
    sizes = kernel_sizes(name, config)
    count = len(self.inputs)
    if quantize == "none":
      self.kernel = normal(rngs, *sizes)
    else:
      shapes = quantized_shapes(sizes, count - 1, quantize)
      self.codes, self.block_scale = (nnx.Param(jnp.zeros(x.shape, x.dtype)) for x in shapes)
    if bias:
      self.bias = nnx.Param(jnp.zeros(sizes[count:], jnp.float32))
    self.lora = lora if lora is not None and lora.adapts(name) else None
    if self.lora is not None:
      # As in PEFT: A is uniform in +-1 / sqrt(inputs), B is zero.
      bound = math.prod(sizes[:count]) ** -0.5
      shape = (*sizes[:count], self.lora.rank)
      self.lora_a = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))
      self.lora_b = nnx.Param(jnp.zeros((self.lora.rank, *sizes[count:]), jnp.float32))

  def __call__(self, x_BTI: Float[Array, "B T *I"], adapters: Adapters | None) -> Float[Array, "B T *O"]:
    """The layer's output; without its adapter where `adapters` is None."""
    kernel_IO = self.kernel[...] if hasattr(self, "kernel") else Quantized(self.codes[...], self.block_scale[...])
    y_BTO = project(x_BTI, kernel_IO, self.inputs + self.outputs)
    if hasattr(self, "bias"):
      y_BTO += self.bias[...].astype(y_BTO.dtype)[None, None]
    if self.lora is not None and adapters is not None:
      x_BTI = dropped(x_BTI, adapters.fold(self.number), self.lora.dropout)
      low_BTR = keep(project(x_BTI, self.lora_a[...], self.inputs + "R"))
      y_BTO += self.lora.scale * project(low_BTR, self.lora_b[...], "R" + self.outputs)
    return y_BTO


def kernel_sizes(name: str, config: ModelConfig) -> tuple[int, ...]:
  """Sizes of a kernel's axes in one layer."""
  of_letter = {
    "D": config.width,
    "H": config.num_heads,
    "K": config.num_kv_heads,
    "E": config.head_width,
    "F": config.ffn_width,
  }
  return tuple(of_letter[letter] for letter in "".join(sharding.KERNELS[name]))


class RMSNorm(nnx.Module):
  """Root mean square norm in float32 over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).

  Args:
    width: size of the axis.
    epsilon: added to the mean square.
    offset: multiply by 1 + scale in float32, as Gemma does.
  """

  def __init__(self, width: int, epsilon: float, offset: bool = False):
    self.scale = nnx.Param(jnp.zeros(width, jnp.float32) if offset else jnp.ones(width, jnp.float32))
    self.epsilon = epsilon
    self.offset = offset

  def __call__(self, x: Float[Array, "*X D"]) -> Float[Array, "*X D"]:
    return _rms_norm(x, self.scale[...], self.epsilon, self.offset)


def row_sums(x: Float[Array, "*X D"]) -> Float[Array, "*X 1"]:
  """Sums over the last axis, as a product with ones: XLA's CPU backend sums rows several times slower."""
  return jnp.matmul(x, jnp.ones((x.shape[-1], 1), x.dtype), precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rms_norm(x, scale_D, epsilon, offset):
  """Rounded as the families' own code rounds: Gemma's once, the others' before the scale, too."""
  normed = _normed(x, epsilon)[0]
  if not offset:
    normed = normed.astype(x.dtype).astype(jnp.float32)
  return (normed * _factor(x, scale_D, offset)).astype(x.dtype)


def _normed(x, epsilon):
  """`x` over its root mean square, and one over that, in float32."""
  x = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(row_sums(x * x) / x.shape[-1] + epsilon)
  return x * inverse, inverse


def _factor(x, scale_D, offset):
  scale = jnp.expand_dims(scale_D, range(x.ndim - 1))
  return 1.0 + scale.astype(jnp.float32) if offset else scale.astype(x.dtype).astype(jnp.float32)


def _rms_norm_forward(x, scale_D, epsilon, offset):
  return _rms_norm(x, scale_D, epsilon, offset), (x, scale_D)


def _rms_norm_backward(epsilon, offset, residuals, gradient):
  """By hand, so that the sum for the scale is one of its own: fused with all before it, it was ten times slower."""
  x, scale_D = residuals
  normed, inverse = _normed(x, epsilon)
  gradient = gradient.astype(jnp.float32)
  scaled = gradient * _factor(x, scale_D, offset)
  x_gradient = inverse * (scaled - normed * (row_sums(scaled * normed) / x.shape[-1]))
  scale_gradient_D = (gradient * normed).sum(axis=range(x.ndim - 1))
  return x_gradient.astype(x.dtype), scale_gradient_D.astype(scale_D.dtype)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class MLP(nnx.Module):
  """Gated feed-forward layer (Shazeer 2020, arXiv 2002.05202: SwiGLU or GeGLU, without bias)."""

  def __init__(self, config: ModelConfig, lora: LoraConfig | None, quantize: str, *, rngs: nnx.Rngs):
    self.gate, self.up, self.down = (
      Linear(name, config, False, lora, quantize, rngs=rngs) for name in ("gate", "up", "down")
    )
    self.activation = config.activation

  def __call__(self, x_BTD: Float[Array, "B T D"], adapters: Adapters | None) -> Float[Array, "B T D"]:
    gate_BTF = keep(constrain(self.gate(x_BTD, adapters), "BTF"))
    up_BTF = keep(constrain(self.up(x_BTD, adapters), "BTF"))
    return self.down(ACTIVATIONS[self.activation](gate_BTF) * up_BTF, adapters)
