"""Orbax behind one file: the state by step, and beside it what the state belongs to."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from medjax.errors import UserError
from medjax.models.config import Llama3Scaling, ModelConfig
from medjax.models.decoder import Params, abstract_params
from medjax.training.mesh import parameter_shardings
from medjax.training.state import TrainState

DIRECTORY = "checkpoints"


class Checkpoints:
  """The checkpoints of a workdir. Saves go on in the background; `close` waits for them.

  Args:
    workdir: the run's folder; checkpoints are in its `checkpoints/`.
    keep: how many of the last ones stay.
  """

  def __init__(self, workdir: pathlib.Path, keep: int):
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    self._manager = ocp.CheckpointManager((workdir / DIRECTORY).absolute(), options=options)

  def latest(self) -> int | None:
    """Steps done at the last whole checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, state: TrainState, identity: dict[str, Any], finished: bool) -> None:
    """Saves the state, and `identity`: the JSON-able values that a resumed run must share.

    The checkpoint of a `finished` run is parameters only, a third of the size: nothing is left to go on with.
    """
    items = {"params": ocp.args.StandardSave(state.params), "identity": ocp.args.JsonSave(identity)}
    if not finished:
      items["optimizer"] = ocp.args.StandardSave({"step": state.step, "state": state.optimizer})
    self._manager.save(int(state.step), args=ocp.args.Composite(**items))

  def identity(self, step: int) -> dict[str, Any]:
    """What `save` was told the checkpoint belongs to."""
    return self._manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]

  def restore(self, step: int, abstract: TrainState, shardings: TrainState) -> TrainState:
    """The state at `step`, placed by `shardings`; the checkpoint may come from another mesh."""
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    items = {
      "params": ocp.args.StandardRestore(target.params),
      "optimizer": ocp.args.StandardRestore({"step": target.step, "state": target.optimizer}),
    }
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    optimizer = restored["optimizer"]
    return TrainState(optimizer["step"], restored["params"], optimizer["state"])

  def close(self) -> None:
    """Waits for saves under way."""
    self._manager.wait_until_finished()
    self._manager.close()


def is_checkpoint(path: str) -> bool:
  """Whether `path` is a workdir with checkpoints, its `checkpoints/` folder, or one step in there."""
  return _locate(path) is not None


def load_identity(path: str) -> dict[str, Any]:
  """What the checkpoint that `path` names belongs to, and its `step`; UserError where there is none."""
  directory, step = _whole_checkpoint(path)
  manager = ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(read_only=True))
  identity = manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
  manager.close()
  return {**identity, "step": step}


def load_params(path: str, mesh: Mesh | None = None) -> tuple[Params, dict[str, Any]]:
  """The float32 parameters of a checkpoint and its identity, without the optimizer's state.

  Args:
    path: a workdir (its last checkpoint), its `checkpoints/` folder, or one step in there.
    mesh: where to place the parameters, None for the default device.

  Raises:
    UserError: there is no whole checkpoint.
  """
  directory, step = _whole_checkpoint(path)
  manager = ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(read_only=True))
  identity = manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
  target = abstract_params(model_config_from_dict(identity["model"]), jnp.float32)
  if mesh is not None:
    shardings = parameter_shardings(target, mesh)
  else:
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), target)
  target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, shardings)
  params = manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target)))["params"]
  manager.close()
  return params, identity


def model_config_from_dict(values: dict[str, Any]) -> ModelConfig:
  """The ModelConfig that `dataclasses.asdict` gave."""
  scaling = values["rope_scaling"]
  return ModelConfig(**{**values, "rope_scaling": Llama3Scaling(**scaling) if scaling else None})


def differences(saved: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
  """Where two identities differ, as `key: saved -> wanted`."""
  found = []
  for key in sorted({*saved, *wanted}):
    old, new = saved.get(key), wanted.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
      found += differences(old, new, f"{prefix}{key}.")
    elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
      found.append(f"{prefix}{key}: {old!r} -> {new!r}")
  return found


def _whole_checkpoint(path: str) -> tuple[pathlib.Path, int]:
  located = _locate(path)
  if located is None:
    raise UserError(f"{path} holds no whole checkpoint; give a workdir of `medjax train` that has one")
  return located


def _locate(path: str) -> tuple[pathlib.Path, int] | None:
  """(checkpoints folder, step) that a path names, or None."""
  root = pathlib.Path(path)
  if root.name.isdigit() and (root / "params").is_dir():
    return root.parent, int(root.name)
  for directory in (root / DIRECTORY, root):
    steps = [int(p.name) for p in directory.glob("[0-9]*") if p.name.isdigit() and (p / "params").is_dir()]
    if steps:
      return directory, max(steps)
  return None
