"""The array type of signatures, and products whose precision follows from the dtype of what is multiplied."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray  # functions take JAX arrays, and NumPy arrays as the host makes them


def precision_of(dtype: jax.typing.DTypeLike) -> jax.lax.Precision:
  """Precision of a product in `dtype`: float32 means float32.

  By default a TPU rounds float32 operands to bfloat16, and an NVIDIA GPU to TF32. Operands in bfloat16 are not rounded.
  """
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def product(subscripts: str, x: Array, y: Array, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
  """`jnp.einsum` of two arrays of one dtype, at that dtype's precision.

  Args:
    subscripts: as in `jnp.einsum`.
    x: one operand.
    y: the other.
    dtype: of the result and of its sums.
  """
  return jnp.einsum(subscripts, x, y, precision=precision_of(x.dtype), preferred_element_type=dtype)
