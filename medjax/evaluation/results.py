"""What an evaluation leaves in its folder: predictions.jsonl, and metrics.json, by which both are checked."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from medjax import files
from medjax.errors import UserError

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"


def write(folder: pathlib.Path, lines: Iterable[str], metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the lines of the predictions, and then the metrics with their digest; returns what metrics.json holds."""
  path = folder / PREDICTIONS
  with files.write_aside(path, private=True) as file:
    file.writelines(lines)
  return files.write_sealed(folder / METRICS, {**metrics, "predictions_sha256": files.digest(path)})


def exist(folder: pathlib.Path) -> bool:
  """Whether an evaluation has come to its end there."""
  return (folder / METRICS).exists()


def read_metrics(folder: pathlib.Path) -> dict[str, Any]:
  """What metrics.json holds; UserError where it is not as it was written."""
  return files.read_sealed(folder / METRICS, _remedy(folder))


def read_predictions(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of predictions.jsonl; UserError where they are not as they were written."""
  path, known = folder / PREDICTIONS, read_metrics(folder).get("predictions_sha256")
  try:
    if known is not None and known != files.digest(path):
      raise UserError(f"{path} was changed after it was written; bring it back from a copy, or {_remedy(folder)}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read ({error}); bring it back from a copy, or {_remedy(folder)}") from None


def _remedy(folder: pathlib.Path) -> str:
  return f"remove {folder} and run the same command again"
