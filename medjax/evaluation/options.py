"""What evaluation may do with label probabilities before labels are chosen."""

import dataclasses
import typing

from medjax.errors import UserError

if typing.TYPE_CHECKING:  # the command line reads the modes, and loads nothing for it
  from medjax.tasks.task import Task

PRIORS = ("none", "batch", "content_free", "validation")
CALIBRATIONS = ("none", "temperature")


@dataclasses.dataclass(frozen=True)
class Options:
  """How label probabilities are corrected; both leave them as they are unless set.

  Attributes:
    prior: the label prior that they are divided by (`priors.correct`): `none`, `batch`, `content_free` or `validation`.
    calibrate: `temperature` sharpens or flattens them as the validation rows say (`calibrate.temper`); else `none`.
  """

  prior: str = "none"
  calibrate: str = "none"

  def asked(self) -> list[str]:
    """What is set, as `--prior=batch`."""
    values = dataclasses.asdict(self)
    return [f"--{name}={value}" for name, value in values.items() if value != "none"]

  def check(self, task: "Task") -> None:
    """Raises UserError where a mode is unknown, or the task's answers are generated and have no probabilities."""
    for name, known in (("prior", PRIORS), ("calibrate", CALIBRATIONS)):
      if getattr(self, name) not in known:
        raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
    if self.asked() and task.generation is not None:
      raise UserError(
        f"{self.asked()[0]} is for tasks whose labels are scored, and the answers of {task.name} are generated; "
        "leave it out"
      )
