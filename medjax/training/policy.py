"""The policy: a decoder with all its weights, or frozen base weights and the low-rank adapters that are trained."""

import dataclasses
import functools
import pathlib
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from medjax.errors import UserError
from medjax.models import lora as adapters
from medjax.models import peft
from medjax.models.config import ModelConfig
from medjax.models.decoder import build, cast_weights, init_params
from medjax.models.lora import LoraConfig, Params
from medjax.models.pretrained import Description, Pretrained, load_adapted, load_config_and_tokenizer, load_pretrained
from medjax.models.quantize import Quantized, quantize
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

  def graph(
    self,
    config: ModelConfig,
    dtype: str,
    attention: str = "auto",
    remat: str = "products",
    plain_rows: bool = False,
  ) -> nnx.GraphDef:
    """The decoder that takes `params`, see `build`."""
    return build(config, dtype, attention, remat, self.lora, self.quantized, plain_rows)

  def cast(self, dtype: str) -> Self:
    """The policy with its weights in a compute dtype, see `cast_weights`; `trainable` is changed in place."""
    frozen = self.frozen and cast_weights(jax.tree.map(lambda x: x, self.frozen), dtype)  # others may share its tree
    return dataclasses.replace(self, frozen=frozen, trainable=cast_weights(self.trainable, dtype))

  @property
  def merged(self) -> Params:
    """One tree of plain kernels, with the adapters added to them."""
    return self.trainable if self.lora is None else adapters.merged(self.params, self.lora.scale)


def initial_policy(config: Any, described: Description, devices: Mesh) -> Policy:
  """The policy that a run starts with (which is its reference, too).

  Args:
    config: a validated run config.
    described: what `config.model.path` names; with its weights (`Pretrained`) where they are loaded already.
    devices: where parameters go.

  Raises:
    UserError: `train.init_from` does not fit the config.
  """
  lora, start = checkpoints.lora_of(config), config.train.init_from
  if lora is None:
    if start and not peft.is_adapter(pathlib.Path(start)):
      return Policy(None, jax.tree.map(lambda x: x.astype(jnp.float32), load_policy(start, devices).merged))
    if start:
      return Policy(None, _pretrained(config.model.path, "float32", devices, adapter=start).params)
    if isinstance(described, Pretrained):
      placed = mesh.place(described.params, mesh.parameter_shardings(described.params, devices))
      return Policy(None, jax.tree.map(jnp.copy, placed))
    return Policy(None, _pretrained(config.model.path, "float32", devices, described=described).params)
  kind, dtype = config.lora.quantize, config.model.dtype
  if start and checkpoints.is_checkpoint(start):
    _check_start(start, config)
  frozen = base_weights(base_of(config), devices, dtype, kind, described)
  if start and checkpoints.is_checkpoint(start):
    _check_base(start, frozen, checkpoints.load_identity(start))
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
  base: str, devices: Mesh | None, dtype: str, kind: str = "none", model: Description | None = None
) -> Params:
  """Frozen weights, quantized as they are read.

  Args:
    base: a model, or a checkpoint of all weights.
    devices: where they go, None for the default device.
    dtype: of what is not quantized.
    kind: `none`, `int8` or `nf4`, of the kernels of the blocks.
    model: a model, used where it is what `base` names and has its weights.
  """
  if checkpoints.is_checkpoint(base):
    return frozen_weights(checkpoints.load_params(base, devices)[0], dtype, kind, devices)
  if isinstance(model, Pretrained) and model.source == base:
    return frozen_weights(_placed(model.params, devices), dtype, kind, devices)
  if kind == "none":
    return _pretrained(base, dtype, devices).params
  return _pretrained(base, dtype, devices, lambda path, layer, x: _quantized(path, x, kind, devices)).params


def _placed(params: Params, devices: Mesh | None) -> Params:
  return params if devices is None else mesh.place(params, mesh.parameter_shardings(params, devices))


def _pretrained(
  name: str,
  dtype: str,
  devices: Mesh | None,
  finish: Finish | None = None,
  adapter: str = "",
  described: Description | None = None,
) -> Pretrained:
  """`load_pretrained` over a mesh, behind a progress bar; with a PEFT adapter added where one is given."""
  shardings = None if devices is None else lambda p: mesh.parameter_shardings(p, devices)
  with progress(0, "weights") as bar:
    if adapter:
      return load_adapted(pathlib.Path(adapter), name, dtype, shardings, finish, advancing(bar))
    return load_pretrained(name, dtype, shardings, finish, advancing(bar), described)


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
  codes, scale = _quantize(x, axis, kind)
  kept = {(*path[:-1], "codes"): codes, (*path[:-1], "block_scale"): scale}
  places = None if devices is None else mesh.parameter_shardings(nested(kept), devices)
  if places is None:
    return kept
  return {
    path: jax.device_put(x, functools.reduce(lambda tree, key: tree[key], path, places)) for path, x in kept.items()
  }


@functools.partial(jax.jit, static_argnames=("axis", "kind"))
def _quantize(x: jax.Array, axis: int, kind: str) -> Quantized:
  """`quantize` of a stack, a layer at a time: in float32 one layer is held."""
  return jax.lax.map(lambda layer: quantize(layer, axis - 1, kind), x)


def _check_start(start: str, config: Any) -> None:
  """Refuses adapters that were trained on the same weights stored in another way."""
  identity = checkpoints.load_identity(start)
  if "base" not in identity:
    return
  settings = identity["config"]
  for section, key in (("model", "dtype"), ("lora", "quantize")):
    if settings[section][key] != config[section][key]:
      raise UserError(
        f"train.init_from = {start} has adapters that were trained with {section}.{key} = {settings[section][key]}; "
        f"set {section}.{key} to it, or export the run and start from the result as model.path"
      )


def _check_base(path: str, frozen: Params, identity: dict[str, Any]) -> None:
  """Refuses base weights that are not those that adapters were trained on."""
  if "base" in identity and weights_fingerprint(frozen) != identity["base_weights"]:
    raise UserError(f"{path}: {identity['base']} does not hold the weights that these adapters were trained on")


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


@dataclasses.dataclass(frozen=True)
class Shared(Description):
  """A model of which `load_policy` keeps the weights below adapters, so that checkpoints of a run share them.

  Attributes:
    frozen: such weights, by what they were asked for as.
  """

  frozen: dict[tuple, Params] = dataclasses.field(default_factory=dict, repr=False)


def describe_policy(path: str, model: Description | None = None) -> tuple[Description, str]:
  """The model of a checkpoint, or the model that `path` names; and how kernels below its adapters are quantized.

  Args:
    path: as in `load_policy`.
    model: a model that is described already, given back where it is what is meant.
  """
  if not checkpoints.is_checkpoint(path):
    return (model if model is not None and model.source == path else load_config_and_tokenizer(path)), "none"
  identity = checkpoints.load_identity(path)
  name = identity["config"]["model"]["path"]
  described = model if model is not None and model.source == name else load_config_and_tokenizer(name)
  return described, identity["config"]["lora"]["quantize"] if "base" in identity else "none"


def load_policy(
  path: str, devices: Mesh | None = None, dtype: str = "", model: Description | None = None
) -> LoadedPolicy:
  """A checkpoint of `medjax train` (see `checkpoints.load_params`), or a model as `load_pretrained` names one.

  Args:
    path: what to load.
    devices: where parameters go, None for the default device.
    dtype: of a model's weights, and of those below adapters that are not quantized; empty: as they were trained with,
      float32 for a model.
    model: a model that is described or loaded already, used where it is what `path` names or is built on.

  Raises:
    UserError: nothing there, or the base weights are not those that the adapters were trained on.
  """
  described, kind = describe_policy(path, model)
  if not checkpoints.is_checkpoint(path):
    if isinstance(described, Pretrained):
      return LoadedPolicy(None, _placed(described.params, devices), described=described)
    loaded = _pretrained(path, dtype or "float32", devices, described=described)
    return LoadedPolicy(None, loaded.params, described=loaded)
  identity = checkpoints.load_identity(path)
  settings = identity["config"]
  saved = checkpoints.load_params(path, devices)[0]
  if "base" not in identity:
    return LoadedPolicy(None, saved, described=described, identity=identity)
  trained_dtype = settings["model"]["dtype"]
  kept_dtype = dtype if dtype and kind == "none" else trained_dtype
  known = model.frozen if isinstance(model, Shared) else {}
  asked = (identity["base"], identity["base_weights"], devices, kept_dtype, kind)
  frozen = known.get(asked)
  if frozen is None:
    frozen = base_weights(identity["base"], devices, kept_dtype, kind, model)
    as_trained = jax.tree.map(lambda x: x.astype(trained_dtype) if x.dtype != trained_dtype else x, frozen)
    _check_base(path, frozen if kind != "none" else as_trained, identity)
    known[asked] = frozen
  return LoadedPolicy(frozen, saved, checkpoints.lora_of(settings), kind, described=described, identity=identity)
