"""The files of an evaluation: predictions.jsonl and metrics.json, which holds digests of both."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from medjax import files
from medjax.errors import UserError

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"


def write(folder: pathlib.Path, lines: Iterable[str], metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Writes predictions.jsonl, then metrics.json with the digest of the former; returns the content of metrics.json."""
  path = folder / PREDICTIONS
  with files.write_aside(path, private=True) as file:
    file.writelines(lines)
  return files.write_sealed(folder / METRICS, {**metrics, "predictions_sha256": files.digest(path)})


def exist(folder: pathlib.Path) -> bool:
  """Whether the folder holds a finished evaluation; metrics.json is written last."""
  return (folder / METRICS).exists()


def read_metrics(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the content of metrics.json; UserError if it is missing or was changed."""
  return files.read_sealed(folder / METRICS, _remedy(folder))


def read_predictions(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of predictions.jsonl; UserError if one of both files is missing or was changed."""
  path, known = folder / PREDICTIONS, read_metrics(folder).get("predictions_sha256")
  try:
    if known is not None and known != files.digest(path):
      raise UserError(f"{path} was changed after it was written; bring it back from a copy, or {_remedy(folder)}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read ({error}); bring it back from a copy, or {_remedy(folder)}") from None


def _remedy(folder: pathlib.Path) -> str:
  return f"remove {folder} and run the same command again"
