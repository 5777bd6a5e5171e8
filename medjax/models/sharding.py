"""Where arrays live on the mesh: one rule for each parameter, one for each activation.

The mesh axes are `data` (batch), `fsdp` (batch, and parameters), `tensor` (heads, ffn and vocabulary) and `sequence`
(tokens). Outside a mesh the constraints do nothing, so that the same modules run in a notebook.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = ("data", "fsdp")

# Dimension letters of an activation -> mesh axes; letters that are absent are not sharded.
_ACTIVATION_AXES = {"B": BATCH, "T": "sequence", "H": "tensor", "K": "tensor", "F": "tensor"}

_PARAMETER_SPECS = {
  ("embed", "embedding"): P("tensor", "fsdp"),
  ("head", "kernel"): P("tensor", "fsdp"),
  ("final_norm", "scale"): P(),
  ("blocks", "attention_norm", "scale"): P(),
  ("blocks", "mlp_norm", "scale"): P(),
  ("blocks", "attention", "q"): P(None, "fsdp", "tensor", None),
  ("blocks", "attention", "k"): P(None, "fsdp", "tensor", None),
  ("blocks", "attention", "v"): P(None, "fsdp", "tensor", None),
  ("blocks", "attention", "o"): P(None, "tensor", None, "fsdp"),
  ("blocks", "mlp", "gate"): P(None, "fsdp", "tensor"),
  ("blocks", "mlp", "up"): P(None, "fsdp", "tensor"),
  ("blocks", "mlp", "down"): P(None, "tensor", "fsdp"),
}


def constrain(x: jax.Array, letters: str) -> jax.Array:
  """Constrains `x` on the mesh in use, one letter a dimension (`"BTD"`); the identity outside a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*(_ACTIVATION_AXES.get(letter) for letter in letters)))


def tokens_are_split() -> bool:
  """Whether the mesh in use splits the tokens of a row over devices."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.shape["sequence"] > 1


def parameter_specs(params: Any) -> Any:
  """The PartitionSpec of each parameter of a decoder, in a tree of the same structure."""
  return jax.tree_util.tree_map_with_path(lambda path, _: _PARAMETER_SPECS[tuple(key.key for key in path)], params)
