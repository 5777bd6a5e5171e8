"""Parameters and gradients by the names of transformers."""

import functools

import numpy as np

from medjax.models.families import tensor_slots


def by_tensor(params, config) -> dict[str, np.ndarray]:
  """A tree like the parameters', as the tensors of a Hugging Face model."""
  found = {}
  for slot in tensor_slots(config):
    value = np.asarray(functools.reduce(lambda tree, key: tree[key], slot.path, params))
    rows = found.setdefault(slot.tensor, np.full(slot.shape, np.nan, np.float32))
    rows[slot.start : slot.start + slot.rows] = slot.rows_of(value if slot.layer is None else value[slot.layer])
  return found
