"""The array type of signatures: functions take JAX arrays, and NumPy arrays as the host makes them."""

import jax
import numpy as np

Array = jax.Array | np.ndarray
