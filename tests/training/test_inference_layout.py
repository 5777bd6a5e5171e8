"""How weights that only answer are laid out on devices, and cast once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest
from absl import logging

from medjax.evaluation import decode
from medjax.models.decoder import abstract_params, bind, build, cast_weights, weight_bytes
from medjax.models.views import Layout
from medjax.training import mesh

CONFIG = dataclasses.replace(packed.CONFIG, num_kv_heads=4)  # heads divide by 4, all else by 8
GIVEN = {"data": 1, "fsdp": -1, "tensor": 1, "sequence": 2}
SIZE = 800


@pytest.mark.parametrize(
  ("decodes", "memory", "wanted", "warned"),
  [
    (True, 1e9, (2, 1, 4, 1), False),  # heads divide by 4; two sets of devices hold all weights each
    (True, 2 * SIZE / 4, (2, 1, 4, 1), False),
    (True, 2 * SIZE / 4 - 1, (1, 2, 4, 1), True),  # half of the memory is less than a quarter of the weights
    (False, 2 * SIZE, (4, 1, 1, 2), False),
    (False, SIZE, (2, 1, 2, 2), False),
    (False, SIZE / 4, (1, 1, 4, 2), False),  # all that heads allow, and no devices are left
  ],
)
def test_weights_stay_whole_where_they_have_room(monkeypatch, decodes, memory, wanted, warned):
  lines = []
  monkeypatch.setattr(logging, "warning", lambda *words: lines.append(words[0] % words[1:]))
  devices = mesh.for_inference(mesh.make_mesh(GIVEN), CONFIG, SIZE, memory, decodes)
  assert tuple(devices.shape[axis] for axis in ("data", "fsdp", "tensor", "sequence")) == wanted
  assert len(lines) == warned and all("gathered over fsdp = 2 for every token" in line for line in lines)


@pytest.mark.parametrize("offset", [False, True], ids=["llama", "gemma"])
def test_weights_that_are_cast_once_give_the_same_values(offset):
  config = dataclasses.replace(packed.CONFIG, offset_norms=offset, qkv_bias=True)
  draw = np.random.default_rng(0)
  stored = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), jnp.float32), abstract_params(config))
  once = cast_weights(jax.tree.map(lambda x: x, stored), "bfloat16")
  assert stored["embed"]["embedding"].dtype == once["final_norm"]["scale"].dtype == jnp.float32
  assert once["embed"]["embedding"].dtype == once["blocks"]["attention"]["q"]["bias"].dtype == jnp.bfloat16
  assert sum(x.nbytes for x in jax.tree.leaves(once)) == weight_bytes(config, "bfloat16")
  graph = build(config, "bfloat16")
  tokens_BT = draw.integers(0, 64, (2, 24)).astype(np.int32)
  row = Layout.plain(jnp.ones((2, 24), jnp.int32))
  of_stored, of_once = (jax.jit(lambda p: bind(graph, p)(tokens_BT, row))(params) for params in (stored, once))
  np.testing.assert_array_equal(np.asarray(of_stored, np.float32), np.asarray(of_once, np.float32))
  answers = [decode.generate(graph, params, config, "bfloat16", tokens_BT.tolist(), (), 8) for params in (stored, once)]
  assert answers[0] == answers[1]
