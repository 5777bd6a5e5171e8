"""Each kernel of attention against the textbook in float64; TPU kernels run as XLA operations (interpreted)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest

from medjax.errors import UserError
from medjax.models import attention, blockwise, kernels, library_attention, pallas_attention
from medjax.models.config import ModelConfig
from medjax.models.views import NO_WINDOW, Layout, view, visible
from medjax.training import mesh

SCALE = 0.3


class Kernel(NamedTuple):
  forward: Any
  backward: Any


PALLAS = Kernel(*(functools.partial(f, interpret=True) for f in (pallas_attention.forward, pallas_attention.backward)))
LIBRARY = {
  "splash": functools.partial(library_attention.splash, interpret=True),
  "cudnn": functools.partial(library_attention.cudnn, implementation="xla"),
}


class Case(NamedTuple):
  """What attention is run on: rows packed with groups of so many branches, the last T tokens of C as queries."""

  T: int = 300
  C: int = 300
  start: int = 0
  H: int = 4
  K: int = 2
  E: int = 16
  branches: int = 2
  window: int = NO_WINDOW
  softcap: float | None = None
  dtype: Any = jnp.float32
  seed: int = 0


CASES = {
  "packed": Case(),
  "many_groups": Case(T=400, C=400, H=3, K=3, branches=4, seed=1),
  "window": Case(window=23, seed=2),
  "softcap": Case(H=6, K=1, E=24, softcap=2.0, seed=3),
  "one_block": Case(T=70, C=70, seed=4),
  "cache": Case(T=140, C=430, start=170, H=4, K=1, seed=5),
  "cache_window": Case(T=140, C=430, start=170, window=31, softcap=3.0, branches=1, seed=6),
  "bfloat16": Case(E=64, dtype=jnp.bfloat16, seed=7),
}


@functools.cache
def inputs(case: Case, rows: int = 2):
  """(q, k, v, view, gradient of the output): rows with groups of unequal lengths, and padding at the end."""
  draw = np.random.default_rng(case.seed)
  positions_BT, segments_BT, branches_BT = np.zeros((3, rows, case.start + case.T), np.int32)
  for b in range(rows):
    at, segment = 0, 1
    while True:
      prompt = int(draw.integers(1, 60))
      lengths = draw.integers(1, 40, case.branches)
      parts = [(0, 0, prompt), *((n, prompt, int(length)) for n, length in enumerate(lengths, start=1))]
      if at + prompt + lengths.sum() > case.start + case.T - 20:
        break
      for branch, first, length in parts:
        here = slice(at, at + length)
        positions_BT[b, here], segments_BT[b, here] = np.arange(first, first + length), segment
        branches_BT[b, here] = branch
        at += length
      segment += 1
  layout = Layout(*map(jnp.asarray, (positions_BT, segments_BT, branches_BT)))
  queries = Layout(*(x[:, case.start :] for x in layout))
  keys = Layout(*(jnp.pad(x, ((0, 0), (0, case.C - x.shape[1]))) for x in layout))

  def normal(*shape):
    return jnp.asarray(draw.standard_normal(shape), case.dtype)

  q_BTHE, gradient_BTHE = normal(rows, case.T, case.H, case.E), normal(rows, case.T, case.H, case.E)
  k_BKEC, v_BKCE = normal(rows, case.K, case.E, case.C), normal(rows, case.K, case.C, case.E)
  gradient_BTHE *= (queries.segments > 0)[:, :, None, None]  # nothing is learned from padding
  return q_BTHE, k_BKEC, v_BKCE, view(queries, keys, jnp.int32(case.start), jnp.int32(case.window)), gradient_BTHE


@functools.cache
def textbook(case: Case, rows: int = 2) -> dict[str, np.ndarray]:
  """All scores, softmax over them, and its derivative, in float64."""
  *arrays, seen, gradient_BTHE = inputs(case, rows)
  q_BTHE, k_BKEC, v_BKCE, gradient_BTHE = (np.asarray(x, np.float64) for x in (*arrays, gradient_BTHE))
  G = case.H // case.K
  k_BHEC, v_BHCE = np.repeat(k_BKEC, G, axis=1), np.repeat(v_BKCE, G, axis=1)
  scores_BHTC = np.einsum("BTHE,BHEC->BHTC", q_BTHE, k_BHEC) * SCALE
  slope_BHTC = 1.0
  if case.softcap is not None:
    slope_BHTC = 1 - np.tanh(scores_BHTC / case.softcap) ** 2
    scores_BHTC = case.softcap * np.tanh(scores_BHTC / case.softcap)
  scores_BHTC = np.where(np.asarray(visible(seen.queries, seen.keys, seen.window))[:, None], scores_BHTC, -np.inf)
  lse_BHT = np.log(np.exp(scores_BHTC).sum(axis=3))
  weights_BHTC = np.exp(scores_BHTC - lse_BHT[..., None])
  weight_gradient_BHTC = np.einsum("BTHE,BHCE->BHTC", gradient_BTHE, v_BHCE)
  mean_BHT1 = (weights_BHTC * weight_gradient_BHTC).sum(axis=3, keepdims=True)
  score_gradient_BHTC = weights_BHTC * (weight_gradient_BHTC - mean_BHT1) * slope_BHTC * SCALE
  k_gradient_BHEC = np.einsum("BHTC,BTHE->BHEC", score_gradient_BHTC, q_BTHE)
  v_gradient_BHCE = np.einsum("BHTC,BTHE->BHCE", weights_BHTC, gradient_BTHE)
  real_BT11 = np.asarray(seen.queries.segments > 0)[:, :, None, None]
  return {
    "out": np.einsum("BHTC,BHCE->BTHE", weights_BHTC, v_BHCE) * real_BT11,
    "lse": lse_BHT.swapaxes(1, 2) * real_BT11[..., 0],
    "q": np.einsum("BHTC,BHEC->BTHE", score_gradient_BHTC, k_BHEC),
    "k": k_gradient_BHEC.reshape(*k_BKEC.shape[:2], G, *k_BKEC.shape[2:]).sum(axis=2),
    "v": v_gradient_BHCE.reshape(*v_BKCE.shape[:2], G, *v_BKCE.shape[2:]).sum(axis=2),
  }


def close(got: dict[str, Any], case: Case, relative: float, rows: int = 2) -> None:
  """Each array as the textbook's, to `relative` times its largest entry."""
  real_BT = np.asarray(inputs(case, rows)[3].queries.segments > 0)
  for name, have in got.items():
    have, want = np.asarray(have, np.float64), textbook(case, rows)[name]
    assert np.isfinite(have).all(), name
    if name in ("out", "lse"):
      have = np.where(real_BT.reshape(*real_BT.shape, *(1,) * (have.ndim - 2)), have, 0.0)
    assert np.abs(have - want).max() <= relative * np.abs(want).max(), name


@functools.partial(jax.jit, static_argnums=(0, 5))
def run(kernel, q_BTHE, k_BKEC, v_BKCE, seen, softcap, gradient_BTHE):
  out_BTHE, lse_BTH = kernel.forward(q_BTHE, k_BKEC, v_BKCE, seen, SCALE, softcap)
  gradients = kernel.backward(q_BTHE, k_BKEC, v_BKCE, seen, SCALE, softcap, out_BTHE, lse_BTH, gradient_BTHE)
  return dict(zip(("out", "lse", "q", "k", "v"), (out_BTHE, lse_BTH, *gradients), strict=True))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """As many blocks as short rows can have."""
  monkeypatch.setattr(pallas_attention, "_MOST_TOKENS", 128)
  monkeypatch.setattr(pallas_attention, "_MOST_KEYS", 128)
  monkeypatch.setattr(library_attention, "_BLOCK", 128)
  with jax.default_matmul_precision("highest"):
    yield


@pytest.mark.parametrize("kernel", [Kernel(blockwise.forward, blockwise.backward), PALLAS], ids=["blockwise", "pallas"])
@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_textbook(name, kernel):
  case = CASES[name]
  found = run(kernel, *inputs(case)[:4], case.softcap, inputs(case)[4])
  assert found["k"].dtype == found["v"].dtype == found["lse"].dtype == jnp.float32
  assert found["out"].dtype == found["q"].dtype == case.dtype
  # Weights and their gradients are rounded to 8 bits before they are multiplied, and so are outputs.
  close(found, case, 1e-2 if case.dtype == jnp.bfloat16 else 2e-6)


def test_blocks_that_are_wider_than_high_and_the_reverse(monkeypatch):
  for tokens, keys in ((128, 256), (256, 128)):
    monkeypatch.setattr(pallas_attention, "_MOST_TOKENS", tokens)
    monkeypatch.setattr(pallas_attention, "_MOST_KEYS", keys)
    case = Case(T=520, C=520, window=90, seed=tokens)
    close(run.__wrapped__(PALLAS, *inputs(case)[:4], None, inputs(case)[4]), case, 2e-6)


def test_queries_that_see_nothing_give_zeros():
  *arrays, seen, gradient_BTHE = inputs(CASES["packed"])
  found = run(PALLAS, *arrays, seen._replace(window=jnp.int32(0)), None, gradient_BTHE)
  for name in ("out", "q", "k", "v"):
    np.testing.assert_array_equal(found[name], 0.0, err_msg=name)


def through_attend(case: Case, implementation: str, sizes: dict[str, int] | None, rows: int) -> dict[str, Any]:
  """Output and gradients of `attend`, on a mesh of all devices or on none."""
  q_BTHE, k_BKEC, v_BKCE, seen, gradient_BTHE = inputs(case, rows)

  @jax.jit
  def both(*arrays):
    def out(*arrays):
      return attention.attend(*arrays, seen, SCALE, case.softcap, implementation)

    out_BTHE, pull = jax.vjp(out, *arrays)
    return out_BTHE, *pull(gradient_BTHE)

  if sizes is None:
    found = both(q_BTHE, k_BKEC, v_BKCE)
  else:
    with jax.set_mesh(mesh.make_mesh(sizes)):
      found = both(q_BTHE, k_BKEC, v_BKCE)
  return dict(zip(("out", "q", "k", "v"), found, strict=True))


ROWS_AND_HEADS = {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}
TOKENS = {"data": 1, "fsdp": 4, "tensor": 1, "sequence": 2}


@pytest.mark.parametrize("sizes", [None, ROWS_AND_HEADS, TOKENS], ids=["alone", "rows_and_heads", "tokens"])
@pytest.mark.parametrize("implementation", ["pallas", "splash", "cudnn"])
def test_attend_with_each_kernel(implementation, sizes, monkeypatch):
  monkeypatch.setitem(attention._KERNELS, "pallas", PALLAS)
  for name, function in LIBRARY.items():
    monkeypatch.setitem(attention._LIBRARY, name, function)
  # Splash knows rows with one completion for each prompt, and gives rows that are split to our own kernel.
  case = Case(
    T=256,
    C=256,
    branches=1 if implementation == "splash" else 2,
    window=NO_WINDOW if implementation == "splash" else 40,
    softcap=None if implementation == "cudnn" else 4.0,
    seed=8,
  )
  close(through_attend(case, implementation, sizes, 4), case, 2e-6, 4)


def test_splash_fills_rows_up_and_looks_at_a_cache_with_our_kernel(monkeypatch):
  monkeypatch.setitem(attention._KERNELS, "pallas", PALLAS)
  monkeypatch.setitem(attention._LIBRARY, "splash", LIBRARY["splash"])
  for case in (Case(T=210, C=210, branches=1, seed=9), CASES["cache"]):
    close(through_attend(case, "splash", None, 2), case, 2e-6)


GEMMA = ModelConfig(64, 16, 2, 4, 2, 4, 32, attention_softcap=50.0, sliding_window=8)
NARROW, WIDE = packed.CONFIG, ModelConfig(64, 16, 2, 4, 2, 256, 32)


@pytest.mark.parametrize(
  ("platform", "config", "dtype", "plain", "split", "wanted"),
  [
    ("cpu", NARROW, "float32", True, False, "xla"),
    ("tpu", NARROW, "bfloat16", True, False, "splash"),
    ("tpu", NARROW, "float32", True, False, "pallas"),
    ("tpu", NARROW, "bfloat16", True, True, "pallas"),
    ("tpu", NARROW, "bfloat16", False, False, "pallas"),
    ("tpu", GEMMA, "bfloat16", True, False, "pallas"),
    ("gpu", ModelConfig(64, 16, 2, 4, 2, 8, 32), "bfloat16", False, True, "cudnn"),
    ("gpu", NARROW, "bfloat16", False, False, "xla"),  # heads of 4
    ("gpu", WIDE, "float32", True, False, "xla"),
    ("gpu", GEMMA, "bfloat16", True, False, "xla"),
  ],
)
def test_auto_takes_the_first_kernel_that_can_run(platform, config, dtype, plain, split, wanted, monkeypatch):
  monkeypatch.setattr(kernels, "_compute_capability", lambda: 9.0)
  kernels._choose.cache_clear()
  assert kernels._choose("auto", config, dtype, plain, platform, split) == wanted


@pytest.mark.parametrize(
  ("name", "platform", "config", "plain", "split", "words"),
  [
    ("splash", "cpu", NARROW, True, False, "'splash', which needs a TPU; choose auto or xla"),
    ("splash", "tpu", NARROW, False, False, "one completion for each prompt .* choose auto or pallas or xla"),
    ("splash", "tpu", packed.WINDOW, True, False, "without sliding windows"),
    ("splash", "tpu", NARROW, True, True, "whole on a device .mesh.sequence = 1"),
    ("pallas", "gpu", NARROW, True, False, "needs a TPU"),
    ("cudnn", "cpu", NARROW, True, False, "an NVIDIA GPU of compute capability 8.0"),
    ("cudnn", "gpu", NARROW, True, False, "heads of at most 128 columns, in eights"),
    ("cudnn", "gpu", WIDE, True, False, "heads of at most 128 columns"),
    ("cudnn", "gpu", GEMMA, True, False, "without a soft cap"),
    ("flash", "tpu", NARROW, True, False, "choose one of auto, splash, pallas, cudnn, xla"),
  ],
)
def test_what_cannot_run_is_refused_with_what_it_needs(name, platform, config, plain, split, words, monkeypatch):
  monkeypatch.setattr(kernels, "_compute_capability", lambda: 8.0)
  kernels._choose.cache_clear()
  with pytest.raises(UserError, match=words):
    kernels._choose(name, config, "bfloat16", plain, platform, split)


def test_the_platform_is_that_of_the_mesh_and_the_choice_is_logged_once(caplog):
  kernels._choose.cache_clear()
  with pytest.raises(UserError, match="needs a TPU"):
    kernels.choose("pallas", NARROW, "float32")
  device = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
  tpus = jax.sharding.AbstractMesh((1, 4, 1, 1), ("data", "fsdp", "tensor", "sequence"), abstract_device=device)
  with caplog.at_level("INFO"), jax.sharding.use_abstract_mesh(tpus):
    for _ in range(2):
      assert kernels.choose("auto", NARROW, "bfloat16") == "pallas"
  assert caplog.messages == ["attention: pallas (splash needs rows with one completion for each prompt (method = sft))"]
