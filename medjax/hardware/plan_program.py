"""The train step of a run, compiled for devices that are not there; no weight is ever allocated."""

import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.data.examples import Segments
from medjax.data.packing import RowShape
from medjax.errors import RunError, UserError
from medjax.models import kernels
from medjax.models import lora as adapters
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, build
from medjax.models.sharding import parameter_specs
from medjax.objectives import preference
from medjax.objectives.objective import objective_of
from medjax.training import mesh, state
from medjax.training.checkpoints import lora_of
from medjax.training.optimizer import make_optimizer, optimizer_settings
from medjax.training.step import jitted_step

_SCORED_TILE = 32


@dataclasses.dataclass(frozen=True)
class Work:
  """What a step computes: every row is one example, or one pair, that fills it.

  Attributes:
    group: prompt and answers; token ids mean nothing.
    rows: of a microbatch, over all devices.
    microbatches: of a step; the last may have rows without an example.
    batch: examples or pairs of a step.
  """

  group: Segments
  rows: int
  microbatches: int
  batch: int
  tokens: int

  @property
  def shape(self) -> RowShape:
    """Of a row."""
    scored = sum(map(len, self.group.completions))
    return RowShape(self.tokens, _SCORED_TILE * math.ceil(scored / _SCORED_TILE), len(self.group.completions))


def work_of(config: Any, described: ModelConfig, devices: Mesh, answer: int = 0, batch: int = 0) -> Work:
  """The work of a config's step on a mesh.

  Args:
    config: a validated run config.
    described: the model.
    devices: the mesh.
    answer: tokens of an answer, with the one that ends it; 0: all of an SFT row, a quarter of a row of pairs.
    batch: examples or pairs of a step; 0: one for each row of a microbatch.

  Raises:
    UserError: rows do not divide over the mesh, or answers leave no room for a prompt.
  """
  mesh.check_divides(described, devices, config.train.microbatch_rows)
  rows, tile = config.train.microbatch_rows or mesh.batch_multiple(devices), mesh.row_tile(devices)
  tokens = tile * math.ceil(min(config.train.row_length, described.max_positions) / tile)
  answers = 2 if config.method == "dpo" else 1
  answer = answer or (tokens // 4 if answers == 2 else tokens)
  prompt = tokens - answers * (answer - 1)
  if prompt < 1:
    raise UserError(f"--answer is {answer}: {answers} of them leave no prompt in a row of {tokens} tokens; lower it")
  batch = batch or rows
  group = Segments("planned", (0,) * prompt, ((0,) * answer,) * answers)
  return Work(group, rows, math.ceil(batch / rows), batch, tokens)


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler made, or why it did not.

  Attributes:
    text: the scheduled program; empty where it does not fit.
    peak_bytes: most memory of a device at any time.
    fits: whether the compiler accepts it.
    arguments: bytes of a device by kind: weights, optimizer, frozen, reference, batch.
    gradients: bytes of a device.
    attention: the kernel that was chosen.
    stacks: shapes on a device of all weights, trained or not.
    seconds: of tracing and compiling.
    quick: whether the compiler was hurried.
  """

  text: str
  peak_bytes: int
  fits: bool
  arguments: dict[str, int]
  gradients: int
  attention: str
  stacks: frozenset[tuple[int, ...]]
  seconds: float
  quick: bool = False


def compile_step(config: Any, described: ModelConfig, devices: Mesh, work: Work, quick: bool = False) -> Compiled:
  """Compiles the step that `medjax train` would run.

  Args:
    config: a validated run config.
    described: the model.
    devices: the mesh.
    work: what a step computes.
    quick: whether the compiler may leave the program slower than it could be, to be done sooner.

  Raises:
    UserError: the step cannot be built as configured, such as a kernel that cannot run there.
    RunError: the compiler fails for another reason than memory.
  """
  started = time.perf_counter()
  optimizer, lora = make_optimizer(*optimizer_settings(config)), lora_of(config)
  objective, kind = objective_of(config), config.lora.quantize
  live = config.method == "dpo" and preference.reads_reference(objective) and config.preference.reference == "live"
  frozen, trainable = None, abstract_params(described)
  if lora is not None:
    frozen, trainable = adapters.split(abstract_params(described, config.model.dtype, lora, kind))
    frozen = placed(frozen, mesh.parameter_shardings(frozen, devices))
  current = state.abstract(trainable, optimizer)
  current = placed(current, state.shardings(current, optimizer, devices))
  over_rows, everywhere = mesh.batch_sharding(devices, leading=1), NamedSharding(devices, P())
  batches = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((work.microbatches, *x.shape), x.dtype, sharding=over_rows),
    work.shape.empty(work.rows),
  )
  reference = current.params if live else None
  scalars = [jax.ShapeDtypeStruct((), dtype, sharding=everywhere) for dtype in (jnp.int32, jnp.float32, jnp.uint32)]
  with jax.set_mesh(devices):
    settings = config.model.dtype, config.model.attention, config.model.remat, lora, kind
    plain_rows = config.method == "sft"
    attention = kernels.choose(config.model.attention, described, config.model.dtype, plain_rows)
    graph = build(described, *settings, plain_rows=plain_rows)
    step = jitted_step(graph, objective, *optimizer_settings(config))
    lowered = step.lower(current, frozen, reference, batches, *scalars)
    text, peak, fits = compile_lowered(lowered, quick)
  sizes = {
    "weights": bytes_of(current.params),
    "optimizer": bytes_of(current.optimizer),
    "frozen": bytes_of(frozen),
    "reference": bytes_of(reference),
    "batch": bytes_of(batches),
  }
  shapes = frozenset(x.sharding.shard_shape(x.shape) for x in jax.tree.leaves((current.params, frozen)))
  return Compiled(text, peak, fits, sizes, sizes["weights"], attention, shapes, time.perf_counter() - started, quick)


def least_bytes(config: Any, described: ModelConfig, devices: Mesh, work: Work) -> float | None:
  """Bytes that a device must send a step where weights are cut over `fsdp`; None where activations are cut, too.

  For each microbatch every weight but the embedding is gathered twice in the dtype it is used in (once more for a
  reference that is computed in the step), and the gradient of what is trained is reduced and scattered in float32. A
  gather or a scatter over n devices sends (n - 1) / n of the whole, an all-reduce over `data` twice that of a piece.
  """
  n, d = devices.shape["fsdp"], devices.shape["data"]
  if devices.size != n * d:
    return None
  lora, dtype = lora_of(config), jnp.dtype(config.model.dtype)
  params = abstract_params(described, config.model.dtype, lora, config.lora.quantize)
  live = config.method == "dpo" and config.preference.reference != "precomputed"
  total = 0.0
  for (path, x), spec in zip(
    jax.tree_util.tree_leaves_with_path(params),
    jax.tree.leaves(parameter_specs(params, devices), is_leaf=_is_spec),
    strict=True,
  ):
    size, trained = math.prod(x.shape), lora is None or path[-1].key in ("lora_a", "lora_b")
    if "fsdp" in spec:
      used = x.dtype.itemsize if x.dtype.itemsize < dtype.itemsize else dtype.itemsize
      gathers = 0 if path[0].key == "embed" else 2 + live
      scatters = trained and path[0].key != "embed"
      total += size * (gathers * used + 4 * scatters) * (n - 1) / n
    if trained:
      total += 2 * 4 * size / (n if "fsdp" in spec else 1) * (d - 1) / d
  rows = work.rows / (n * d) * work.tokens * described.width * dtype.itemsize
  return work.microbatches * (total + (2 + live) * rows * (n - 1) / n)


def _is_spec(x: Any) -> bool:
  return isinstance(x, P)


def compile_lowered(lowered: jax.stages.Lowered, quick: bool) -> tuple[str, int, bool]:
  """(the scheduled program, empty where it does not fit; peak bytes of a device; whether the compiler accepts it).

  Raises:
    RunError: the compiler fails for another reason than memory.
  """
  try:
    compiled = lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0} if quick else None)
  except jax.errors.JaxRuntimeError as error:
    found = re.search(r"\(([\d.]+)([KMGT])\)\s+exceeds available HBM", " ".join(str(error).split()))
    if not found:
      raise RunError(f"the compiler refused the program: {' '.join(str(error).split())[:300]}") from None
    return "", int(float(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1)), False
  return compiled.as_text(), compiled.memory_analysis().peak_memory_in_bytes, True


def placed(shapes: Any, places: Any) -> Any:
  """Shapes with a sharding each."""
  return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def bytes_of(shapes: Any) -> int:
  """Bytes of one device."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
