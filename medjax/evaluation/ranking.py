"""How well label probabilities rank items, whatever threshold is put on them: AUROC and AUPRC, by scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk


def of_labels(truth_N: np.ndarray, probabilities_NK: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
  """Of two labels the ranking by the second one's probability; of more the mean over labels, each against the rest.

  Args:
    truth_N: codes of the true labels.
    probabilities_NK: columns in the order of the labels.
    labels: the label set.

  Returns:
    As `macro`.
  """
  first = 1 if len(labels) == 2 else 0
  present_NK = truth_N[:, None] == np.arange(len(labels))
  return macro(present_NK[:, first:], probabilities_NK[:, first:], labels[first:])


def macro(present_NM: np.ndarray, scores_NM: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """Means over M things of how well the items that have one are ranked before those that do not.

  Args:
    present_NM: whether an item has a thing.
    scores_NM: by which items are ranked.
    names: of the things.

  Returns:
    `auroc` (area under the receiver operating characteristic; 0.5 by chance), `auprc` (area under the precision-recall
    curve as average precision; by chance the share of items that have it), both None where nothing can be ranked, and
    `left_out`: names of what no item has, or every item.
  """
  share_M = present_NM.mean(0)
  ranked = [m for m in range(len(names)) if 0 < share_M[m] < 1]

  def mean(score) -> float | None:
    return float(np.mean([score(present_NM[:, m], scores_NM[:, m]) for m in ranked])) if ranked else None

  return {
    "auroc": mean(sk.roc_auc_score),
    "auprc": mean(sk.average_precision_score),
    "left_out": [name for m, name in enumerate(names) if m not in ranked],
  }
