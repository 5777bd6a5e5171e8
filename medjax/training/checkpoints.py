"""Orbax behind one file: the state by step, and beside it what the state belongs to and digests of its files."""

import asyncio
import contextlib
import functools
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from medjax import files, processes
from medjax.errors import RunError, Stopped, UserError
from medjax.models.config import config_from_dict
from medjax.models.decoder import abstract_params
from medjax.models.lora import LoraConfig, Params, split
from medjax.training import digests
from medjax.training.mesh import parameter_shardings
from medjax.training.state import TrainState
from medjax.training.telemetry import advancing, progress

DIRECTORY = "checkpoints"
BEST = "best"  # WORKDIR/best names the checkpoint of the lowest validation loss
DAMAGED = "damaged"  # WORKDIR/damaged is where damaged checkpoints are moved
_READ_LATER = ("params", "identity")  # what is read of a checkpoint but to go on with its run
_SHOWN_BYTES = 2**30  # reading more than that is shown


def _loss(metrics: dict[str, float]) -> float:
  """What the best checkpoint has least of; a loss that is not a number is never the best."""
  loss = metrics["validation/loss"]
  return loss if math.isfinite(loss) else math.inf


class _WithDigests(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A checkpoint that gets its name once digests of its files are in it: it has both or neither."""

  async def finalize(self) -> None:
    if self.get().parent.name == DIRECTORY:  # the folder of a step, not that of an item in it
      folder = pathlib.Path(self.get())
      await asyncio.to_thread(digests.write, folder)
      await super().finalize()
      await asyncio.to_thread(files.sync, folder.parent)  # its name is on the disk before the step before it goes
    else:
      await super().finalize()


class Checkpoints:
  """The checkpoints of a workdir, by all processes together. Saves go on in the background; `close` waits for them.

  Damaged ones are moved to `WORKDIR/damaged`, each with a line that says so, where a good one is left to go on from.

  Args:
    workdir: the run's folder; checkpoints are in its `checkpoints/`.
    keep: how many of the last ones stay; beside them stays the one of the lowest validation loss.

  Raises:
    UserError: there are checkpoints, and all of them are damaged.
  """

  def __init__(self, workdir: pathlib.Path, keep: int):
    _set_damaged_aside(workdir)
    best = BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
      best_fn=_loss,
      best_mode="min",
      cleanup_tmp_directories=True,
      temporary_path_class=_WithDigests,
    )
    self._manager = ocp.CheckpointManager((workdir / DIRECTORY).absolute(), options=options)

  def latest(self) -> int | None:
    """Steps done at the last whole checkpoint, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: TrainState,
    identity: dict[str, Any],
    finished: bool,
    metrics: dict[str, float],
    so_far: dict[str, Any],
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
      so_far: the JSON-able values that a resumed run goes on counting from.

    Raises:
      RunError: this one, or the one before it, cannot be written.
    """
    items = {
      "params": ocp.args.StandardSave(state.params),
      "identity": ocp.args.JsonSave(identity),
      "progress": ocp.args.JsonSave(so_far),
    }
    if not finished:
      items["optimizer"] = ocp.args.StandardSave({"step": state.step, "state": state.optimizer})
    with jax.transfer_guard("allow"), self._telling():
      self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics or None)

  def identity(self, step: int) -> dict[str, Any]:
    """What `save` was told the checkpoint belongs to."""
    return self._json(step, "identity")

  def progress(self, step: int) -> dict[str, Any]:
    """What `save` was told of how far the run had come."""
    return self._json(step, "progress")

  def _json(self, step: int, item: str) -> dict[str, Any]:
    return self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.JsonRestore()}))[item]

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

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    """Closes. Where this process fails among others it waits for a save under way, if they are there to take part."""
    if kind is None or issubclass(kind, Stopped) or processes.count() == 1:
      self.close()
    elif not issubclass(kind, jax.errors.JaxRuntimeError):
      with contextlib.suppress(Exception):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for saves under way; RunError where one of them cannot be written."""
    with self._telling():
      self._manager.wait_until_finished()
      self._manager.close()

  @contextlib.contextmanager
  def _telling(self) -> Iterator[None]:
    """Turns whatever a save fails with into one line."""
    try:
      yield
    except Exception as error:
      reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:400]
      steps = saved_steps(pathlib.Path(self._manager.directory))
      whole = f"that of step {steps[-1]} is whole" if steps else "there is no earlier one"
      raise RunError(
        f"a checkpoint could not be written ({type(error).__name__}: {reason}); {whole}; make room or see to the "
        "disk, and run the same command again"
      ) from error


def saved_steps(directory: pathlib.Path) -> list[int]:
  """The steps that a folder of checkpoints has, whole or damaged, ascending."""
  return sorted(int(path.name) for path in directory.glob("[0-9]*") if _is_step(path))


def _is_step(path: pathlib.Path) -> bool:
  return path.name.isdigit() and path.is_dir()


def _set_damaged_aside(workdir: pathlib.Path) -> None:
  """Moves damaged checkpoints out of the way of a run that goes on; see `Checkpoints`.

  The newest good one is read as a whole, the processes share in it; of older ones, which may still be the best, small
  files and the sizes of large ones are looked at.
  """
  directory = workdir / DIRECTORY
  good, damaged = None, {}
  for step in reversed(processes.of_first(saved_steps(directory))):
    part = (processes.index(), processes.count())
    found = processes.everyone(_damage_shown(directory / str(step), whole=good is None, part=part))
    reason = next(filter(None, found), "")
    if reason:
      damaged[step] = reason
    elif good is None:
      good = step
  if damaged and good is None:
    step, reason = max(damaged.items())
    raise UserError(
      f"{directory / str(step)} is damaged ({reason}) and no other checkpoint is good; bring the file back from a "
      f"copy, or move {directory} away to train from the start"
    )
  for step, reason in damaged.items():
    if processes.is_first():
      home = workdir / DAMAGED
      home.mkdir(exist_ok=True)
      aside = next(p for p in (home / f"{step}{'-' * n}{n or ''}" for n in range(10**6)) if not p.exists())
      (directory / str(step)).rename(aside)
      logging.warning(
        "checkpoint %s is damaged (%s) and was moved to %s; step %d is the newest good one",
        *(directory / str(step), reason, aside, good),
      )
  processes.everyone("moved")


def _damage_shown(folder: pathlib.Path, items: Sequence[str] = (), **how: Any) -> str:
  """`digests.damage` behind a progress bar, which counts megabytes and is quiet where there are few."""
  size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
  if size < _SHOWN_BYTES:
    return digests.damage(folder, items, **how)
  with progress(0, f"checking {folder.name}") as bar:
    advance = advancing(bar)
    return digests.damage(folder, items, advance=lambda done, total: advance(done >> 20, total >> 20), **how)


def _damage(folder: pathlib.Path) -> str:
  """What is wrong with the parameters of a checkpoint; its files are read again once they have changed."""
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  return _damage_of(folder, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=64)
def _damage_of(folder: pathlib.Path, files: tuple[tuple[pathlib.Path, int, int], ...]) -> str:
  return _damage_shown(folder, _READ_LATER) if files else "it is empty"


def is_checkpoint(path: str) -> bool:
  """Whether `path` names a checkpoint: see `load_params`."""
  return locate(path) is not None


def load_identity(path: str) -> dict[str, Any]:
  """What the checkpoint that `path` names belongs to, and its `step`; UserError where there is none."""
  with _opened(path) as (_, identity):
    return identity


def load_progress(workdir: pathlib.Path) -> tuple[int, dict[str, Any]]:
  """Returns the step and the `progress` item of a run's newest checkpoint; (0, {}) without a checkpoint.

  Raises:
    UserError: the item is damaged; the checkpoint's other items are not read.
  """
  directory = workdir / DIRECTORY
  steps = saved_steps(directory)
  if not steps:
    return 0, {}
  folder = directory / str(steps[-1])
  reason = digests.damage(folder, ("progress",))
  if reason:
    raise UserError(f"{folder} is damaged ({reason}); bring the file back from a copy")
  return steps[-1], _progress_of(folder, (folder / digests.NAME).stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _progress_of(folder: pathlib.Path, written_ns: int) -> dict[str, Any]:
  """A study reads the curve of each of its runs several times; a checkpoint that has its name never changes."""
  with _reader(folder.parent) as manager:
    return manager.restore(int(folder.name), args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]


def load_params(
  path: str, mesh: Mesh | None = None, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[Params, dict[str, Any]]:
  """What a run trained and its identity, without the optimizer's state: all parameters, or the adapters.

  Args:
    path: a workdir (its last checkpoint), `WORKDIR/best` (that of the lowest validation loss), its `checkpoints/`
      folder, or one step in there.
    mesh: where to place the parameters, None for the default device.
    dtype: of the parameters; they are saved in float32.

  Raises:
    UserError: there is no whole checkpoint, it is damaged, or for `best` none with a validation loss.
  """
  with _opened(path) as (manager, identity):
    target = abstract_params(config_from_dict(identity["model"]), dtype, lora_of(identity["config"]))
    if "base" in identity:
      target = split(target)[1]
    if mesh is not None:
      shardings = parameter_shardings(target, mesh)
    else:
      shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), target)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s), target, shardings)
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


def _reader(directory: pathlib.Path, best: bool = False) -> contextlib.closing[ocp.CheckpointManager]:
  ranks = {"best_fn": _loss, "best_mode": "min"} if best else {"lightweight_initialize": True}
  options = ocp.CheckpointManagerOptions(read_only=True, **ranks)
  return contextlib.closing(ocp.CheckpointManager(directory.absolute(), options=options))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[ocp.CheckpointManager, dict[str, Any]]]:
  """The manager that holds the checkpoint that `path` names, and the checkpoint's identity with its `step`."""
  located = locate(path)
  if located is None:
    raise UserError(f"{path} holds no whole checkpoint; give a workdir of `medjax train` that has one")
  directory, step = located
  reason = _damage(directory / str(step))
  if reason:
    raise UserError(f"{directory / str(step)} is damaged ({reason}); bring the file back from a copy, or name another")
  with _reader(directory) as manager:
    identity = manager.restore(step, args=ocp.args.Composite(identity=ocp.args.JsonRestore()))["identity"]
    yield manager, {**identity, "step": step}


def locate(path: str | pathlib.Path) -> tuple[pathlib.Path, int] | None:
  """(checkpoints folder, step) that a path names, see `load_params`; None where there is no checkpoint.

  Where a workdir is named, its newest checkpoint that is not damaged, and a line about those that are.

  Raises:
    UserError: all checkpoints of a workdir are damaged, or of `best` none has a validation loss.
  """
  path = pathlib.Path(path)
  if _is_step(path):
    return path.parent, int(path.name)
  if path.name == BEST and not path.exists():
    located = locate(path.parent)
    return located and (located[0], _best_step(located[0]))
  for directory in (path / DIRECTORY, path):
    steps = saved_steps(directory)
    if steps:
      return directory, _newest_good(directory, steps)
  return None


def _newest_good(directory: pathlib.Path, steps: Sequence[int]) -> int:
  for step in reversed(steps):
    reason = _damage(directory / str(step))
    if not reason:
      return step
    logging.warning("%s is damaged (%s); an older one is looked for", directory / str(step), reason)
  raise UserError(f"{directory} has damaged checkpoints only ({reason}); bring the file back from a copy")


def _best_step(directory: pathlib.Path) -> int:
  for step in saved_steps(directory):
    reason = digests.damage(directory / str(step), ("metrics",))
    if reason:
      raise UserError(
        f"{directory / str(step)} is damaged ({reason}), so which one is the best is not known; name a step"
      )
  with _reader(directory, best=True) as manager:
    step = manager.best_step()
  if step is None:
    raise UserError(f"no checkpoint in {directory} has a validation loss; train with evaluation.every, or name a step")
  return step
