"""How well label probabilities rank items, whatever threshold is put on them: AUROC and AUPRC.

Values are scikit-learn's. For intervals the same are had with each patient left out: `G` is the number of groups
(patients), `M` that of things which items have or do not have, such as labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk

from medjax.evaluation import intervals

_BATCH_ENTRIES = 4_000_000  # weights of items held at once


def of_labels(truth_N: np.ndarray, probabilities_NK: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
  """Of two labels the ranking by the second one's probability; of more the mean over labels, each against the rest.

  Args:
    truth_N: codes of the true labels.
    probabilities_NK: columns in the order of the labels.
    labels: the label set.

  Returns:
    As `macro`.
  """
  return macro(*_one_by_one(truth_N, probabilities_NK, labels))


def macro(present_NM: np.ndarray, scores_NM: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """Means over things of how well the items that have one are ranked before those that do not.

  Args:
    present_NM: whether an item has a thing.
    scores_NM: by which items are ranked.
    names: of the things.

  Returns:
    `auroc` (area under the receiver operating characteristic; 0.5 by chance), `auprc` (area under the precision-recall
    curve as average precision; by chance the share of items that have it), both None where nothing can be ranked, and
    `left_out`: names of what no item has, or every item.
  """
  ranked = _ranked(present_NM)

  def mean(score) -> float | None:
    return float(np.mean([score(present_NM[:, m], scores_NM[:, m]) for m in ranked])) if len(ranked) else None

  return {
    "auroc": mean(sk.roc_auc_score),
    "auprc": mean(sk.average_precision_score),
    "left_out": [name for m, name in enumerate(names) if m not in ranked],
  }


def with_intervals(
  truth_N: np.ndarray, probabilities_NK: np.ndarray, labels: Sequence[str], group_N: np.ndarray, level: float = 0.95
) -> dict[str, Any]:
  """As `of_labels`, with intervals over patients.

  They are `intervals.score_interval` with the jackknife's error. Where a label rests on one patient, the area without
  that patient is not known, and the interval is all of 0 to 1.

  Args:
    truth_N: codes of the true labels.
    probabilities_NK: columns in the order of the labels.
    labels: the label set.
    group_N: the patient's number, 0..G-1, of each item.
    level: confidence level.

  Returns:
    `auroc` and `auprc`, each None or `value`, `low`, `high`; and `left_out`.
  """
  present_NM, scores_NM, names = _one_by_one(truth_N, probabilities_NK, labels)
  found, ranked, groups = macro(present_NM, scores_NM, names), _ranked(present_NM), int(group_N.max()) + 1
  if not len(ranked):
    return found
  left_out_M2G = [_left_out(present_NM[:, m], scores_NM[:, m], group_N, groups) for m in ranked]
  for name, values_G in zip(("auroc", "auprc"), np.mean(left_out_M2G, 0), strict=True):
    low, high = 0.0, 1.0
    if np.isfinite(values_G).all():
      error = float(intervals.jackknife_error(values_G))
      low, high = intervals.score_interval(found[name], error, (0.0, 1.0), groups, level)
    found[name] = {"value": found[name], "low": low, "high": high}
  return found


def _one_by_one(
  truth_N: np.ndarray, probabilities_NK: np.ndarray, labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
  """Presence, scores and names of the labels to rank by: of two the second, else all."""
  first = 1 if len(labels) == 2 else 0
  present_NK = truth_N[:, None] == np.arange(len(labels))
  return present_NK[:, first:], probabilities_NK[:, first:], labels[first:]


def _ranked(present_NM: np.ndarray) -> np.ndarray:
  """The things that some items have, and some do not."""
  return np.flatnonzero(present_NM.any(0) & ~present_NM.all(0))


def _left_out(present_N: np.ndarray, scores_N: np.ndarray, group_N: np.ndarray, groups: int) -> np.ndarray:
  """AUROC and AUPRC [2, G] with each group left out; not a number where nothing is left to rank."""
  order = np.argsort(-scores_N, kind="stable")
  present_N, group_N = present_N[order], group_N[order]
  ends_E = np.flatnonzero(np.append(np.diff(scores_N[order]) != 0, True))  # the last item of each score
  found, step = [], max(1, _BATCH_ENTRIES // len(present_N))
  for first in range(0, groups, step):
    kept_RN = group_N != np.arange(first, min(first + step, groups))[:, None]
    right_RE = np.cumsum(kept_RN & present_N, 1)[:, ends_E]
    wrong_RE = np.cumsum(kept_RN & ~present_N, 1)[:, ends_E]
    more_RE = np.diff(right_RE, prepend=0)
    with np.errstate(invalid="ignore"):
      recall_RE, precision_RE = more_RE / right_RE[:, -1:], right_RE / np.maximum(right_RE + wrong_RE, 1)
      pairs_R = (np.diff(wrong_RE, prepend=0) * (right_RE - more_RE / 2)).sum(1)  # ties count half
      auroc_R = pairs_R / (right_RE[:, -1] * wrong_RE[:, -1])
    auprc_R = np.where(wrong_RE[:, -1] > 0, (recall_RE * precision_RE).sum(1), np.nan)
    found.append([auroc_R, auprc_R])
  return np.concatenate(found, 1)
