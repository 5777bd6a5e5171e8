"""Orbax behind one file: the state by step, and beside it what the state belongs to."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from medjax.errors import UserError
from medjax.models.config import config_from_dict
from medjax.models.decoder import abstract_params
from medjax.models.lora import LoraConfig, Params, split
from medjax.training.mesh import parameter_shardings
from medjax.training.state import TrainState

DIRECTORY = "checkpoints"
BEST = "best"  # WORKDIR/best names the checkpoint of the lowest validation loss


def _loss(metrics: dict[str, float]) -> float:
  """What the best checkpoint has least of; a loss that is not a number is never the best."""
  loss = metrics["validation/loss"]
  return loss if math.isfinite(loss) else math.inf


class Checkpoints:
  """The checkpoints of a workdir. Saves go on in the background; `close` waits for them.

  Args:
    workdir: the run's folder; checkpoints are in its `checkpoints/`.
    keep: how many of the last ones stay; beside them stays the one of the lowest validation loss.
  """

  def __init__(self, workdir: pathlib.Path, keep: int):
    best = BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
      best_fn=_loss,
      best_mode="min",
      cleanup_tmp_directories=True,
    )
    self._manager = ocp.CheckpointManager((workdir / DIRECTORY).absolute(), options=options)

  def latest(self) -> int | None:
    """Steps done at the last whole checkpoint, or None."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: TrainState, identity: dict[str, Any], finished: bool, metrics: dict[str, float]
  ) -> None:
    """Copies the state to the host and returns; it is written in the background, after the save before it.

    The copy is whole when this returns, so that the next step may be given the state's buffers. On a CPU the copy is
    the buffers themselves, which JAX does not give away while they are read.

    Args:
      step: steps done.
      state: what is saved; the checkpoint of a `finished` run is parameters only, a third of the size: nothing is left
        to go on with.
      identity: the JSON-able values that a resumed run must share.
      finished: whether this was the last step.
      metrics: `validation/loss` decides which checkpoint is the best; empty where this step was not validated.
    """
    items = {"params": ocp.args.StandardSave(state.params), "identity": ocp.args.JsonSave(identity)}
    if not finished:
      items["optimizer"] = ocp.args.StandardSave({"step": state.step, "state": state.optimizer})
    with jax.transfer_guard("allow"):
      self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics or None)

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
  """Whether `path` names a checkpoint: see `load_params`."""
  return locate(path) is not None


def load_identity(path: str) -> dict[str, Any]:
  """What the checkpoint that `path` names belongs to, and its `step`; UserError where there is none."""
  with _opened(path) as (_, identity):
    return identity


def load_params(path: str, mesh: Mesh | None = None) -> tuple[Params, dict[str, Any]]:
  """What a run trained, float32, and its identity, without the optimizer's state: all parameters, or the adapters.

  Args:
    path: a workdir (its last checkpoint), `WORKDIR/best` (that of the lowest validation loss), its `checkpoints/`
      folder, or one step in there.
    mesh: where to place the parameters, None for the default device.

  Raises:
    UserError: there is no whole checkpoint, or for `best` none with a validation loss.
  """
  with _opened(path) as (manager, identity):
    target = abstract_params(config_from_dict(identity["model"]), jnp.float32, lora_of(identity["config"]))
    if "base" in identity:
      target = split(target)[1]
    if mesh is not None:
      shardings = parameter_shardings(target, mesh)
    else:
      shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), target)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, shardings)
    params = manager.restore(identity["step"], args=ocp.args.Composite(params=ocp.args.StandardRestore(target)))
    return params["params"], identity


def lora_of(settings: Any) -> LoraConfig | None:
  """The adapters that a run's config (or its plain dict) asks for."""
  values = settings["lora"]
  if not values["rank"]:
    return None
  return LoraConfig(values["rank"], values["alpha"], values["targets"], values["dropout"], values["rslora"])


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


def _reader(directory: pathlib.Path) -> contextlib.closing[ocp.CheckpointManager]:
  options = ocp.CheckpointManagerOptions(read_only=True, best_fn=_loss, best_mode="min")
  return contextlib.closing(ocp.CheckpointManager(directory.absolute(), options=options))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[ocp.CheckpointManager, dict[str, Any]]]:
  """The manager that holds the checkpoint that `path` names, and the checkpoint's identity with its `step`."""
  located = locate(path)
  if located is None:
    raise UserError(f"{path} holds no whole checkpoint; give a workdir of `medjax train` that has one")
  directory, step = located
  with _reader(directory) as manager:
    identity = manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
    yield manager, {**identity, "step": step}


def locate(path: str | pathlib.Path) -> tuple[pathlib.Path, int] | None:
  """(checkpoints folder, step) that a path names, see `load_params`; None where there is no checkpoint."""
  path = pathlib.Path(path)
  if path.name.isdigit() and (path / "params").is_dir():
    return path.parent, int(path.name)
  if path.name == BEST and not path.exists():
    located = locate(path.parent)
    return located and (located[0], _best_step(located[0]))
  for directory in (path / DIRECTORY, path):
    steps = [int(p.name) for p in directory.glob("[0-9]*") if p.name.isdigit() and (p / "params").is_dir()]
    if steps:
      return directory, max(steps)
  return None


def _best_step(directory: pathlib.Path) -> int:
  with _reader(directory) as manager:
    step = manager.best_step()
  if step is None:
    raise UserError(f"no checkpoint in {directory} has a validation loss; train with evaluation.every, or name a step")
  return step
