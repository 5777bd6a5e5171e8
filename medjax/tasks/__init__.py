"""Clinical tasks: what a task is, and those that come with medjax."""

from medjax.tasks import (  # noqa: F401  (they register themselves)
  clinical_reasoning,
  laboratory_thresholds,
  numeric_classification,
  summarization,
  text_classification,
  triage,
)
from medjax.tasks.kinds import kind_of, of, settled
from medjax.tasks.task import Facts, Generation, Target, Task, TextTarget, get, register, registered

__all__ = [
  "Facts",
  "Generation",
  "Target",
  "Task",
  "TextTarget",
  "get",
  "kind_of",
  "of",
  "register",
  "registered",
  "settled",
]
