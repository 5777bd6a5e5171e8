"""Every supported variant computes what transformers computes: logits, gradients, greedy tokens."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_models as reference

import medjax
from medjax.models.attention import Layout
from medjax.models.decoder import bind, build, head_matrix
from medjax.models.families import tensor_table
from medjax.models.pretrained import load_pretrained

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(scope="module", params=list(reference.CASES))
def pair(request, tmp_path_factory):
  """A model of transformers, and where save_pretrained wrote it, in several shards."""
  model = reference.torch_model(request.param)
  path = tmp_path_factory.mktemp(request.param)
  model.save_pretrained(path, max_shard_size="30KB")
  assert len(list(path.glob("*.safetensors"))) > 1
  return model, path


@functools.cache
def compiled(config):
  graph = build(config, "float32")

  def logits(params, tokens, mask):
    hidden_BTD = bind(graph, params)(tokens, Layout.plain(mask))
    return jnp.einsum("BTD,VD->BTV", hidden_BTD, head_matrix(params))

  def mean_logp(params, tokens, mask):
    logits_BTV = logits(params, tokens, mask)
    logp_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    scored = mask[:, 1:] * mask[:, :-1]
    return jnp.sum(jnp.take_along_axis(logp_BTV, tokens[:, 1:, None], 2)[..., 0] * scored) / jnp.sum(scored), logits_BTV

  return jax.jit(jax.grad(mean_logp, has_aux=True))


def ours(loaded, tokens, mask):
  gradients, logits = jax.device_get(compiled(loaded.config)(loaded.params, jnp.asarray(tokens), jnp.asarray(mask)))
  return logits, gradients


def leaf(tree, path):
  for key in path:
    tree = tree[key]
  return tree


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_and_gradients(pair, side):
  model, path = pair
  loaded = load_pretrained(str(path))
  tokens, mask = reference.batch(side)
  expected = reference.torch_logits(model, tokens, mask).detach().numpy()
  assert np.abs(expected).max() > 3, "too flat to tell right from wrong"
  logits, gradients = ours(loaded, tokens, mask)
  np.testing.assert_allclose(logits[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)

  torch_gradients = reference.torch_gradients(model, tokens, mask)
  table = tensor_table(loaded.config)
  assert set(table) == set(torch_gradients)
  for name, slot in table.items():
    wanted = np.empty(slot.target, np.float32)
    slot.write(torch_gradients[name], wanted)
    got = leaf(gradients, slot.path)
    got = got if slot.layer is None else got[slot.layer]
    assert np.abs(got - wanted).max() < 1e-3 * np.abs(wanted).max(), name


def test_greedy_tokens(pair):
  model, path = pair
  expected = [reference.torch_greedy(model, prompt) for prompt in reference.PROMPTS]
  assert len(set(expected[0])) > 4, "too dull to tell right from wrong"
  assert medjax.load(str(path)).generate([list(prompt) for prompt in reference.PROMPTS], 16) == expected


@pytest.mark.parametrize("case", list(reference.CASES))
def test_recorded(case, tmp_path):
  with np.load(FIXTURES / f"parity_{case}.npz") as recorded:
    shapes = dict(zip(recorded["names"].tolist(), map(ast.literal_eval, recorded["shapes"].tolist()), strict=True))
    reference.write_directory(case, shapes, tmp_path)
    loaded = load_pretrained(str(tmp_path))
    tokens, mask = reference.batch("right")
    logits, gradients = ours(loaded, tokens, mask)
    np.testing.assert_allclose(logits[mask == 1], recorded["logits"], rtol=0, atol=1e-4)
    for name, norm in zip(recorded["names"].tolist(), recorded["gradient_norms"], strict=True):
      slot = tensor_table(loaded.config)[name]
      got = leaf(gradients, slot.path)
      got = got if slot.layer is None else got[slot.layer]
      np.testing.assert_allclose(np.linalg.norm(got), norm, rtol=1e-3, err_msg=name)
    generated = medjax.load(str(tmp_path)).generate([list(prompt) for prompt in reference.PROMPTS], 16)
    assert generated == recorded["greedy"].tolist()
