"""One piece of a study, as a process does it: a run trained and validated, or the chosen run tested."""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax import files
from medjax.data.rows import task_rows
from medjax.errors import RunError
from medjax.evaluation import options as evaluation
from medjax.evaluation import results
from medjax.evaluation.answering import answering
from medjax.evaluation.evaluate import evaluate
from medjax.methods import METHODS
from medjax.models.pretrained import Description, load_config_and_tokenizer, load_pretrained
from medjax.study import few_shot, looks
from medjax.study.plan import Key, Options, Run, run_config, task_of
from medjax.study.stages import FAILED, trained, validation_folder
from medjax.training import mesh
from medjax.training.loop import train

SHOTS = "shots.json"  # in the folder of a few-shot run: the rows that its prompts show


@dataclasses.dataclass(frozen=True)
class Job:
  """What one process does in one go.

  Attributes:
    kind: `fit` (train, and validate where there is a choice) or `test`.
    run: the run.
    start_from: the run whose weights it starts from; None for the model.
    copy_of: of `test`, the run whose results are taken over.
    rung: of successive halving.
    until: of `fit`, the step to train to; 0 where nothing is trained.
    validates: of `fit`, whether the run is scored on the validation rows.
    last: of `fit`, whether this is its whole training.
  """

  kind: str
  run: Run
  start_from: Run | None = None
  copy_of: Run | None = None
  rung: int = 0
  until: int = 0
  validates: bool = False
  last: bool = True

  @property
  def group(self) -> Key:
    """Task, seed and method."""
    return self.run.task, self.run.seed, self.run.method

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "Job":
    """What `dataclasses.asdict` made a mapping of, and JSON lists."""

    def run(found):
      return found and Run(**{**found, "overrides": tuple((key, value) for key, value in found["overrides"])})

    return cls(**{**values, **{name: run(values[name]) for name in ("run", "start_from", "copy_of")}})


@dataclasses.dataclass(frozen=True)
class Study:
  """What every job of a study needs to know.

  Attributes:
    config: the study's.
    options: the study's.
    workdir: the study's folder.
    allow: whether a second look at test rows is allowed.
  """

  config: Any
  options: Options
  workdir: pathlib.Path
  allow: bool = False

  @functools.cached_property
  def model(self) -> Description:
    """The model, loaded once; weights that adapters are added to are read by each run, as it stores them."""
    load = load_config_and_tokenizer if self.config.lora.rank else load_pretrained
    return load(self.config.model.path)


def perform(study: Study, job: Job) -> Iterator[str]:
  """Does what is missing of a job.

  Args:
    study: what it is part of.
    job: the job.

  Yields:
    `train`, `validation` and `test`, when that is done.

  Raises:
    UserError: the config or data cannot be used, or a second look at test rows is not allowed.
    Stopped: SIGTERM came during training.
  """
  folder = study.workdir / job.run.folder
  if job.kind == "test":
    _test(study, job, folder)
    yield "test"
    return
  settings = run_config(study.config, job.run, study.workdir, job.start_from)
  if job.until:
    try:
      if not trained(folder, job.until):
        train(settings, folder, study.model, job.until)
    except RunError as error:  # a loss that is not finite, say: the run's own outcome, the same whenever it is tried
      files.write_sealed(folder / FAILED, {"why": str(error), "until": job.until}, private=True)
      return
    yield "train"
  if job.validates:
    out = validation_folder(folder, job.until, job.last)
    if not results.exist(out):
      evaluate(settings, _checkpoint(study, job.run), "validation", out, study.model)
    yield "validation"


def _test(study: Study, job: Job, folder: pathlib.Path) -> None:
  out = folder / "eval" / "test"
  if results.exist(out):
    return
  if job.copy_of is not None:
    with files.folder_aside(out) as aside:
      shutil.copytree(study.workdir / job.copy_of.folder / "eval" / "test", aside, dirs_exist_ok=True)
    return
  settings, checkpoint = run_config(study.config, job.run, study.workdir), _checkpoint(study, job.run)
  task, answers = task_of(study.config, job.run.task), []
  with answering(settings, checkpoint, False, study.model, fingerprint=True) as ready:
    answers.append(ready.fingerprint)
    if job.run.method == "few_shot":
      task, ids = few_shot.with_shots(settings, task, study.options.few_shot, ready.encoder, ready.limits)
      files.write_sealed(folder / SHOTS, {"wanted": study.options.few_shot, "rows": ids}, private=True)
      answers.append(files.fingerprint([dict(turn) for turn in task.shots]))
  run = job.run
  look = looks.Look(run.task, run.seed, run.method, run.candidate, "-".join(answers))
  looks.record(study.workdir, look, study.allow)
  validation = not METHODS[run.method].trains and bool(task_rows(settings, task)["validation"])
  prior = study.options.prior_of(run.method, task, validation)
  evaluate(settings, checkpoint, "test", out, study.model, task, evaluation.Options(prior))


def note_look(
  config: Any,
  checkpoint: str,
  run: pathlib.Path,
  allow: bool,
  model: Description | None = None,
  prior: str = "none",
  stop: Sequence[str] = (),
) -> None:
  """Writes into a study's ledger that a run of it is scored on test rows by `medjax eval`; of other runs nothing.

  Args:
    config: a validated config, of which the mesh is read.
    checkpoint: what is scored.
    run: the folder of the run that it belongs to.
    allow: as in `looks.record`.
    model: as in `answering`.
    prior: that label probabilities are divided by: with another one it is another look.
    stop: texts at which answers are cut; with others it is another look.

  Raises:
    UserError: as `looks.record`.
  """
  workdir = looks.study_of(run)
  if workdir is None:
    return
  with answering(config, checkpoint, False, model, fingerprint=True) as ready:
    answers = ready.fingerprint + (f"-prior {prior}" if prior != "none" else "")
    answers += f"-stop {files.fingerprint(list(stop))}" if stop else ""
  task = files.read_sealed(run / "config.json", "train the run again")["task"]
  seed, method, candidate = run.absolute().parts[-3:]
  number = int(candidate.removeprefix("candidate"))
  look = looks.Look(task, int(seed.removeprefix("seed")), method, number, answers, "eval")
  looks.record(workdir, look, allow)


def _checkpoint(study: Study, run: Run) -> str:
  return str(study.workdir / run.folder) if METHODS[run.method].trains else study.config.model.path


def hardware(study: Study) -> dict[str, Any]:
  """What this process computes on, and the FLOPs a second at which its devices together are likely to do a model."""
  device = jax.devices()[0]
  size = 1024 if device.platform == "cpu" else 4096
  product = jax.jit(lambda x: x @ x)
  x = jnp.ones((size, size), mesh.compute_dtype(study.config.model.dtype))
  product(x).block_until_ready()
  started, count = time.perf_counter(), 0
  while time.perf_counter() - started < 0.1:
    product(x).block_until_ready()
    count += 1
  # Simulated devices of a CPU share its cores. A model is slower than a large product of matrices: on a CPU by what the
  # demo took, elsewhere by what is usual.
  several, share = (1, 0.6) if device.platform == "cpu" else (jax.device_count(), 0.35)
  rate = 2 * size**3 * count / (time.perf_counter() - started) * several
  return {"devices": f"{jax.device_count()} x {device.device_kind}", "rate": rate * share}
