"""Columns that give the label away, measured one at a time.

A column that alone predicts the label almost perfectly is mostly one that was written down after the label was decided,
or the label itself in other words. It may also be a good predictor that is rightly used (TSH for thyroid disease): the
check says where to look, and the user decides whether the value is known when the model will be asked. What two columns
give away together, and what a later value says of the label only now and then, it does not see: `column_names` knows
some of these by name.
"""

import collections
import dataclasses
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

ROWS = 5_000  # rows of a larger table that are drawn
FOLDS = 5
CLASS_ROWS = 10  # labels with fewer rows are left out, as are those of fewer groups than folds
CATEGORIES = 30  # most distinct values of a categorical column
REPEATED = 5  # rows a value, on average, that make a column categorical
NUMERIC = 0.95  # share of a column's known values that are numbers where it is numeric
TEXT_WORDS = 10  # median words from which a text is a whole note
FEATURES = 20_000  # words and pairs of words of a text column
AUROC = 0.9  # from here on a value, category or short text is flagged
TEXT_AUROC = 0.995  # from here on a whole note is
NAMED = 0.8  # mean share of a label's texts that name it and no other from which a text is flagged

_UNKNOWN = {"", "?", "na", "n/a", "nan", "none", "null"}


@dataclasses.dataclass(frozen=True)
class Column:
  """What one column says of the label.

  Attributes:
    name: the column's.
    kind: `numeric`, `categorical`, `short text`, `text`, or `constant`.
    auroc: cross-validated area under the ROC curve, the mean over labels of each against the rest; 0.5 is chance.
    named: the mean over labels of the share of that label's texts that hold its words and no other label's; None for
      columns that are no text.
    flagged: whether to look at it.
    why: in words, empty where not flagged.
  """

  name: str
  kind: str
  auroc: float
  named: float | None
  flagged: bool
  why: str


@dataclasses.dataclass(frozen=True)
class LeakReport:
  """Columns by how well each alone predicts the label, the best first.

  Attributes:
    rows: rows that were used.
    labels: the labels that were told apart; fewer than two where no check was possible, and then no columns.
    left_out: label -> its rows, for labels with too few rows or groups.
    columns: one entry a column.
  """

  rows: int
  labels: tuple[str, ...]
  left_out: Mapping[str, int]
  columns: tuple[Column, ...]


def leaks(
  columns: Mapping[str, Sequence[Any]],
  labels: Sequence[str],
  groups: Sequence[str],
  advance: Callable[[int], None] | None = None,
) -> LeakReport:
  """Measures how well each column alone predicts the label, on groups that its model has not seen.

  Five-fold cross-validation, stratified by label, a group in one fold only. Numbers go through a decision tree (a
  binning fitted to the label), categories and missing values through one-hot logistic regression, texts through TF-IDF
  of words and pairs of words and logistic regression. Flagged are:

  - numbers, categories and short texts with an AUROC of `AUROC` or more;
  - whole notes (a median of `TEXT_WORDS` words or more) with `TEXT_AUROC` or more: that a note's words tell its label
    is what the task is about, but not that they do so without fail;
  - texts, short or whole, that name their own label and no other in `NAMED` of the rows (mean over labels, so that a
    common label does not decide).

  Args:
    columns: name -> one value a row: text, number, bool or None.
    labels: one a row.
    groups: one a row; a patient, or the row's id.
    advance: called with 1 after each column, for a progress bar.

  Returns:
    The report. At most `ROWS` rows are used, drawn with a fixed seed.
  """
  drawn = np.random.default_rng(0).permutation(len(labels))[:ROWS]
  all_labels = [labels[row] for row in drawn]
  sizes = collections.Counter(all_labels)
  groups_of = collections.defaultdict(set)
  for row in drawn:
    groups_of[labels[row]].add(groups[row])
  kept = sorted(label for label in sizes if sizes[label] >= CLASS_ROWS and len(groups_of[label]) >= FOLDS)
  left_out = {label: sizes[label] for label in sorted(sizes) if label not in kept}
  rows = [int(row) for row in sorted(drawn) if labels[row] in kept]
  if len(kept) < 2:
    return LeakReport(len(rows), tuple(kept), left_out, ())
  truth = np.array([kept.index(labels[row]) for row in rows])
  folds = _folds(truth, [groups[row] for row in rows])
  measured = []
  for name, values in columns.items():
    measured.append(_column(name, [values[row] for row in rows], truth, kept, folds))
    if advance:
      advance(1)
  return LeakReport(len(rows), tuple(kept), left_out, tuple(sorted(measured, key=lambda column: -column.auroc)))


def _folds(truth: np.ndarray, groups: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Train and test rows of each fold."""
  from sklearn.model_selection import StratifiedGroupKFold

  splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # a label of one large group cannot be in every fold
    return list(splitter.split(truth[:, None], truth, groups))


def _column(
  name: str, values: Sequence[Any], truth: np.ndarray, labels: Sequence[str], folds: Sequence[tuple]
) -> Column:
  texts = ["" if _unknown(value) else str(value).strip() for value in values]
  kind = _kind(texts)
  auroc = 0.5 if kind == "constant" else _auroc(truth, _scores(kind, texts, truth, len(labels), folds))
  named = _named(texts, truth, labels) if "text" in kind else None
  least = TEXT_AUROC if kind == "text" else AUROC
  why = []
  if auroc >= least:
    why.append(f"alone it tells the labels apart with an AUROC of {auroc:.3f}")
  if named is not None and named >= NAMED:
    why.append(f"{named:.0%} of its texts name their own label and no other")
  return Column(name, kind, auroc, named, bool(why), "; ".join(why))


def _unknown(value: Any) -> bool:
  return value is None or str(value).strip().casefold() in _UNKNOWN


def _number(text: str) -> float:
  """The text as a number; not a number where it is none."""
  try:
    number = float(text.replace(",", "")) if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text) else float(text)
  except ValueError:
    return math.nan
  return number if math.isfinite(number) else math.nan


def _kind(texts: Sequence[str]) -> str:
  known = [text for text in texts if text]
  distinct = len(set(texts))
  if distinct < 2:
    return "constant"
  if distinct <= CATEGORIES and len(texts) >= REPEATED * distinct:
    return "categorical"
  if np.mean([not math.isnan(_number(text)) for text in known]) >= NUMERIC:
    return "numeric"
  return "text" if np.median([len(text.split()) for text in known]) >= TEXT_WORDS else "short text"


def _scores(
  kind: str, texts: Sequence[str], truth: np.ndarray, classes: int, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
  """Out-of-fold probabilities [rows, labels]."""
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression
  from sklearn.preprocessing import OneHotEncoder
  from sklearn.tree import DecisionTreeClassifier

  def model():
    if kind == "numeric":
      return DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=5, class_weight="balanced", random_state=0)
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=100)

  # Features are made from all rows: they know nothing of labels.
  if kind == "numeric":
    features = np.array([[_number(text)] for text in texts])
  elif kind == "categorical":
    features = OneHotEncoder().fit_transform(np.array(texts)[:, None])
  else:
    vectorizer = TfidfVectorizer(
      ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+", max_features=FEATURES, dtype=np.float32
    )
    features = vectorizer.fit_transform([text or "unknown" for text in texts])
  scores = np.zeros((len(texts), classes))
  for train, test in folds:
    fitted = model()
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # not fully converged is good enough
      fitted.fit(features[train], truth[train])
    scores[np.ix_(test, fitted.classes_)] = fitted.predict_proba(features[test])
  return scores


def _auroc(truth: np.ndarray, scores: np.ndarray) -> float:
  """Macro-averaged one-vs-rest area under the ROC curve; of two labels, both give the same."""
  from sklearn.metrics import roc_auc_score

  return float(np.mean([roc_auc_score(truth == label, scores[:, label]) for label in range(scores.shape[1])]))


def _named(texts: Sequence[str], truth: np.ndarray, labels: Sequence[str]) -> float:
  """The mean over labels of the share of its texts that hold its words, one after another, and no other label's.

  A label inside of a longer one (`emergency` in `non-emergency`) does not count as named by it.
  """
  phrases = [_words(label) for label in labels]
  if "" in phrases or len(set(phrases)) < len(phrases):
    return 0.0
  found = re.compile("|".join(rf"\b{re.escape(phrase)}\b" for phrase in sorted(phrases, key=len, reverse=True)))
  named = np.array(
    [set(found.findall(_words(text))) == {phrases[label]} for text, label in zip(texts, truth, strict=True)]
  )
  return float(np.mean([named[truth == label].mean() for label in range(len(labels))]))


def _words(text: str) -> str:
  return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
