"""What a compiled train step needs beside its state, and how often a run compiles one."""

import functools
import math

import jax
import numpy as np
import pytest
from runs import overrides, train

from medjax.data import loader
from medjax.data.packing import RowShape
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, build
from medjax.objectives.objective import Objective
from medjax.training import loop, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import jitted_step


def temporary_bytes(method: str, vocabulary: int, tokens: int) -> int:
  """Of a step on one row; for SFT each of its tokens is scored, for DPO an eighth of them."""
  config = ModelConfig(vocabulary, 64, 2, 4, 2, 16, 128, max_positions=4096)
  current = state.abstract(abstract_params(config), make_optimizer(1.0, 0.0))
  row = RowShape(tokens, tokens if method == "sft" else tokens // 8, 8).empty(1)
  batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), row)
  step = jitted_step(build(config, "float32"), Objective(method), 1.0, 0.0)
  scalars = np.int32(1), np.float32(1e-3), np.uint32(0)
  return step.lower(current, None, None, batches, *scalars).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(method):
  """A vocabulary of 128k costs more than one of 32k, but twice the tokens cost the same under both."""
  found = {(V, T): temporary_bytes(method, V, T) for V in (32064, 128256) for T in (1024, 2048)}
  small, large = (found[V, 2048] - found[V, 1024] for V in (32064, 128256))
  assert large <= 1.02 * small + 2**20
  assert found[128256, 2048] < 128256 * 2048, "a quarter of the logits of one row"


def test_microbatches_add_to_one_set_of_gradients():
  """A step of four microbatches needs hardly more beside its state than one of a single one."""
  config = ModelConfig(256, 256, 6, 4, 4, 64, 1024, max_positions=4096)
  params = abstract_params(config)
  current = state.abstract(params, make_optimizer(1.0, 0.0))
  step = jitted_step(build(config, "float32"), Objective("sft"), 1.0, 0.0)
  scalars = np.int32(1), np.float32(1e-3), np.uint32(0)

  def temporary(microbatches: int) -> int:
    row = RowShape(128, 128, 1).empty(1)
    batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((microbatches, *x.shape), x.dtype), row)
    return step.lower(current, None, None, batches, *scalars).compile().memory_analysis().temp_size_in_bytes

  weights = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(params))
  assert temporary(4) - temporary(1) < weights / 10


def test_a_run_compiles_once_for_each_of_its_few_shapes(home, tmp_path, monkeypatch):
  compiled, calls, make = [], [], loop.jitted_step
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
  )

  def counting(*arguments):
    step = make(*arguments)

    def run(current, frozen, reference, batches, *scalars):
      before = len(compiled)
      result = step(current, frozen, reference, batches, *scalars)
      calls.append((tuple(x.shape for x in batches), len(compiled) - before))
      return result

    return run

  monkeypatch.setattr(loop, "jitted_step", counting)
  monkeypatch.setattr(loader, "few_shapes", functools.partial(loader.few_shapes, worth=0))  # however short the run
  monkeypatch.setattr(loop.mesh, "row_tile", lambda devices: 8)
  make.cache_clear()
  train(tmp_path / "run", overrides(home, train__steps=24, train__batch_size=3))
  shapes = [shape for shape, _ in calls]
  assert len(calls) == 24 and 1 < len(set(shapes)) <= 4
  for step, (shape, count) in enumerate(calls):
    assert count == (shape not in shapes[:step]), (step, shape)
