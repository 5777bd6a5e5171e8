"""Every family and variant computes what transformers computes: logits, gradients, greedy tokens, packed or not."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_models as reference
from named import by_tensor

import medjax
from medjax.models.decoder import bind, build, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.pretrained import load_pretrained
from medjax.models.views import Layout

# Those that decoding may treat in a way of its own; the others differ from them in what logits show.
DECODED = (
  "llama_grouped_tied",
  "mistral_window",
  "qwen2_yarn_window",
  "qwen3",
  "gemma2",
  "gemma3",
  "phi4_mini",
  "smollm3",
)
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
    return soft_capped(jnp.einsum("BTD,VD->BTV", hidden_BTD, head_matrix(params)), config.logit_softcap)

  def mean_logp(params, tokens, mask):
    logits_BTV = logits(params, tokens, mask)
    logp_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    scored = mask[:, 1:] * mask[:, :-1]
    return jnp.sum(jnp.take_along_axis(logp_BTV, tokens[:, 1:, None], 2)[..., 0] * scored) / jnp.sum(scored), logits_BTV

  return jax.jit(jax.grad(mean_logp, has_aux=True))


def ours(loaded, tokens, mask):
  gradients, logits = jax.device_get(compiled(loaded.config)(loaded.params, jnp.asarray(tokens), jnp.asarray(mask)))
  return logits, gradients


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_and_gradients(pair, side):
  model, path = pair
  loaded = load_pretrained(str(path))
  tokens, mask = reference.batch(side)
  expected = reference.torch_logits(model, tokens, mask).detach().numpy()
  assert np.abs(expected).max() > 2.5, "too flat to tell right from wrong"
  logits, gradients = ours(loaded, tokens, mask)
  np.testing.assert_allclose(logits[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)

  torch_gradients, got = reference.torch_gradients(model, tokens, mask), by_tensor(gradients, loaded.config)
  assert got.keys() == torch_gradients.keys()
  for name, wanted in torch_gradients.items():
    assert np.abs(got[name] - wanted).max() < 1e-3 * np.abs(wanted).max(), name


def test_packed_texts_have_the_logits_they_have_alone(pair):
  model, path = pair
  tokens, mask = reference.batch("right")
  lengths = mask.sum(1)
  row = np.concatenate([ids[:length] for ids, length in zip(tokens, lengths, strict=True)])[None]
  positions = np.concatenate([np.arange(length) for length in lengths])[None].astype(np.int32)
  segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)[None].astype(np.int32)
  loaded = load_pretrained(str(path))
  graph = build(loaded.config, "float32")
  hidden = bind(graph, loaded.params)(jnp.asarray(row), Layout(positions, segments, np.zeros_like(segments)))
  logits = soft_capped(hidden @ head_matrix(loaded.params).T, loaded.config.logit_softcap)
  expected = reference.torch_logits(model, tokens, mask).detach().numpy()[mask == 1]
  np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pair", DECODED, indirect=True)
def test_greedy_tokens(pair):
  model, path = pair
  expected = [reference.torch_greedy(model, prompt) for prompt in reference.PROMPTS]
  assert len(set(sum(expected, []))) > 12, "too dull to tell right from wrong"
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
    got = by_tensor(gradients, loaded.config)
    for name, norm in zip(recorded["names"].tolist(), recorded["gradient_norms"], strict=True):
      np.testing.assert_allclose(np.linalg.norm(got[name]), norm, rtol=1e-3, err_msg=name)
    if case in DECODED:
      generated = medjax.load(str(tmp_path)).generate([list(prompt) for prompt in reference.PROMPTS], 16)
      assert generated == recorded["greedy"].tolist()
