"""Throughput of the real train step on the devices at hand, beside a forward pass over the same batch."""

import dataclasses
import resource
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax import tasks
from medjax.data import chat, items, packing
from medjax.data.examples import Segments
from medjax.data.loader import Plan
from medjax.errors import UserError
from medjax.hardware import flops
from medjax.models import lora as adapters
from medjax.models.config import ModelConfig
from medjax.models.decoder import init_params
from medjax.models.families import PRESETS
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.objectives.scoring import score
from medjax.training import mesh, state
from medjax.training.checkpoints import lora_of
from medjax.training.optimizer import make_optimizer
from medjax.training.policy import Policy, frozen_weights, initial_policy, new_adapters
from medjax.training.step import add_microbatches, jitted_step, loss_sums, objective_of
from medjax.training.telemetry import progress

WARM_UP = 2  # steps run before the clock starts, after compilation
# Synthetic examples: a note and a short answer, as in the clinical tasks.
_PROMPT_TOKENS, _COMPLETION_TOKENS = (64, 192), (8, 48)


def bench(config, steps: int) -> dict[str, Any]:
  """Times `steps` train steps, each followed by a forward pass over the same batch.

  Args:
    config: a validated run config; `model.path` may also name a preset, which gets random weights. Without data and
      task the examples are random token ids.
    steps: how many to time.

  Returns:
    One line of a benchmark file (keys in docs/architecture.md). Times are wall seconds around work that has been
    waited for; compilation and `WARM_UP` steps are left out.

  Raises:
    UserError: config, model or data cannot be used.
  """
  if config.method not in ("sft", "dpo"):
    raise UserError(f"config.method is {config.method!r}; `medjax bench` times sft or dpo")
  if config.train.init_from:
    raise UserError("config.train.init_from is set; bench starts from config.model.path")
  devices = mesh.make_mesh(config.mesh.to_dict())
  described, groups = _workload(config)
  mesh.check_divides(described, devices, config.train.row_length, config.train.microbatch_rows)
  with jax.set_mesh(devices):
    policy = _policy(config, described, devices)
    graph = policy.graph(described, config.model.dtype, config.model.attention, config.model.remat)
    known = None
    if config.method == "dpo" and config.preference.reference == "precomputed":
      rows, sharding = mesh.whole_rows(devices, config.evaluation.batch_size), mesh.batch_sharding(devices)
      known = np.stack(score(graph, policy.params, groups, config.train.row_length, rows, sharding))
    plan = Plan(
      groups,
      steps + WARM_UP,
      config.seed,
      config.train.batch_size,
      packing.choose_shape(groups, config.train.row_length),
      config.train.microbatch_rows,
      mesh.batch_multiple(devices),
      known,
    )
    measured = _measure(config, graph, policy, plan, devices)
  return _line(config, described, devices, plan, measured)


class _Measured(NamedTuple):
  """Wall seconds of each timed step and of the forward pass beside it, of the step's compilation, and all losses."""

  steps: list[float]
  forwards: list[float]
  compilation: float
  losses: list[float]


def _measure(config, graph, policy: Policy, plan: Plan, devices) -> _Measured:
  objective = objective_of(config)
  forward_only = dataclasses.replace(objective, lora_base=False)  # the policy's pass, whatever the reference
  optimizer = make_optimizer(config.optimizer.clip_norm, config.optimizer.weight_decay)
  places = state.shardings(state.abstract(policy.trainable, optimizer), optimizer, devices)
  live = jax.tree.map(jnp.copy, policy.trainable) if config.preference.reference == "live" else None
  current = jax.jit(lambda p: state.create(p, optimizer), out_shardings=places, donate_argnums=0)(policy.trainable)
  rate, seed = np.float32(config.optimizer.learning_rate), np.uint32(config.seed % 2**32)
  whole = NamedSharding(devices, P())

  def inputs(step: int):
    item = plan[step]
    return mesh.place(item.batches, mesh.batch_sharding(devices, leading=1)), np.int32(item.used)

  def forward(params, frozen, batches, used):
    tree = params if frozen is None else adapters.join(frozen, params)
    return add_microbatches(lambda batch, _: loss_sums(graph, forward_only, tree, None, batch), batches, used)[0].mean

  batches, used = inputs(0)
  started = time.perf_counter()
  step_fn = jitted_step(graph, objective, config.optimizer.clip_norm, config.optimizer.weight_decay)
  step_fn = step_fn.lower(current, policy.frozen, live, batches, used, rate, seed).compile()
  compilation = time.perf_counter() - started
  forward_fn = jax.jit(forward, out_shardings=whole).lower(current.params, policy.frozen, batches, used).compile()
  steps, forwards, losses = [], [], []
  with progress(plan.steps, f"bench {config.method}") as bar:
    for step in range(plan.steps):
      batches, used = jax.block_until_ready(inputs(step))
      started = time.perf_counter()
      current, metrics = jax.block_until_ready(step_fn(current, policy.frozen, live, batches, used, rate, seed))
      stepped = time.perf_counter()
      jax.block_until_ready(forward_fn(current.params, policy.frozen, batches, used))
      if step >= WARM_UP:
        steps.append(stepped - started)
        forwards.append(time.perf_counter() - stepped)
      losses.append(float(metrics["loss"]))
      bar.update(1)
  return _Measured(steps, forwards, compilation, losses)


def _line(config, described: ModelConfig, devices: Mesh, plan: Plan, measured: _Measured) -> dict[str, Any]:
  total, median = sum(measured.steps), float(np.median(measured.steps))
  timed = [(plan[step], [plan.groups[index] for index in plan.indices(step)]) for step in range(WARM_UP, plan.steps)]
  unit = "pairs_per_second" if config.method == "dpo" else "examples_per_second"
  return {
    "schema_version": 1,
    "method": config.method,
    "layout": "shared_prompt" if config.method == "dpo" else "packed",
    "model": config.model.path,
    "dtype": config.model.dtype,
    "remat": config.model.remat,
    "lora": config.lora.to_dict() if config.lora.rank else None,
    "reference": config.preference.reference if config.method == "dpo" else None,
    "device_kind": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "mesh": dict(devices.shape),
    "batch": config.train.batch_size,
    "rows": list(plan.rows),
    "row_length": plan.shape.tokens,
    "steps": len(timed),
    "step_seconds": _spread(measured.steps),
    "forward_seconds": _spread(measured.forwards),
    "step_over_forward": median / float(np.median(measured.forwards)),
    unit: len(timed) * config.train.batch_size / total,
    "tokens_per_second": sum(item.tokens for item, _ in timed) / total,
    "tokens_computed_per_second": sum(item.used * plan.rows[1] * plan.shape.tokens for item, _ in timed) / total,
    "padded_share": float(np.mean([item.padded_share for item, _ in timed])),
    "flops_per_step": sum(flops.train_flops(described, groups, lora_of(config)) for _, groups in timed) // len(timed),
    "mfu": None,
    "peak_bytes": _peak_bytes(),
    "compile_seconds": measured.compilation,
    "losses": [measured.losses[0], measured.losses[-1]],
  }


def synthetic_groups(config: ModelConfig, method: str, count: int, seed: int, row_length: int) -> list[Segments]:
  """Random token ids in the lengths of clinical examples; pairs for `dpo`, whose prompts are shared."""
  draw = np.random.default_rng(seed)
  branches = 2 if method == "dpo" else 1
  shrink = min(1.0, row_length / (_PROMPT_TOKENS[1] + branches * _COMPLETION_TOKENS[1]))

  def ids(least, most):
    size = max(1, int(draw.integers(least, most + 1) * shrink))
    return tuple(draw.integers(0, config.vocab_size, size).tolist())

  return [
    Segments(f"synthetic-{number}", ids(*_PROMPT_TOKENS), tuple(ids(*_COMPLETION_TOKENS) for _ in range(branches)))
    for number in range(count)
  ]


def _workload(config) -> tuple[ModelConfig, list[Segments]]:
  """(model config, groups) of what is to be run."""
  task = tasks.get(config.task) if config.task else None
  brings_data = bool(config.data.source or task)
  if config.model.path in PRESETS:
    if brings_data:
      raise UserError(
        f"preset {config.model.path} has no tokenizer for texts; leave data and task out, or give a model"
      )
    described = PRESETS[config.model.path]
  else:
    loaded = load_config_and_tokenizer(config.model.path)
    described = loaded.config
  if not brings_data:
    count = 16 * config.train.batch_size
    return described, synthetic_groups(described, config.method, count, config.seed, config.train.row_length)
  limits = chat.limits_of(config, described.max_positions, config.train.row_length)
  found = items.training_items(config, task)["train"]
  return described, chat.encode_all(found, chat.Encoder(loaded.tokenizer, described.vocab_size), limits)[0]


def _policy(config, described: ModelConfig, devices: Mesh) -> Policy:
  """What the run starts with; of a preset random weights."""
  if config.model.path not in PRESETS:
    return initial_policy(config, load_config_and_tokenizer(config.model.path), devices)
  lora, kind = lora_of(config), config.lora.quantize

  def make():
    return init_params(described)

  params = jax.jit(make, out_shardings=mesh.parameter_shardings(jax.eval_shape(make), devices))()
  if lora is None:
    return Policy(None, params)
  return Policy(
    frozen_weights(params, config.model.dtype, kind, devices), new_adapters(described, lora, 0, devices), lora, kind
  )


def _spread(seconds: list[float]) -> dict[str, float]:
  return {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)}


def _peak_bytes() -> int:
  """Most memory in use on a device; on CPU the peak resident size of the process."""
  in_use = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
  if any(in_use):
    return max(in_use)
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
