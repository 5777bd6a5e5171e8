"""From the probabilities of a target's labels to a label: the likeliest, by thresholds of validation, or by costs."""

from collections.abc import Mapping, Sequence

import numpy as np

from medjax.evaluation.metrics import costs, get_metric
from medjax.tasks.task import Target

_SWEEPS = 3  # over the labels, where there are more than two


def decide(probabilities_NK: np.ndarray, target: Target, weights_K: Sequence[float] | None = None) -> list[str]:
  """The label of each row.

  Args:
    probabilities_NK: of each label, in the target's order; rows sum to 1.
    target: its `decide` says how.
    weights_K: what `chosen_weights` gave; for `thresholds` only.

  Returns:
    Of the likeliest label; with `thresholds` of the greatest product of probability and weight; with `costs` of the
    least expected cost, sum over the true label j of p_j cost(j, k) (Elkan 2001, equation 1).
  """
  if target.decide == "costs":
    best_N = (probabilities_NK @ costs(target)).argmin(1)
  elif target.decide == "thresholds":
    best_N = (probabilities_NK * np.asarray(weights_K)).argmax(1)
  else:
    best_N = probabilities_NK.argmax(1)
  return [target.labels[k] for k in best_N]


def chosen_weights(probabilities_NK: np.ndarray, references: Sequence[str], target: Target) -> list[float]:
  """Weights of the labels under which `decide` has the best primary metric on these rows.

  Of two labels the weights stand for one threshold t of the second one's probability, (t, 1 - t): every midpoint
  between neighbouring probabilities is tried, and of equally good ones that nearest to 1/2 is kept. Of more labels one
  weight at a time is changed in the same way, from equal ones, `_SWEEPS` times round.

  Args:
    probabilities_NK: as in `decide`.
    references: the true labels, of rows that are not tested on.
    target: the labels and the primary metric.
  """
  metric = get_metric(target.primary, target)
  sign = 1.0 if metric.higher_is_better else -1.0

  def value(weights_K: np.ndarray) -> float:
    predicted = [target.labels[k] for k in (probabilities_NK * weights_K).argmax(1)]
    return sign * metric.function(references, predicted, target)

  K = len(target.labels)
  weights_K = np.full(K, 1.0 / K)
  if K == 2:
    best = max(_cuts(probabilities_NK[:, 1]), key=lambda t: (value(np.array([t, 1 - t])), -abs(t - 0.5)))
    return [float(best), float(1 - best)]
  for _ in range(_SWEEPS):
    for k in range(K):
      others_N = np.delete(probabilities_NK * weights_K, k, axis=1).max(1)
      ratios = np.log(np.maximum(others_N, 1e-12)) - np.log(np.maximum(probabilities_NK[:, k], 1e-12))
      tried = [np.where(np.arange(K) == k, np.exp(cut), weights_K) for cut in _midpoints(ratios)]
      best = max((weights_K, *tried), key=value)  # the first of equals: as it was
      weights_K = best / best.sum()
  return [float(weight) for weight in weights_K]


def as_text(target: Target, weights_K: Sequence[float]) -> Mapping[str, float]:
  """Weights for `metrics.json`: of two labels the threshold of the second one, else the weight of each."""
  if len(target.labels) == 2:
    return {f"threshold of {target.labels[1]}": float(weights_K[0] / sum(weights_K))}
  return {label: float(weight) for label, weight in zip(target.labels, weights_K, strict=True)}


def _midpoints(values_N: np.ndarray) -> np.ndarray:
  values = np.unique(values_N)
  return (values[1:] + values[:-1]) / 2


def _cuts(probabilities_N: np.ndarray) -> np.ndarray:
  return np.array([0.5, *_midpoints(np.concatenate([probabilities_N, [0.0, 1.0]]))])
