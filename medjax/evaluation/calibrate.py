"""Temperature scaling: probabilities sharpened or flattened until the validation rows are as likely as can be."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special
from sklearn import metrics as sk

from medjax.evaluation.metrics import calibration, encode
from medjax.evaluation.score import Scored
from medjax.tasks.task import Target, Task

LEAST, MOST = 0.1, 100.0  # temperatures: rows that are all right must not end in certainty, and 100 is all but even


def temper(task: Task, rows: Scored, validation: Scored) -> tuple[Scored, Scored, dict[str, Any]]:
  """Applies one temperature a target, chosen on the validation rows; the likeliest labels stay what they are.

  Args:
    task: its labels are scored.
    rows: what is evaluated; without labels where it is predicted.
    validation: labelled rows.

  Returns:
    The rows and the validation rows, tempered, and for metrics.json `mode`, `rows` (of validation) and `targets`: for
    each its `temperature` and, of labelled rows, `before` and `after`: what `metrics.calibration` says of them.
  """
  record: dict[str, Any] = {"mode": "temperature", "rows": len(validation.rows), "targets": {}}
  for name, target in task.targets.items():
    validated_NK, found_NK = validation.matrix(name, target), rows.matrix(name, target)
    temperature = best_temperature(validated_NK, [row.labels[name] for row in validation.rows], target)
    tempered_NK = tempered(found_NK, temperature)
    record["targets"][name] = {"temperature": temperature}
    if all(name in row.labels for row in rows.rows):
      references = [row.labels[name] for row in rows.rows]
      record["targets"][name] |= {
        "before": calibration(references, found_NK, target),
        "after": calibration(references, tempered_NK, target),
      }
    rows = rows.replaced(name, target, tempered_NK)
    validation = validation.replaced(name, target, tempered(validated_NK, temperature))
  return rows, validation, record


def best_temperature(probabilities_NK: np.ndarray, references: Sequence[str], target: Target) -> float:
  """The temperature of least log-loss on these rows (Guo et al. 2017, section 4.2), between `LEAST` and `MOST`.

  The log-loss is convex in 1 / T, so it has one minimum, which a bounded search over log T finds.
  """
  truth, _ = encode(references, references, target)
  labels = range(len(target.labels))

  def loss(log_temperature: float) -> float:
    return sk.log_loss(truth, tempered(probabilities_NK, np.exp(log_temperature)), labels=labels)

  found = optimize.minimize_scalar(loss, bounds=np.log([LEAST, MOST]), method="bounded", options={"xatol": 1e-6})
  return float(np.exp(found.x))


def tempered(probabilities_NK: np.ndarray, temperature: float) -> np.ndarray:
  """softmax(log p / T) of each row; a label of probability 0 keeps that."""
  with np.errstate(divide="ignore"):
    return special.softmax(np.log(probabilities_NK) / temperature, axis=1)
