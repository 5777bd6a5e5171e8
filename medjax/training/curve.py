"""The training curve of a run: metrics.jsonl, verified by the digest that the run's newest checkpoint holds."""

import hashlib
import json
import pathlib
from typing import Any

from medjax.errors import UserError
from medjax.training import checkpoints

FILE = "metrics.jsonl"


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics.jsonl; an empty list before its first step.

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
  saved_lines = "".join(line for line, at in zip(lines, steps, strict=True) if at <= step)
  if saved.get("metrics") not in ("", None, hashlib.sha256(saved_lines.encode()).hexdigest()):
    raise UserError(f"{path} is not what the checkpoint of step {step} was saved with; {_remedy(workdir)}")
  return found


def _remedy(workdir: pathlib.Path) -> str:
  return f"bring it back from a copy, or move {workdir} away to train that run again"
