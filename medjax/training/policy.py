"""The policy: a decoder with all its weights, or frozen base weights and the low-rank adapters that are trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from medjax.errors import UserError
from medjax.models import lora as adapters
from medjax.models import peft
from medjax.models.config import ModelConfig
from medjax.models.decoder import build, init_params
from medjax.models.lora import LoraConfig, Params
from medjax.models.pretrained import Description, Pretrained, load_config_and_tokenizer, load_pretrained
from medjax.models.quantize import quantize
from medjax.models.sharding import KERNELS
from medjax.models.streaming import Finish, nested
from medjax.training import checkpoints, mesh
from medjax.training.reference import weights_fingerprint
from medjax.training.telemetry import advancing, progress


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a run starts with, or what it came to.

  Attributes:
    frozen: base weights that adapters are added to; None where all weights are trained.
    trainable: the adapters, or all weights.
    lora: what the adapters are, None where there are none.
    quantized: how the frozen kernels are stored, `none`, `int8` or `nf4`.
  """

  frozen: Params | None
  trainable: Params
  lora: LoraConfig | None = None
  quantized: str = "none"

  @property
  def params(self) -> Params:
    """The whole tree, as the decoder takes it."""
    return self.trainable if self.frozen is None else adapters.join(self.frozen, self.trainable)

  def graph(self, config: ModelConfig, dtype: str, attention: str = "auto", remat: str = "products") -> nnx.GraphDef:
    """The decoder that takes `params`."""
    return build(config, dtype, attention, remat, self.lora, self.quantized)

  @property
  def merged(self) -> Params:
    """One tree of plain kernels, with the adapters added to them."""
    return self.trainable if self.lora is None else adapters.merged(self.params, self.lora.scale)


def initial_policy(config: Any, described: Description, model: Pretrained | None, devices: Mesh) -> Policy:
  """The policy that a run starts with (which is its reference, too).

  Args:
    config: a validated run config.
    described: what `config.model.path` names.
    model: the same with its weights, where they are loaded already.
    devices: where parameters go.

  Raises:
    UserError: `train.init_from` does not fit the config.
  """
  lora, start = checkpoints.lora_of(config), config.train.init_from
  if lora is None:
    if start and not peft.is_adapter(pathlib.Path(start)):
      return Policy(None, jax.tree.map(lambda x: x.astype(jnp.float32), load_policy(start, devices).merged))
    base = start or config.model.path
    if model is not None and not start:
      copied = jax.tree.map(jnp.copy, mesh.place(model.params, mesh.parameter_shardings(model.params, devices)))
      return Policy(None, copied)
    return Policy(None, _pretrained(base, "float32", devices).params)
  kind, dtype = config.lora.quantize, config.model.dtype
  frozen = base_weights(base_of(config), devices, dtype, kind, model)
  if start and is_adapted(start):
    return Policy(frozen, _adapters_of(start, lora, described.config, devices), lora, kind)
  return Policy(frozen, new_adapters(described.config, lora, config.seed, devices), lora, kind)


def base_of(config: Any) -> str:
  """The model, or checkpoint of all weights, that a run's adapters are added to."""
  start = config.train.init_from
  if not start or peft.is_adapter(pathlib.Path(start)):
    return config.model.path
  return checkpoints.load_identity(start).get("base", start)


def is_adapted(path: str) -> bool:
  """Whether `path` holds adapters: a PEFT directory, or a checkpoint of a run that trained some."""
  return peft.is_adapter(pathlib.Path(path)) or "base" in checkpoints.load_identity(path)


def base_weights(
  base: str, devices: Mesh | None, dtype: str, kind: str = "none", model: Pretrained | None = None
) -> Params:
  """Frozen weights, quantized as they are read.

  Args:
    base: a model, or a checkpoint of all weights.
    devices: where they go, None for the default device.
    dtype: of what is not quantized.
    kind: `none`, `int8` or `nf4`, of the kernels of the blocks.
    model: what `base` names, where it is loaded already.
  """
  if checkpoints.is_checkpoint(base):
    return frozen_weights(checkpoints.load_params(base, devices)[0], dtype, kind, devices)
  if model is not None and model.source == base:
    placed = mesh.place(model.params, mesh.parameter_shardings(model.params, devices))
    return frozen_weights(placed, dtype, kind, devices)
  return _pretrained(base, dtype, devices, functools.partial(_quantized, kind=kind, devices=devices)).params


def _pretrained(name: str, dtype: str, devices: Mesh | None, finish: Finish = lambda path, x: {path: x}) -> Pretrained:
  """`load_pretrained` over a mesh, behind a progress bar."""
  shardings = None if devices is None else lambda p: mesh.parameter_shardings(p, devices)
  with progress(0, "weights") as bar:
    return load_pretrained(name, dtype, shardings, finish, advancing(bar))


def frozen_weights(params: Params, dtype: str, kind: str, devices: Mesh | None) -> Params:
  """Weights as adapters are added to them: the kernels of the blocks quantized, the others in `dtype`."""
  found: dict[tuple[str, ...], jax.Array] = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    found |= _quantized(tuple(key.key for key in path), x.astype(dtype), kind, devices)
  return nested(found)


def _quantized(path: tuple[str, ...], x: jax.Array, kind: str, devices: Mesh | None) -> dict[tuple[str, ...], Any]:
  """A parameter as it is kept: a kernel of the blocks as codes and scales."""
  if kind == "none" or path[-1] != "kernel" or path[-2] not in KERNELS:
    return {path: x}
  axis = len(KERNELS[path[-2]][0])  # the last input axis, behind that of the layers

  def make(x: jax.Array) -> Params:
    kept = quantize(x, axis, kind)
    return nested({(*path[:-1], "codes"): kept.codes, (*path[:-1], "block_scale"): kept.scale})

  shardings = None if devices is None else mesh.parameter_shardings(jax.eval_shape(make, x), devices)
  kept = jax.jit(make, out_shardings=shardings)(x)
  return {tuple(key.key for key in path): x for path, x in jax.tree_util.tree_leaves_with_path(kept)}


def _adapters_of(start: str, lora: LoraConfig, config: ModelConfig, devices: Mesh) -> Params:
  """The adapters that `train.init_from` holds; UserError where they are not what `lora` says."""
  if peft.is_adapter(pathlib.Path(start)):
    found = peft.Adapter(pathlib.Path(start), config).params(lora, config.num_layers)
    return mesh.place(found, mesh.parameter_shardings(found, devices))
  saved, identity = checkpoints.load_params(start, devices)
  has = checkpoints.lora_of(identity["config"])
  if (has.rank, has.scale, has.targets) != (lora.rank, lora.scale, lora.targets):
    raise UserError(
      f"train.init_from = {start} has adapters of rank {has.rank}, alpha {has.alpha:g} on {has.targets}; set lora.* to "
      "these, or export it and start from the result as model.path"
    )
  return saved


def new_adapters(config: ModelConfig, lora: LoraConfig, seed: int, devices: Mesh | None) -> Params:
  """Adapters that add nothing yet: A drawn from `seed`, B zero."""

  def make() -> Params:
    return adapters.split(init_params(config, seed, lora))[1]

  if devices is None:
    return jax.jit(make)()
  return jax.jit(make, out_shardings=mesh.parameter_shardings(jax.eval_shape(make), devices))()


@dataclasses.dataclass(frozen=True)
class LoadedPolicy(Policy):
  """A policy with what is known of it.

  Attributes:
    described: the model's description; of a checkpoint that of its `model.path`.
    identity: of the checkpoint, None of a model.
  """

  described: Description = dataclasses.field(kw_only=True)
  identity: dict[str, Any] | None = None


def load_policy(
  path: str,
  devices: Mesh | None = None,
  dtype: str = "float32",
  model: Pretrained | None = None,
  check: Callable[[ModelConfig], None] = lambda config: None,
) -> LoadedPolicy:
  """A checkpoint of `medjax train` (see `checkpoints.load_params`), or a model as `load_pretrained` names one.

  Args:
    path: what to load.
    devices: where parameters go, None for the default device.
    dtype: of a model's weights; a checkpoint has what it was trained with.
    model: a model that is loaded already, used where it is what `path` names or is built on.
    check: called with the model's config before weights are read, to refuse it.

  Raises:
    UserError: nothing there, or the base weights are not those that the adapters were trained on.
  """
  if not checkpoints.is_checkpoint(path):
    if model is not None and model.source == path:
      check(model.config)
      placed = mesh.place(model.params, mesh.parameter_shardings(model.params, devices))
      return LoadedPolicy(None, placed, described=model)
    check(load_config_and_tokenizer(path).config)
    loaded = _pretrained(path, dtype, devices)
    return LoadedPolicy(None, loaded.params, described=loaded)
  identity = checkpoints.load_identity(path)
  settings = identity["config"]
  name = settings["model"]["path"]
  described = model if model is not None and model.source == name else load_config_and_tokenizer(name)
  check(described.config)
  saved = checkpoints.load_params(path, devices)[0]
  if "base" not in identity:
    return LoadedPolicy(None, saved, described=described, identity=identity)
  frozen = base_weights(identity["base"], devices, settings["model"]["dtype"], settings["lora"]["quantize"], model)
  if weights_fingerprint(frozen) != identity["base_weights"]:
    raise UserError(f"{path}: {identity['base']} does not hold the weights that these adapters were trained on")
  lora = checkpoints.lora_of(settings)
  return LoadedPolicy(frozen, saved, lora, settings["lora"]["quantize"], described=described, identity=identity)
