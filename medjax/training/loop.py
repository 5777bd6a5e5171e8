"""One stage of training, from config to checkpoint, to be read from top to bottom."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax import config as schema
from medjax import files, processes, tasks
from medjax.data import chat, items, packing
from medjax.data.loader import Plan, StepBatch, planned_steps
from medjax.errors import Stopped, UserError
from medjax.models import kernels, peft
from medjax.models import lora as adapters
from medjax.models.pretrained import Description, load_config_and_tokenizer
from medjax.objectives import kto, preference
from medjax.objectives.objective import objective_of
from medjax.objectives.scoring import score
from medjax.training import checkpoints, mesh, reference, state
from medjax.training.optimizer import learning_rates, make_optimizer, optimizer_settings
from medjax.training.policy import base_of, initial_policy, is_adapted
from medjax.training.recorder import Recorder
from medjax.training.step import jitted_step
from medjax.training.stopping import StopRequest, Watchdog
from medjax.training.telemetry import Telemetry, progress

_FREE_TO_CHANGE = ("checkpoint", "evaluation", "study", "mesh")
_NAMES = {"data": "data (train and validation rows)", "steps": "number of steps"}  # of an identity's keys


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a stage did: steps, real tokens and seconds in the loop since it began, and the metrics of its last step."""

  steps: int
  tokens: int
  seconds: float
  metrics: dict[str, float]


def train(config, workdir: pathlib.Path, model: Description | None = None, until: int = 0) -> TrainResult:
  """Trains one stage; goes on from the last checkpoint in `workdir` where there is one.

  Args:
    config: a validated run config with `method` sft or dpo.
    workdir: gets `checkpoints/`, `metrics.jsonl`, `config.json` and TensorBoard events.
    model: what `config.model.path` names, where it is described or loaded already.
    until: step after which to end with a checkpoint, from which a later call goes on; 0 for the last one.

  Raises:
    UserError: the config, data or workdir cannot be used.
    RunError: the loss is not finite, or step 0 shows that policy and reference are not the same model.
    Stopped: SIGTERM, SIGINT or SIGHUP came; what was trained is saved.
  """
  if config.method not in ("sft", "dpo"):
    raise UserError(f"config.method is {config.method!r}; `medjax train` trains sft or dpo")

  # ---- Mesh and model -------------------------------------------------------------------------------------------
  config, devices = mesh.with_compute_dtype(config), mesh.make_mesh(config.mesh.to_dict())
  described = model or load_config_and_tokenizer(config.model.path)
  mesh.check_divides(described.config, devices, config.train.microbatch_rows)

  # ---- Data -----------------------------------------------------------------------------------------------------
  task = tasks.of(config) if config.task else None
  found = items.training_items(config, task)
  encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
  limits = chat.limits_of(config, described.config, config.train.row_length)
  groups, lengths = chat.encode_all(found["train"], encoder, limits)
  validation, _ = chat.encode_all(found["validation"], encoder, limits)
  logging.info("train: %s", lengths)
  steps = planned_steps(config, len(groups))
  sharding, score_rows = mesh.batch_sharding(devices), mesh.batch_multiple(devices)

  with jax.set_mesh(devices), contextlib.ExitStack() as closing:
    # ---- State: our own checkpoint, else train.init_from, else the pretrained weights ------------------------------
    stop = closing.enter_context(StopRequest())
    closing.enter_context(_alone_in(workdir))
    watchdog = closing.enter_context(Watchdog(workdir, config.train.stall_minutes))
    saver = closing.enter_context(checkpoints.Checkpoints(workdir, config.checkpoint.keep))
    identity = _identity(config, described.config, encoder, found, steps)
    start = saver.latest() or 0
    saved, before = (saver.identity(start), saver.progress(start)) if start else (None, {})
    if start < steps and config.train.init_from:
      identity["init_from"] = _origin(config.train.init_from, identity)
    if start < steps and config.lora.rank:
      identity["base"] = base_of(config)
      _check_adapters(config)
    processes.check_equal({_NAMES.get(key, key): value for key, value in identity.items()})
    _refuse_other_run(workdir, saved, identity)
    end = min(until, steps) if until else steps
    if start >= end:
      logging.info("%s is finished at step %d", workdir, start)
      return TrainResult(start, 0, 0.0, {})
    policy = initial_policy(config, described, devices)
    settings, plain_rows = config.model, config.method == "sft" and all(len(x.completions) == 1 for x in groups)
    graph = policy.graph(described.config, settings.dtype, settings.attention, settings.remat, plain_rows)
    identity["weights"] = reference.weights_fingerprint(policy.params)
    if policy.frozen is not None:
      identity["base_weights"] = reference.weights_fingerprint(policy.frozen)
    _refuse_other_run(workdir, saved, identity)
    if processes.is_first():
      files.write_sealed(workdir / "config.json", schema.as_dict(config))
    stop.end_here(start, steps)

    # ---- Reference ------------------------------------------------------------------------------------------------
    objective = objective_of(config)
    live, known, known_validation = None, None, None
    if preference.reads_reference(objective):
      about = {"model": repr(described.config), "lora": repr(policy.lora), "quantized": policy.quantized}
      about |= {"dtype": settings.dtype, "tokenizer": encoder.fingerprint}
      about |= {"attention": kernels.choose(settings.attention, described.config, settings.dtype, plain_rows)}
      pass_over = (config.train.row_length, score_rows, sharding, about)
      with progress(len(groups) + len(validation), "reference") as bar:

        def advance(count: int) -> None:
          bar.update(count)
          watchdog.alive("the reference pass", long=True)
          stop.end_here(start, steps)

        if config.preference.reference == "live":
          live = jax.tree.map(jnp.copy, policy.trainable)
        if config.preference.reference == "precomputed":
          known = reference.reference_logps(graph, policy.params, groups, *pass_over, advance)
        if validation and config.evaluation.every:
          known_validation = reference.reference_logps(graph, policy.params, validation, *pass_over, advance)

    optimizer = make_optimizer(*optimizer_settings(config))
    abstract = state.abstract(policy.trainable, optimizer)
    places = state.shardings(abstract, optimizer, devices)
    frozen, initial = policy.frozen, policy.trainable
    del policy
    if start:
      logging.info("going on from step %d of %d, after %.0f s of training", start, steps, before["seconds"])
      del initial
      current = saver.restore(start, abstract, places)
    else:
      current = jax.jit(lambda p: state.create(p, optimizer), out_shardings=places, donate_argnums=0)(initial)
      del initial

    # ---- Plan and step --------------------------------------------------------------------------------------------
    plan = Plan(
      groups,
      steps,
      config.seed,
      config.train.batch_size,
      config.train.row_length,
      config.train.microbatch_rows,
      mesh.batch_multiple(devices),
      mesh.row_tile(devices),
      known,
      here=mesh.rows_here(devices, config.train.microbatch_rows or mesh.batch_multiple(devices)),
    )
    most_skipped = config.train.skip_nonfinite
    step_fn = jitted_step(graph, objective, *optimizer_settings(config), most_skipped > 0)
    rates = jax.device_get(learning_rates(config, steps)(np.arange(steps))).astype(np.float32)
    title = f"{config.method} {config.task}".strip()
    telemetry = closing.enter_context(
      contextlib.closing(Telemetry(workdir, start, steps, title, before.get("metrics", "")))
    )
    recorder = Recorder(telemetry, objective, config.model.dtype, most_skipped, before)

    # ---- Loop: batches are placed a step ahead, metrics are fetched after the next step is under way ----------------
    closing.enter_context(jax.transfer_guard("disallow"))  # of the loop's transfers each is asked for
    over_rows, everywhere = mesh.batch_sharding(devices, leading=1), NamedSharding(devices, P())
    ahead = _placed(plan.iterate(start), rates[start:], np.uint32(config.seed % 2**32), over_rows, everywhere)
    pending, shapes, saved_at = None, set(), time.monotonic()
    for done, (item, arguments) in enumerate(ahead, start=start + 1):
      shape = tuple(x.shape for x in item.batches)
      watchdog.alive(f"step {done}", long=shape not in shapes)
      shapes.add(shape)
      current, metrics = step_fn(current, frozen, live, *arguments)
      if pending:
        recorder.record(*pending)
      validated = {}
      if validation and _is_due(config.evaluation.every, done, steps):
        scoring = (config.train.row_length, score_rows, sharding)
        whole = current.params if frozen is None else adapters.join(frozen, current.params)
        watchdog.alive(f"validation after step {done}", long=True)
        validated = _validation(graph, whole, validation, objective, known_validation, *scoring)
      pending = (done, metrics, item, {"learning_rate": float(rates[done - 1]), **validated})
      minutes = config.checkpoint.every_minutes
      saving, stopping = stop.after_step(save=0 < 60 * minutes <= time.monotonic() - saved_at)
      stopping = stopping and done < steps
      if done == end or saving or _is_due(config.checkpoint.every, done):
        watchdog.alive(f"saving step {done}", long=True)
        recorder.record(*pending)  # a bad step is never saved
        pending = None
        saver.save(done, current, identity, done == steps, validated, _progress(recorder, telemetry, config.seed))
        saved_at = time.monotonic()
        stop.saved()
      if stopping:
        raise Stopped(f"stopped at step {done} of {steps} with a checkpoint saved; run the same command to go on")
      if done == end:
        break
    return TrainResult(end, recorder.tokens, recorder.seconds, recorder.last)


@contextlib.contextmanager
def _alone_in(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a workdir, which all processes of this one must see.

  Raises:
    UserError: another run is there, it cannot be written, or a process sees another folder under that name.
  """
  lock, told = workdir / "lock", f"process {os.getpid()} of {socket.gethostname()} since {_now()}"
  with contextlib.ExitStack() as held:
    if processes.is_first():
      try:
        workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(files.locked(lock, told))
      except BlockingIOError as error:
        raise UserError(
          f"{workdir} is in use by another run ({error.strerror}); wait, or use another --workdir"
        ) from None
      except OSError as error:
        raise UserError(f"{workdir} cannot be written ({error.strerror}); use another --workdir") from None
    told = processes.of_first(told)
    seen = processes.everyone(lock.is_file() and lock.read_text(encoding="utf-8").strip() == told)
    if not all(seen):
      raise UserError(
        f"process {seen.index(False)} does not see what process 0 writes in {workdir}; use a folder that all share"
      )
    yield


def _progress(recorder: Recorder, telemetry: Telemetry, seed: int) -> dict[str, Any]:
  """How far a run has come. What it draws follows from the seed and the step, so that these are all there is to it."""
  return {**recorder.so_far, "metrics": telemetry.digest, "seed": seed, "saved": _now()}


def _now() -> str:
  return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _is_due(every: int, done: int, last: int | None = None) -> bool:
  """Whether something that happens every so many steps (0: never), and after the last one, happens now."""
  return every > 0 and (done % every == 0 or done == last)


def _placed(
  items: Iterable[StepBatch],
  rates: Iterable[np.float32],
  seed: np.uint32,
  over_rows: NamedSharding,
  everywhere: NamedSharding,
) -> Iterator[tuple[StepBatch, tuple]]:
  """What each step reads, and the same on the mesh; a step's data is on its way before the step ahead of it starts."""
  ready = None
  for item, rate in zip(items, rates, strict=True):
    places = over_rows, everywhere, everywhere, everywhere
    arguments = mesh.place((item.batches, np.int32(item.used), rate, seed), places)
    if ready:
      yield ready
    ready = item, arguments
  if ready:
    yield ready


def _check_adapters(config) -> None:
  """Refuses settings of adapters that do not fit the policy's start, and says what a method does not read."""
  if config.method == "dpo" and config.lora.dropout:
    logging.info("lora.dropout is read by sft alone: dpo compares with a reference that has none")
  start = config.train.init_from
  if not start or not is_adapted(start):
    return
  if config.preference.reference == "lora_base":
    raise UserError(
      f"preference.reference = lora_base is the model below the adapters, but train.init_from = {start} starts above "
      "it; set it to precomputed, or to live, which keeps a second copy of the adapters only"
    )


def _identity(config, model_config, encoder, found, steps) -> dict[str, Any]:
  """What a run is: where any of it changed, a checkpoint is of another run."""
  settings = {key: value for key, value in schema.as_dict(config).items() if key not in _FREE_TO_CHANGE}
  del settings["train"]["stall_minutes"]
  del settings["train"]["skip_nonfinite"]  # so that a run that came to its end there can be given more
  return {
    "config": settings,
    "model": dataclasses.asdict(model_config),
    "tokenizer": encoder.fingerprint,
    "data": items.fingerprint([*found["train"], *found["validation"]]),
    "steps": steps,
  }


def _origin(path: str, identity: dict[str, Any]) -> dict[str, Any]:
  """Identity of the checkpoint that training starts from; UserError where it is of another model or tokenizer."""
  if peft.is_adapter(pathlib.Path(path)):
    return {"peft": path}  # the weights that it makes are in the identity by value
  origin = checkpoints.load_identity(path)
  kinds = ("model", "tokenizer")
  changed = checkpoints.differences({k: origin[k] for k in kinds}, {k: identity[k] for k in kinds})
  if changed:
    raise UserError(
      f"train.init_from = {path} is of another model ({'; '.join(changed[:3])}); "
      f"set model.path to {origin['config']['model']['path']}"
    )
  return origin


def _refuse_other_run(workdir: pathlib.Path, saved: dict[str, Any] | None, identity: dict[str, Any]) -> None:
  """Raises UserError where the workdir's checkpoint is of another run, as far as `identity` tells yet."""
  if saved is None:
    return
  changed = checkpoints.differences({key: saved.get(key, {}) for key in identity}, identity)
  if changed:
    raise UserError(f"{workdir} holds another run ({'; '.join(changed[:3])}); use another --workdir or set these back")


def _validation(graph, params, groups, objective, known, row_length, rows, sharding) -> dict[str, float]:
  """Loss (and of preference losses the rewards' accuracy) on the validation split."""
  logps = score(graph, params, groups, row_length, rows, sharding)
  if objective.method == "sft":
    return {"validation/loss": -float(sum(map(np.sum, logps))) / sum(map(packing.scored_weight, groups))}
  logp_P2 = np.stack(logps)
  length_P2 = np.array([list(map(len, group.completions)) for group in groups], np.float32)
  reference_P2 = np.zeros_like(logp_P2) if known is None else known
  desirable_P = np.array([group.desirable for group in groups])
  placed = mesh.place((logp_P2, reference_P2, length_P2, desirable_P), NamedSharding(sharding.mesh, P()))
  return {f"validation/{key}": float(value) for key, value in jax.device_get(_pair_means(*placed, objective)).items()}


@functools.partial(jax.jit, static_argnums=4)
def _pair_means(logp_P2, reference_P2, length_P2, desirable_P, objective):
  first, second = (preference.Answer(logp_P2[:, i], reference_P2[:, i], length_P2[:, i]) for i in (0, 1))
  real_P = jnp.ones_like(first.logp)
  if objective.loss == "kto":
    loss, metrics = kto.loss(first, second, real_P, desirable_P, objective)
  else:
    loss, metrics = preference.loss_of_pairs(first, second, real_P, objective)
  return {"loss": loss.mean, "rewards/accuracy": metrics["rewards/accuracy"].mean}
