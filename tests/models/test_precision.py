"""Products have the precision of their dtype: float32 is float32 on a TPU and a GPU, too."""

import jax
import jax.numpy as jnp
import numpy as np
import packed
import pytest

from medjax.evaluation import decode
from medjax.models import attention, pallas_attention
from medjax.models import lora as adapters
from medjax.models.decoder import abstract_params, build
from medjax.models.lora import LoraConfig
from medjax.models.views import NO_WINDOW, Layout, view
from medjax.objectives.logprobs import policy_logps
from medjax.objectives.objective import Objective
from medjax.training import state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import jitted_step


def products_of(jaxpr):
  """Every `dot_general` of a program, with the programs inside of it (loops, custom rules, kernels)."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation
    for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from products_of(inner)


def rounded(jaxpr) -> list[str]:
  """Float32 products that a TPU or a GPU would round the operands of."""
  highest = jax.lax.Precision.HIGHEST
  return [
    str(equation.source_info.traceback or equation)
    for equation in products_of(jaxpr)
    if all(x.aval.dtype == jnp.float32 for x in equation.invars)
    and equation.params["precision"] not in (highest, (highest, highest))
  ]


@pytest.mark.parametrize("method, lora", [("sft", None), ("dpo", None), ("dpo", LoraConfig(2, 4.0, "all-linear"))])
def test_no_product_of_a_train_step_is_rounded(method, lora):
  branches = 1 if method == "sft" else 2
  batch = packed.pack(packed.random_groups(4, branches))
  params = abstract_params(packed.CONFIG, lora=lora)
  step = jitted_step(build(packed.CONFIG, "float32", lora=lora), Objective(method), 1.0, 0.0)
  frozen, trained = (None, params) if lora is None else adapters.split(params)
  current = state.abstract(trained, make_optimizer(1.0, 0.0))
  batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch)
  jaxpr = jax.make_jaxpr(step)(current, frozen, None, batches, np.int32(1), np.float32(1e-3), np.uint32(0))
  assert sum(1 for _ in products_of(jaxpr.jaxpr)) > 20
  assert rounded(jaxpr.jaxpr) == []


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_no_product_of_the_tpu_kernel_is_rounded(softcap):
  q_BTHE = jax.ShapeDtypeStruct((1, 128, 2, 8), jnp.float32)
  k_BKEC, v_BKCE = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 1, 8, 128), (1, 1, 128, 8)))
  layout = Layout.plain(jnp.ones((1, 128), jnp.int32))
  seen = view(layout, layout, jnp.int32(0), jnp.int32(NO_WINDOW))

  def loss(q, k, v):
    return attention._in_blocks(q, k, v, seen, 1.0, softcap, pallas_attention).sum()

  jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q_BTHE, k_BKEC, v_BKCE)
  assert sum(1 for _ in products_of(jaxpr.jaxpr)) == 2 + 1 + 3 + 4, "forward, mean of gradients, queries, keys"
  assert rounded(jaxpr.jaxpr) == []


def test_no_product_of_label_scoring_is_rounded():
  batch, graph = packed.pack(packed.random_groups(4, 3)), build(packed.CONFIG, "float32")
  jaxpr = jax.make_jaxpr(lambda params: policy_logps(graph, params, batch))(abstract_params(packed.CONFIG))
  assert rounded(jaxpr.jaxpr) == []


def test_no_product_of_decoding_is_rounded(monkeypatch):
  seen, bind = [], jax.lax.dot_general_p.bind

  def spy(x, y, **settings):
    seen.append((x.dtype, y.dtype, settings["precision"]))
    return bind(x, y, **settings)

  jax.clear_caches()  # or programs that were traced before would not be traced again
  monkeypatch.setattr(jax.lax.dot_general_p, "bind", spy)
  graph, params = packed.decoder()
  decode.generate(graph, params, packed.CONFIG, "float32", [[1, 2, 3]], [], 4)
  highest = jax.lax.Precision.HIGHEST
  assert len(seen) > 8 and {precision for *_, precision in seen} <= {highest, (highest, highest)}


def test_bfloat16_products_are_asked_for_no_more_than_they_have():
  batch, graph = packed.pack(packed.random_groups(4, 3)), build(packed.CONFIG, "bfloat16")
  jaxpr = jax.make_jaxpr(lambda params: policy_logps(graph, params, batch))(abstract_params(packed.CONFIG))
  default = jax.lax.Precision.DEFAULT
  of_bfloat16 = [x for x in products_of(jaxpr.jaxpr) if x.invars[0].aval.dtype == jnp.bfloat16]
  assert len(of_bfloat16) > 5
  assert {x.params["precision"] for x in of_bfloat16} <= {None, default, (default, default)}
