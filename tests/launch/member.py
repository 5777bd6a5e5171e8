"""A process of several: they meet as the variables say, and add up their devices."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from medjax import processes

processes.join()
mesh = jax.make_mesh((jax.device_count(),), ("data",))
ones = jax.make_array_from_callback(
  (jax.device_count(),), NamedSharding(mesh, PartitionSpec("data")), lambda _: jnp.ones((1,))
)
total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones)
print(f"{jax.process_index()} of {jax.process_count()}: {int(total)}")
