"""Metrics of label predictions: reference values by scikit-learn, and the same from confusion counts for resampling.

Those of texts are in `text_metrics`; here is what they share with labels.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn import metrics as sk

from medjax import privacy
from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.evaluation import ranking
from medjax.evaluation.text_metrics import TEXT_METRICS, score_text, text_metrics
from medjax.tasks.task import Target, Task, TextTarget

UNPARSEABLE = "unparseable"  # the name of every prediction that is not in the label set


@dataclasses.dataclass(frozen=True)
class Metric:
  """A scalar metric.

  Attributes:
    name: key in `METRICS`.
    function: (references, predictions, target) -> value, labels as strings.
    from_counts: (counts [..., K, K + 1], target) -> values [...]; the same number from confusion counts, rows the
      truth, the last column the predictions outside the label set.
    higher_is_better: the direction of improvement.
    per_item: whether it is the mean of a 0/1 value per item, so that McNemar's test applies.
    ordinal: whether it needs an ordinal target.
  """

  name: str
  function: Callable[[Sequence[str], Sequence[str], Target], float]
  from_counts: Callable[[np.ndarray, Target], np.ndarray]
  higher_is_better: bool = True
  per_item: bool = False
  ordinal: bool = False


def encode(references: Sequence[str], predictions: Sequence[str], target: Target) -> tuple[np.ndarray, np.ndarray]:
  """Codes of references (0..K-1) and predictions (0..K, K = outside the label set), two int arrays [n].

  Raises:
    UserError: no items, lengths that differ, a reference outside the label set, a label named `unparseable`.
  """
  if UNPARSEABLE in target.labels:
    raise UserError(f"the label set has {UNPARSEABLE!r}, which names answers outside the set; rename that label")
  if len(references) != len(predictions):
    raise UserError(f"{len(references)} references but {len(predictions)} predictions; give one prediction per item")
  if not len(references):
    raise UserError("no items to evaluate; give a split that has rows")
  codes = {label: code for code, label in enumerate(target.labels)}
  for index, label in enumerate(references):
    if label not in codes:
      raise UserError(
        f"the reference of item {index} is not one of {', '.join(target.labels)}; correct the row or the task"
      )
  return (
    np.array([codes[label] for label in references]),
    np.array([codes.get(label, len(codes)) for label in predictions]),
  )


def costs(target: Target) -> np.ndarray:
  """Triage cost [K, K] of a prediction (column) given the truth (row): per level, `under_cost` too low, 1 too high."""
  level = np.arange(len(target.labels))
  above = level[None, :] - level[:, None]
  return np.where(above < 0, -above * float(target.under_cost), above)


def worst_levels(target: Target) -> np.ndarray:
  """The costliest prediction [K] for each truth: what an answer outside the label set counts as in ordinal metrics."""
  return costs(target).argmax(1)


def _ordinal_codes(references, predictions, target):
  truth, predicted = encode(references, predictions, target)
  return truth, np.where(predicted == len(target.labels), worst_levels(target)[truth], predicted)


def _ordinal_counts(counts_RKP: np.ndarray, target: Target) -> np.ndarray:
  worst_KK = np.eye(len(target.labels))[worst_levels(target)]
  return counts_RKP[..., :-1] + counts_RKP[..., -1:] * worst_KK


def _ratio(numerator, denominator):
  """The quotient, 0 where the denominator is 0 (scikit-learn's `zero_division=0`)."""
  safe = np.where(denominator > 0, denominator, 1)
  return np.where(denominator > 0, numerator / safe, 0.0)


def _mean_of_cells(counts, cells):
  return (counts * cells).sum((-2, -1)) / counts.sum((-2, -1))


def _accuracy(references, predictions, target):
  return sk.accuracy_score(*encode(references, predictions, target))


def _accuracy_from_counts(counts, target):
  return _mean_of_cells(counts, np.eye(len(target.labels), len(target.labels) + 1))


def _f1(average):
  def function(references, predictions, target):
    truth, predicted = encode(references, predictions, target)
    return sk.f1_score(truth, predicted, labels=range(len(target.labels)), average=average, zero_division=0)

  return function


def _f1_of_labels(counts):
  square = counts[..., :-1]
  return _ratio(2 * np.einsum("...kk->...k", square), counts.sum(-1) + square.sum(-2))


def _macro_f1_from_counts(counts, target):
  return _f1_of_labels(counts).mean(-1)


def _micro_f1_from_counts(counts, target):
  square = counts[..., :-1]
  return _ratio(2 * np.einsum("...kk->...", square), counts.sum((-2, -1)) + square.sum((-2, -1)))


def _weighted_f1_from_counts(counts, target):
  return (_f1_of_labels(counts) * counts.sum(-1)).sum(-1) / counts.sum((-2, -1))


def _mcc(references, predictions, target):
  return sk.matthews_corrcoef(*encode(references, predictions, target))


def _mcc_from_counts(counts, target):
  # Gorodkin 2004, equation 8, in terms of row and column sums.
  total = counts.sum((-2, -1))
  truth, predicted = counts.sum(-1), counts.sum(-2)
  hits = np.einsum("...kk->...", counts[..., :-1])
  covariance = hits * total - (truth * predicted[..., :-1]).sum(-1)
  return _ratio(covariance, np.sqrt((total**2 - (truth**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))))


def _kappa(references, predictions, target):
  truth, predicted = encode(references, predictions, target)
  return sk.cohen_kappa_score(truth, predicted, labels=range(len(target.labels) + 1), replace_undefined_by=0.0)


def _kappa_from_counts(counts, target):
  total = counts.sum((-2, -1))
  hits = np.einsum("...kk->...", counts[..., :-1])
  chance = (counts.sum(-1) * counts.sum(-2)[..., :-1]).sum(-1) / total
  return _ratio(hits - chance, total - chance)


def _quadratic_kappa(references, predictions, target):
  truth, predicted = _ordinal_codes(references, predictions, target)
  labels = range(len(target.labels))
  return sk.cohen_kappa_score(truth, predicted, labels=labels, weights="quadratic", replace_undefined_by=0.0)


def _quadratic_kappa_from_counts(counts, target):
  square = _ordinal_counts(counts, target)
  level = np.arange(len(target.labels))
  weights = (level[:, None] - level[None, :]) ** 2
  expected = square.sum(-1)[..., :, None] * square.sum(-2)[..., None, :] / square.sum((-2, -1))[..., None, None]
  observed, chance = (square * weights).sum((-2, -1)), (expected * weights).sum((-2, -1))
  return _ratio(chance - observed, chance)


def _under_triage(references, predictions, target):
  truth, predicted = _ordinal_codes(references, predictions, target)
  return np.mean(predicted < truth)


def _under_triage_from_counts(counts, target):
  return _mean_of_cells(_ordinal_counts(counts, target), np.tri(len(target.labels), k=-1))


def _over_triage(references, predictions, target):
  truth, predicted = _ordinal_codes(references, predictions, target)
  return np.mean(predicted > truth)


def _over_triage_from_counts(counts, target):
  return _mean_of_cells(_ordinal_counts(counts, target), np.tri(len(target.labels), k=-1).T)


def _triage_cost(references, predictions, target):
  return np.mean(costs(target)[_ordinal_codes(references, predictions, target)])


def _triage_cost_from_counts(counts, target):
  return _mean_of_cells(_ordinal_counts(counts, target), costs(target))


METRICS: dict[str, Metric] = {
  metric.name: metric
  for metric in (
    Metric("accuracy", _accuracy, _accuracy_from_counts, per_item=True),
    Metric("macro_f1", _f1("macro"), _macro_f1_from_counts),
    Metric("micro_f1", _f1("micro"), _micro_f1_from_counts),
    Metric("weighted_f1", _f1("weighted"), _weighted_f1_from_counts),
    Metric("mcc", _mcc, _mcc_from_counts),
    Metric("kappa", _kappa, _kappa_from_counts),
    Metric("under_triage", _under_triage, _under_triage_from_counts, False, per_item=True, ordinal=True),
    Metric("over_triage", _over_triage, _over_triage_from_counts, False, per_item=True, ordinal=True),
    Metric("triage_cost", _triage_cost, _triage_cost_from_counts, False, ordinal=True),
    Metric("quadratic_kappa", _quadratic_kappa, _quadratic_kappa_from_counts, ordinal=True),
  )
}


def applicable(target: Target) -> list[str]:
  """Names of the metrics that the target has, in a fixed order."""
  return [name for name, metric in METRICS.items() if target.ordinal or not metric.ordinal]


def get_metric(name: str, target: Target) -> Metric:
  """The metric of that name; UserError where it is unknown or the target is not ordinal and it must be."""
  if name not in applicable(target):
    reason = "needs an ordinal target" if name in METRICS else "is unknown"
    raise UserError(f"metric {name!r} {reason}; this target has {', '.join(applicable(target))}")
  return METRICS[name]


def span(name: str, target: Target) -> tuple[float, float]:
  """Lowest and highest value that a metric of labels can have."""
  if name == "triage_cost":
    return 0.0, float(costs(target).max())
  return (-1.0, 1.0) if name in ("mcc", "kappa", "quadratic_kappa") else (0.0, 1.0)


def higher_is_better(name: str) -> bool | None:
  """The direction in which a metric of labels or texts improves; None where it only describes."""
  return (METRICS[name] if name in METRICS else TEXT_METRICS[name]).higher_is_better


def check_primary(target: Target | TextTarget) -> None:
  """Raises UserError where the metric that is to decide does not fit the target, or has no better and worse."""
  if not isinstance(target, TextTarget):
    get_metric(target.primary, target)
  elif target.primary not in text_metrics(target) or higher_is_better(target.primary) is None:
    known = ", ".join(name for name in text_metrics(target) if higher_is_better(name) is not None)
    raise UserError(f"metric {target.primary!r} cannot be the primary one of a text; choose one of {known}")


def score_texts(task: Task, name: str, rows: Sequence[Row], texts: Sequence[str | None]) -> list[dict[str, float]]:
  """Scores of a text target for each row: against its reference, its facts and the message that the prompt shows.

  A text that could not be had (None) gets the worst of each metric: 0, and 1 where lower is better.

  Args:
    task: renders the rows.
    name: of its TextTarget.
    rows: with the reference text among their labels.
    texts: one for each row.

  Raises:
    UserError: a row whose reference or facts cannot be scored against; names it.
  """
  target = task.targets[name]
  worst = {metric: 1.0 if higher_is_better(metric) is False else 0.0 for metric in text_metrics(target)}
  scores = []
  for row, text in zip(rows, texts, strict=True):
    try:
      facts = None if target.facts is None else target.facts(row.fields)
      found = score_text(
        text if text and text.strip() else row.labels[name], row.labels[name], task.render(row.fields), facts
      )
    except UserError as error:
      raise UserError(f"{privacy.row(row.id)}: {error}") from None
    scores.append({metric: found[metric] if text and text.strip() else worst[metric] for metric in worst})
  return scores


def summarize_texts(scores: Sequence[Mapping[str, float]], unparseable: int) -> dict[str, float | int]:
  """`n`, `unparseable` and the mean of each text metric, over n texts that are scored already.

  Raises:
    UserError: no texts.
  """
  if not scores:
    raise UserError("no items to evaluate; give a split that has rows")
  means = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
  return {"n": len(scores), "unparseable": unparseable, **means}


def summarize(
  references: Sequence[str],
  predictions: Sequence[str],
  target: Target,
  probabilities: np.ndarray | None = None,
) -> dict:
  """All metrics of a target as a JSON-able dict.

  Args:
    references: n labels of the target's set.
    predictions: n answers; one outside the label set is wrong and counts as `unparseable`.
    target: the label set and its order.
    probabilities: optional [n, K], see `calibration`.

  Returns:
    `n`, `unparseable` (their number), each scalar metric by name, `per_class` (label -> precision, recall, f1,
    support), `confusion` (`labels` of the rows, `predicted` of the columns, `matrix`) and, where probabilities are
    given, `calibration` and `ranking` (`ranking.of_labels`). The column `unparseable` is there only where it is not
    empty.

  Raises:
    UserError: see `encode` and `calibration`.
  """
  truth, predicted = encode(references, predictions, target)
  size = len(target.labels)
  unparseable = int((predicted == size).sum())
  columns = size + (unparseable > 0)
  per_class = sk.precision_recall_fscore_support(truth, predicted, labels=range(size), zero_division=0)
  matrix = sk.confusion_matrix(truth, predicted, labels=range(size + 1))[:size, :columns]
  summary = {"n": len(truth), "unparseable": unparseable}
  summary |= {name: float(METRICS[name].function(references, predictions, target)) for name in applicable(target)}
  summary["per_class"] = {
    label: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
    for label, precision, recall, f1, support in zip(target.labels, *per_class, strict=True)
  }
  summary["confusion"] = {
    "labels": list(target.labels),
    "predicted": [*target.labels, UNPARSEABLE][:columns],
    "matrix": matrix.tolist(),
  }
  if probabilities is not None:
    summary["calibration"] = calibration(references, probabilities, target)
    summary["ranking"] = ranking.of_labels(truth, probabilities, target.labels)
  return summary


def summarize_separate(
  task: Task,
  rows: Sequence[Row],
  predictions: Sequence[Mapping[str, str]],
  probabilities: Mapping[str, np.ndarray] | None = None,
) -> dict:
  """Metrics of many yes-or-no targets together, by scikit-learn; the last label of each target counts as present.

  Args:
    task: its targets are asked for one by one.
    rows: with their labels.
    predictions: target -> label, for each row.
    probabilities: target -> [n, 2] of its labels; None where answers were generated.

  Returns:
    `n`, `micro_f1`, `macro_f1` (over the targets), `exact_match` (rows with every target right), `hamming_loss` and,
    where probabilities are given, `ranking` (`ranking.macro` over the targets).
  """

  def present(labels: Mapping[str, str]) -> list[bool]:
    return [labels[name] == target.labels[-1] for name, target in task.targets.items()]

  truth, found = (np.array([present(each) for each in of]) for of in ([row.labels for row in rows], predictions))
  together = {
    "n": len(rows),
    "micro_f1": float(sk.f1_score(truth, found, average="micro", zero_division=0)),
    "macro_f1": float(sk.f1_score(truth, found, average="macro", zero_division=0)),
    "exact_match": float(sk.accuracy_score(truth, found)),
    "hamming_loss": float(sk.hamming_loss(truth, found)),
  }
  if probabilities is not None:
    scores = np.stack([probabilities[name][:, -1] for name in task.targets], 1)
    together["ranking"] = ranking.macro(truth, scores, list(task.targets))
  return together


def calibration(
  references: Sequence[str], probabilities: np.ndarray, target: Target, bins: int = 10
) -> dict[str, float]:
  """How far the probabilities can be believed.

  Args:
    references: n labels.
    probabilities: [n, K], columns in the order of `target.labels`, rows summing to 1.
    target: the label set.
    bins: number of equal-width bins of the expected calibration error.

  Returns:
    `log_loss` (nats; probabilities are clipped at the machine epsilon of their dtype), `brier` (sum over the classes
    of the squared error, 0 to 2; Brier 1950), `ece` (expected calibration error of the top label; Guo et al. 2017).

  Raises:
    UserError: a wrong shape, or a row that is not a distribution.
  """
  truth, _ = encode(references, references, target)
  probabilities = np.asarray(probabilities, dtype=np.float64)
  shape = (len(truth), len(target.labels))
  if probabilities.shape != shape:
    raise UserError(f"probabilities have shape {probabilities.shape}, not {shape}; give one column per label")
  proper = (probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) < 1e-3)
  if not proper.all():
    raise UserError(f"probabilities of item {int(np.argmin(proper))} are not a distribution; normalize each row")
  probabilities = probabilities / probabilities.sum(1, keepdims=True)
  confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
  bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
  gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
  labels = range(len(target.labels))
  return {
    "log_loss": float(sk.log_loss(truth, probabilities, labels=labels)),
    "brier": float(sk.brier_score_loss(truth, probabilities, labels=labels, scale_by_half=False)),
    "ece": float(np.abs(gaps).sum() / len(truth)),
  }
