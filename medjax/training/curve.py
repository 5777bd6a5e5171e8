"""The curve of a run: the lines of its metrics.jsonl, as its checkpoint knows them."""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from medjax.errors import UserError
from medjax.training import checkpoints

FILE = "metrics.jsonl"


def _digest_of(lines: Iterable[str]) -> str:
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a run's metrics.jsonl; none where the run has none yet.

  Raises:
    UserError: a line cannot be read, or those up to the last checkpoint are not what it was saved with.
  """
  path = workdir / FILE
  step, saved = checkpoints.load_progress(workdir)
  if not step and not path.exists():
    return []
  try:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [json.loads(line) for line in lines]
    steps = [line["step"] for line in found]
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise UserError(f"{path} cannot be read ({error}); {_remedy(workdir)}") from None
  known = saved.get("metrics")
  if known and known != _digest_of(line for line, at in zip(lines, steps, strict=True) if at <= step):
    raise UserError(f"{path} is not what the checkpoint of step {step} was saved with; {_remedy(workdir)}")
  return found


def _remedy(workdir: pathlib.Path) -> str:
  return f"bring it back from a copy, or move {workdir} away to train that run again"
