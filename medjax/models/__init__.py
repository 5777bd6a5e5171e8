"""Decoders: configuration, modules, and weights in. What needs JAX is imported when it is first used."""

import importlib
import os
from typing import Any

# Importing transformers prints the advice to install PyTorch, which medjax does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__all__ = ["PRESETS", "Decoder", "Layout", "ModelConfig"]

_NAMES = {"PRESETS": "families", "Decoder": "decoder", "Layout": "views", "ModelConfig": "config"}


def __getattr__(name: str) -> Any:
  """Imports a public name at its first use (PEP 562)."""
  if name in _NAMES:
    return getattr(importlib.import_module(f"medjax.models.{_NAMES[name]}"), name)
  raise AttributeError(f"module 'medjax.models' has no attribute {name!r}")
