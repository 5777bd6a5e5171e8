"""Throughput on the devices at hand: train steps, the reference pass, label scoring, decoding."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medjax import tasks
from medjax.data import chat, items
from medjax.data.examples import Segments
from medjax.data.loader import Plan
from medjax.data.packing import plain_tokens, row_tokens
from medjax.data.rows import task_rows
from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.hardware import flops
from medjax.hardware.clock import Clock, peak_bytes
from medjax.hardware.devices import peak_flops
from medjax.hardware.workloads import WORKLOADS, random_groups
from medjax.models.config import ModelConfig
from medjax.models.decoder import init_params, weight_bytes
from medjax.models.families import PRESETS
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.objectives import preference
from medjax.objectives.objective import objective_of
from medjax.objectives.scoring import score
from medjax.training import mesh, state
from medjax.training.checkpoints import lora_of
from medjax.training.optimizer import make_optimizer, optimizer_settings
from medjax.training.policy import Policy, frozen_weights, initial_policy, new_adapters
from medjax.training.step import jitted_step
from medjax.training.telemetry import progress

METHODS = ("sft", "dpo", "reference", "score", "decode")
LAYOUTS = ("shared_prompt", "plain")
WARM_UP = 2  # runs before the clock starts, beside the first of each shape
LABELS = 8  # answers of which `score` computes the log-probabilities
_AHEAD = 1000  # steps that shapes are chosen for, as in a run of that length


class _Bench(NamedTuple):
  """What is run: a run config, the model, its groups of tokens, the devices, and the policy's weights."""

  config: Any
  described: ModelConfig
  groups: list[Segments]
  devices: Mesh
  policy: Policy
  graph: Any


def bench(
  config,
  method: str,
  steps: int,
  workload: str = "clinical",
  layout: str = "shared_prompt",
  new_tokens: int = 64,
) -> dict[str, Any]:
  """Times `steps` train steps, scoring passes or batches of decoding.

  Args:
    config: a validated run config; `model.path` may also name a preset, which gets random weights.
    method: of `METHODS`.
    steps: how many to time.
    workload: of `WORKLOADS`, for random token ids; read where config names no data and no task.
    layout: of `LAYOUTS`: whether the answers of a prompt share it, in train steps.
    new_tokens: tokens that `decode` adds to each prompt.

  Returns:
    One line of a benchmark file (keys in docs/architecture.md). Times are wall seconds around work that has been
    waited for; compilation and warm-up are left out, and so are steps that another process disturbed, where the system
    tells and other steps remain.

  Raises:
    UserError: config, model or data cannot be used.
  """
  if config.train.init_from:
    raise UserError("config.train.init_from is set; bench starts from config.model.path")
  config, devices = mesh.with_compute_dtype(config), mesh.make_mesh(config.mesh.to_dict())
  described, groups = workload_of(config, method, workload)
  mesh.check_divides(described, devices, config.train.microbatch_rows)
  answers = method in ("score", "decode")
  if answers:  # as `evaluation.answering` does
    size = weight_bytes(described, config.model.dtype, lora_of(config), config.lora.quantize)
    devices = mesh.for_inference(devices, described, size, mesh.memory_of(devices), method == "decode")
  with jax.set_mesh(devices):
    policy = policy_of(config, described, devices)
    policy = policy.cast(config.model.dtype) if answers else policy
    plain_rows = (
      layout == "plain" if method == "dpo" else method == "sft" and all(len(x.completions) == 1 for x in groups)
    )
    settings = config.model.dtype, config.model.attention, config.model.remat
    graph = policy.graph(described, *settings, plain_rows)
    made = _Bench(config, described, groups, devices, policy, graph)
    if method in ("sft", "dpo"):
      measured = _train(made, method, steps, layout == "shared_prompt")
    elif method == "decode":
      measured = _decode(made, steps, new_tokens)
    else:
      measured = _score(made, method, steps)
  return {
    "schema_version": 2,
    "method": method,
    "layout": "packed" if method == "sft" else layout,
    "workload": None if config.data.source or config.task else workload,
    "model": config.model.path,
    "dtype": config.model.dtype,
    "attention": config.model.attention,
    "remat": config.model.remat,
    "lora": config.lora.to_dict() if config.lora.rank else None,
    "device_kind": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "mesh": dict(devices.shape),
    "batch": config.train.batch_size,
    **measured,
    "peak_bytes": peak_bytes(),
  }


def _train(made: _Bench, method: str, steps: int, shared: bool) -> dict[str, Any]:
  config, graph, policy, devices = made.config, made.graph, made.policy, made.devices
  objective, known = objective_of(config), None
  where = config.preference.reference if preference.reads_reference(objective) else None
  if where == "precomputed":
    rows, sharding = mesh.batch_multiple(devices), mesh.batch_sharding(devices)
    known = np.stack(score(graph, policy.params, made.groups, config.train.row_length, rows, sharding))
  plan = Plan(
    *(made.groups, max(steps + WARM_UP, _AHEAD), config.seed, config.train.batch_size),
    *(config.train.row_length, config.train.microbatch_rows, mesh.batch_multiple(devices), mesh.row_tile(devices)),
    *(known, shared),
  )
  optimizer = make_optimizer(*optimizer_settings(config))
  places = state.shardings(state.abstract(policy.trainable, optimizer), optimizer, devices)
  reference = jax.tree.map(jnp.copy, policy.trainable) if where == "live" else None
  current = jax.jit(lambda p: state.create(p, optimizer), out_shardings=places, donate_argnums=0)(policy.trainable)
  step_fn = jitted_step(graph, objective, *optimizer_settings(config))
  scalars = np.float32(config.optimizer.learning_rate), np.uint32(config.seed % 2**32)
  compiled, compilation, clock, timed, losses = {}, 0.0, Clock(), [], []
  with progress(steps, f"bench {method}") as bar:
    for step in range(plan.steps):
      item = plan[step]
      shape = item.batches.tokens.shape, item.batches.target_token.shape, item.batches.example.shape
      batches = mesh.place(item.batches, mesh.batch_sharding(devices, leading=1))
      arguments = policy.frozen, reference, jax.block_until_ready(batches), np.int32(item.used), *scalars
      warm = shape in compiled and step >= WARM_UP
      if shape not in compiled:
        started = time.perf_counter()
        compiled[shape] = step_fn.lower(current, *arguments).compile()
        compilation += time.perf_counter() - started
      current, metrics = clock.time(compiled[shape], current, *arguments, keep=warm)
      losses.append(float(metrics["loss"]))
      if warm:
        timed.append((step, item))
        bar.update(1)
      if len(timed) == steps:
        break
  if not timed:
    raise UserError(f"no step was timed in {plan.steps}; raise --steps")
  members = [[made.groups[index] for index in plan.indices(step)] for step, _ in timed]
  needed = [flops.train_flops(made.described, groups, lora_of(config)) for groups in members]
  unit = "pairs_per_second" if method == "dpo" else "examples_per_second"
  computed = [item.used * plan.rows * item.batches.tokens.shape[-1] for _, item in timed]
  return {
    "loss": objective.loss if method == "dpo" else None,
    "reference": where,
    "optimizer": config.optimizer.name,
    "rows": plan.rows,
    "row_lengths": sorted({item.batches.tokens.shape[-1] for _, item in timed}),
    unit: clock.rate([config.train.batch_size] * len(timed)),
    "tokens_per_second": clock.rate([item.tokens for _, item in timed]),
    "tokens_computed_per_second": clock.rate(computed),
    "padded_share": float(np.mean([item.padded_share for _, item in timed])),
    **_costs(clock, needed, compilation),
    "losses": [losses[0], losses[-1]],
  }


def _score(made: _Bench, method: str, steps: int) -> dict[str, Any]:
  """Passes over a batch of groups: `reference` of pairs, `score` of prompts with all their labels."""
  config, groups = made.config, made.groups[: made.config.train.batch_size]
  rows, sharding = mesh.batch_multiple(made.devices), mesh.batch_sharding(made.devices)
  clock, started = Clock(), time.perf_counter()
  with progress(steps, f"bench {method}") as bar:
    for step in range(-WARM_UP, steps):
      keep = step >= 0
      clock.time(*(score, made.graph, made.policy.params, groups, config.train.row_length, rows, sharding), keep=keep)
      if step == -WARM_UP:
        first = time.perf_counter() - started
      bar.update(int(keep))
  unit = "pairs_per_second" if method == "reference" else "examples_per_second"
  return {
    unit: clock.rate([len(groups)] * steps),
    "tokens_per_second": clock.rate([sum(map(plain_tokens, groups))] * steps),
    "tokens_computed_per_second": clock.rate([sum(map(row_tokens, groups))] * steps),
    **_costs(clock, [flops.forward_flops(made.described, groups)] * steps, first - clock.spread()["median"]),
  }


def _decode(made: _Bench, steps: int, new_tokens: int) -> dict[str, Any]:
  """Batches of prompts, each continued greedily by so many tokens."""
  config, size = made.config, made.config.train.batch_size
  members = made.groups[:size]
  prompts = [list(group.prompt) for group in members]
  clock, started = Clock(), time.perf_counter()
  with progress(steps, "bench decode") as bar:
    for step in range(-WARM_UP, steps):
      keep = step >= 0
      clock.time(
        *(decode.generate, made.graph, made.policy.params, made.described, config.model.dtype),
        *(prompts, (), new_tokens, 0.0, 1.0, config.seed, size),
        keep=keep,
      )
      if step == -WARM_UP:
        first = time.perf_counter() - started
      bar.update(int(keep))
  continued = [Segments(group.id, group.prompt, ((0,) * new_tokens,)) for group in members]
  return {
    "new_tokens": new_tokens,
    "examples_per_second": clock.rate([len(members)] * steps),
    "tokens_per_second": clock.rate([len(members) * new_tokens] * steps),
    **_costs(clock, [flops.forward_flops(made.described, continued)] * steps, first - clock.spread()["median"]),
  }


def _costs(clock: Clock, needed: list[int], compilation: float) -> dict[str, Any]:
  """The keys that every method has; `needed` are the model FLOPs of each timed step."""
  peak = peak_flops(jax.devices()[0].device_kind)
  return {
    "steps": len(clock.seconds),
    "steps_undisturbed": sum(clock.undisturbed),
    "step_seconds": clock.spread(),
    "flops_per_step": sum(needed) // len(needed),
    "mfu": clock.rate(needed) / (peak * jax.device_count()) if peak else None,
    "compile_seconds": max(compilation, 0.0),
  }


def workload_of(config, method: str, workload: str) -> tuple[ModelConfig, list[Segments]]:
  """(model config, groups) of what is to be run."""
  task = tasks.of(config) if config.task else None
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
    answers = {"dpo": 2, "reference": 2, "score": LABELS}.get(method, 1)
    count, most = 16 * config.train.batch_size, min(config.train.row_length, described.max_positions)
    return described, random_groups(WORKLOADS[workload], answers, count, config.seed, described.vocab_size, most)
  if method == "score":
    if task is None:
      raise UserError("--method=score needs the labels of a task; set config.task, or leave --data out")
    answers = [task.completion(answer) for answer in task.answers()]
    found = [(row.id, task.prompt(row), answers) for row in task_rows(config, task)["train"]]
  else:
    found = items.training_items(config, task)["train"]
  limits = chat.limits_of(config, described, config.train.row_length)
  groups = chat.encode_all(found, chat.Encoder(loaded.tokenizer, described.vocab_size), limits)[0]
  return described, groups


def policy_of(config, described: ModelConfig, devices: Mesh) -> Policy:
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
