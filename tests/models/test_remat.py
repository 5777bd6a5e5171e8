"""What the backward pass computes again changes its memory, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import packed

from medjax.models.decoder import bind, build
from medjax.models.views import Layout

CONFIG = dataclasses.replace(packed.CONFIG, num_layers=6)


def test_the_same_gradients_from_less_memory():
  _, params = packed.decoder(CONFIG)
  tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 48)))
  found = {}
  for remat in ("none", "products", "full"):
    graph = build(CONFIG, "float32", remat=remat)

    def loss(params, graph=graph):
      return (bind(graph, params)(tokens_BT, Layout.plain(jnp.ones_like(tokens_BT))) ** 2).mean()

    program = jax.jit(jax.grad(loss)).lower(params).compile()
    found[remat] = program(params), program.memory_analysis().temp_size_in_bytes
  for remat in ("products", "full"):
    for got, wanted in zip(*(jax.tree.leaves(found[name][0]) for name in (remat, "none")), strict=True):
      np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6 * float(jnp.abs(wanted).max()))
  none, products, full = (found[remat][1] for remat in ("none", "products", "full"))
  assert full < 0.8 * products and products < 0.8 * none
