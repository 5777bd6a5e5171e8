"""Clinical tasks: what a task is, and those that come with medjax."""

from medjax.tasks import numeric_classification, triage  # noqa: F401  (they register themselves)
from medjax.tasks.task import Target, Task, get, register, registered

__all__ = ["Target", "Task", "get", "register", "registered"]
