"""All checkpoints of a run on a split of its task, those that there are or also those still to come."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from medjax import config as schema
from medjax import files, processes, tasks
from medjax.console import visible
from medjax.data import items
from medjax.data.rows import task_rows
from medjax.errors import Stopped, UserError
from medjax.evaluation import results
from medjax.evaluation.evaluate import evaluate
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.training import checkpoints, digests
from medjax.training.policy import Shared

SCHEMA_VERSION = 1
ASKED = "asked.json"  # in a folder of results: fingerprints of what was asked for, of the weights, and of what came out
_POLL_SECONDS = 5.0
_DELETION_SECONDS = 2.0  # a checkpoint that is being deleted is gone by then
_NOT_ASKED = ("mesh", "checkpoint", "study")  # sections of a config that change no result
_COLORS = ("#3b6ea5", "#c98a1b", "#4d8f4d", "#b03030", "#7a5ba6", "#555555")


def evaluate_every(
  config: Any,
  workdir: pathlib.Path,
  split: str,
  watch: bool = False,
  look: Callable[[str, Shared], None] = lambda checkpoint, model: None,
  several: bool = True,
  tell: Callable[[str], None] = lambda line: None,
  **how: Any,
) -> dict[str, Any]:
  """Evaluates each checkpoint under `WORKDIR/checkpoints`, the earliest first.

  The model's description and the weights below adapters are loaded once, and steps share their compiled programs.
  Results go to `WORKDIR/eval/STEP-SPLIT/`; those that are there of the same weights, rows, config and options stay as
  they are, also where their checkpoint has been deleted since. `WORKDIR/eval/every-SPLIT.json` and `.png` are written
  anew after each. A checkpoint that the run deletes before it is read is left out with a line.

  Args:
    config: a validated run config.
    workdir: of `medjax train`.
    split: `train`, `validation` or `test`.
    watch: whether to wait for checkpoints that the run has yet to save, until that of its last step.
    look: called with each checkpoint, and the model to load it with, before it is scored.
    several: whether more than one checkpoint may be scored.
    tell: gets the lines of the table as they are known.
    **how: further arguments of `evaluate`, such as a task with changes.

  Returns:
    What `every-SPLIT.json` holds: `schema_version`, `task`, `split`, `primary` (target -> its primary metric) and
    `steps`, ascending: `step`, `folder` and `values` (target -> value of its primary metric).

  Raises:
    UserError: config, data or checkpoints cannot be used, or several may not be scored and are left to be.
    Stopped: SIGTERM or Ctrl-C came; what was scored is written.
  """
  task = how.get("task") or tasks.of(config)
  rows = task_rows(config, task).get(split, [])
  settings = {key: value for key, value in schema.as_dict(config).items() if key not in _NOT_ASKED}
  asked = files.fingerprint([settings, split, items.fingerprint(rows), repr(sorted(how.items()))])
  directory, out = workdir / checkpoints.DIRECTORY, workdir / "eval"
  primary = {name: target.primary for name, target in task.targets.items()}
  table = {"schema_version": SCHEMA_VERSION, "task": task.name, "split": split, "primary": primary, "steps": []}
  known = {
    step: (weights, values) for step, weights, values in processes.of_first(_results(out, split, asked, primary))
  }
  seen = processes.of_first(checkpoints.saved_steps(directory))
  if not seen and not watch:
    raise UserError(f"{directory} holds no checkpoint; give the --workdir of a run of `medjax train`, or --watch it")
  weights_now = processes.of_first([_weights(directory / str(step)) for step in seen])
  left = [step for step, weights in zip(seen, weights_now, strict=True) if known.get(step, ("",))[0] != weights]
  if not several and (watch or len(left) > 1):
    raise UserError(
      f"{workdir} is of a study, which looks at test rows once, and {len(left)} checkpoints are to be scored on them; "
      "take --split=validation, or --allow_second_look, and the report lists each"
    )
  tell(f"{'step':>8}" + "".join(f"  {name}.{metric}" for name, metric in primary.items()))
  for step in sorted(known.keys() - set(left)):
    _add(table, out, step, known[step][1], tell)
  tried, model = set(seen) - set(left), None
  with _stopping() as stop:
    while True:
      stop.end_here(len(table["steps"]))
      steps = processes.of_first(checkpoints.saved_steps(directory))
      new = [step for step in steps if step not in tried]
      if new:
        step, folder = new[0], directory / str(new[0])
        tried.add(step)
        weights = processes.of_first(_weights(folder))
        with _unless_deleted(folder):
          model = model or _model(str(folder))
          look(str(folder), model)
          metrics = evaluate(config, str(folder), split, _folder(out, step, split), model, **how)
          if processes.is_first():
            done = {"asked": asked, "weights": weights, "metrics": metrics["fingerprint"]}
            files.write_json(_folder(out, step, split) / ASKED, done)
          _add(table, out, step, _values(metrics, primary), tell)
      elif not watch or processes.of_first(bool(steps) and _is_last(directory / str(steps[-1]))):
        return table
      else:
        time.sleep(_POLL_SECONDS)


def _folder(out: pathlib.Path, step: int, split: str) -> pathlib.Path:
  return out / f"{step}-{split}"


def _results(
  out: pathlib.Path, split: str, asked: str, primary: Mapping[str, str]
) -> list[tuple[int, str, dict[str, float]]]:
  """(step, fingerprint of the weights, values) of the results that are there as they were asked for."""
  found = []
  for folder in out.glob(f"*-{split}"):
    step = folder.name.removesuffix(f"-{split}")
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, UserError):
      done, metrics = json.loads((folder / ASKED).read_text(encoding="utf-8")), results.read_metrics(folder)
      if step.isdecimal() and done["asked"] == asked and done["metrics"] == files.fingerprint(metrics):
        found.append((int(step), done["weights"], _values(metrics, primary)))
  return found


def _values(metrics: Mapping[str, Any], primary: Mapping[str, str]) -> dict[str, float]:
  return {name: metrics["targets"][name][metric] for name, metric in primary.items()}


def _weights(folder: pathlib.Path) -> str:
  """A fingerprint of a checkpoint by value; empty where it has none, as while it is deleted."""
  try:
    return files.fingerprint((folder / digests.NAME).read_text(encoding="utf-8"))
  except OSError:
    return ""


def _model(checkpoint: str) -> Shared:
  described = load_config_and_tokenizer(checkpoints.load_identity(checkpoint)["config"]["model"]["path"])
  return Shared(**{field.name: getattr(described, field.name) for field in dataclasses.fields(described)})


def _is_last(folder: pathlib.Path) -> bool:
  """Whether a checkpoint is that of the last step of its run."""
  try:
    return checkpoints.load_identity(str(folder))["steps"] == int(folder.name)
  except (UserError, OSError):  # it is being deleted, so there is a later one
    return False


@contextlib.contextmanager
def _unless_deleted(folder: pathlib.Path) -> Iterator[None]:
  """Forgives what fails where a checkpoint is deleted meanwhile; of several processes all have to fail."""
  try:
    yield
  except Exception:
    deadline = time.monotonic() + _DELETION_SECONDS
    while folder.exists() and digests.damage(folder, whole=False) and time.monotonic() < deadline:
      time.sleep(_POLL_SECONDS / 50)
    if folder.exists() or processes.count() > 1:
      raise
    logging.warning("checkpoint %s was deleted before it could be read; it is left out", folder)


class _Stop:
  """SIGTERM and Ctrl-C: one process ends at once, several together once a checkpoint is scored."""

  asked = False

  def note(self, *_) -> None:
    self.asked = True
    if processes.count() == 1:
      raise KeyboardInterrupt

  def end_here(self, done: int) -> None:
    if processes.vote(self.asked):
      raise Stopped(f"stopped with {done} checkpoints scored; run the same command to go on")


@contextlib.contextmanager
def _stopping() -> Iterator[_Stop]:
  stop, previous = _Stop(), {}
  try:
    with contextlib.suppress(ValueError):  # not in the main thread, where no signal arrives
      for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, stop.note)
    yield stop
  except KeyboardInterrupt:
    raise Stopped("stopped; what was scored is kept: run the same command to go on") from None
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def _add(
  table: dict[str, Any], out: pathlib.Path, step: int, values: dict[str, float], tell: Callable[[str], None]
) -> None:
  """Puts a step into the table, writes table and curve, and tells of it."""
  split, primary = table["split"], table["primary"]
  others = [row for row in table["steps"] if row["step"] != step]
  table["steps"] = sorted(
    [*others, {"step": step, "folder": f"{step}-{split}", "values": values}], key=lambda row: row["step"]
  )
  if processes.is_first():
    import matplotlib

    files.write_json(out / f"every-{split}.json", table)
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a name is no formula
      _draw(table, out / f"every-{split}.png")
  tell(
    f"{step:>8}" + "".join(f"  {values[name]:>{len(name) + len(metric) + 1}.4f}" for name, metric in primary.items())
  )


def _draw(table: Mapping[str, Any], path: pathlib.Path) -> None:
  """The primary metrics by step, as PNG."""
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator

  figure = Figure(figsize=(6.4, 3.2), layout="constrained")
  axes = figure.add_subplot()
  steps = [row["step"] for row in table["steps"]]
  for place, (name, metric) in enumerate(table["primary"].items()):
    values = [row["values"][name] for row in table["steps"]]
    color = _COLORS[place % len(_COLORS)]
    axes.plot(steps, values, marker="o", markersize=3.5, linewidth=1.4, color=color, label=visible(f"{name}: {metric}"))
  axes.set(title=visible(f"{table['task']}, {table['split']} rows"), xlabel="step")
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
  with files.write_aside(path, binary=True) as file:
    figure.savefig(file, format="png", dpi=120)
