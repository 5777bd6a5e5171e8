"""medjax: fine-tuning of language models on clinical tasks, in JAX.

`import medjax` is cheap: what needs JAX is imported when it is first used.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["Model", "Task", "__version__", "load", "models", "objectives", "tasks"]

_NAMES = {"load": "medjax.api", "Model": "medjax.api", "Task": "medjax.tasks.task"}
_PACKAGES = {"models": "medjax.models", "objectives": "medjax.objectives.preference", "tasks": "medjax.tasks"}


def __getattr__(name: str) -> Any:
  """Imports a public name at its first use (PEP 562)."""
  if name in _NAMES:
    return getattr(importlib.import_module(_NAMES[name]), name)
  if name in _PACKAGES:
    importlib.import_module(_PACKAGES[name])
    return sys.modules[f"medjax.{name}"]
  raise AttributeError(f"module 'medjax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
