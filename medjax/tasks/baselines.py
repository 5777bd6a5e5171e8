"""What needs no language model: the commonest label, words without their order, and values without their names.

`python -m medjax.tasks.baselines` prints one line for each task, method, train size and target on the test split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from medjax.data.examples import Row
from medjax.tasks import numeric_classification, triage
from medjax.tasks.task import Task

Predictions = dict[str, list[str]]  # target -> one label a test row


def _labels(rows: Sequence[Row], target: str) -> list[str]:
  return [row.labels[target] for row in rows]


def majority(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """The commonest training label for every test row (the first of them in the label set where several are)."""
  out = {}
  for name, target in task.targets.items():
    counts = Counter(_labels(train_rows, name))
    out[name] = [max(target.labels, key=lambda label: counts[label])] * len(test_rows)
  return out


def bag_of_words(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """TF-IDF of single words and pairs of neighbours, and logistic regression, one for each target.

  Args:
    train_rows: labelled rows to fit.
    test_rows: rows to predict.
    task: renders the rows.

  Returns:
    Target name -> one label a test row.
  """
  train, test = ([task.render(row.fields) for row in rows] for rows in (train_rows, test_rows))
  out = {}
  for name in task.targets:
    model = make_pipeline(
      TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
      LogisticRegression(C=30.0, class_weight="balanced", max_iter=1000),
    )
    out[name] = [str(label) for label in model.fit(train, _labels(train_rows, name)).predict(test)]
  return out


def _thyroid_values(rows: Sequence[Row]) -> np.ndarray:
  """[rows, 2 x tests] the logarithm of each test and whether it is missing, with flags after them."""
  tests, flags = numeric_classification.TESTS, tuple(numeric_classification.BACKGROUND)
  values = np.array([[float(row.fields[name] or "nan") for name in tests] for row in rows])
  missing = np.isnan(values)
  logs = np.where(missing, 0.0, np.log(np.where(missing, 1.0, values)))
  return np.hstack([logs, missing, [[bool(row.fields[name]) for name in flags] for row in rows]]).astype(float)


def decision_tree(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """A decision tree of at most 8 leaves on the thyroid values themselves (`numeric_classification` only)."""
  model = DecisionTreeClassifier(max_leaf_nodes=8, random_state=0)
  model.fit(_thyroid_values(train_rows), _labels(train_rows, "thyroid"))
  return {"thyroid": [str(label) for label in model.predict(_thyroid_values(test_rows))]}


def scores(predictions: Predictions, test_rows: Sequence[Row]) -> Mapping[str, tuple[float, float]]:
  """Accuracy and macro-F1 by target; under `all`, the share of rows with every target right (twice)."""
  out, right = {}, np.ones(len(test_rows), bool)
  for name, guess in predictions.items():
    truth = _labels(test_rows, name)
    out[name] = (accuracy_score(truth, guess), f1_score(truth, guess, average="macro", zero_division=0.0))
    right &= np.array(truth) == np.array(guess)
  if len(predictions) > 1:
    out["all"] = (float(right.mean()), float(right.mean()))
  return out


def main() -> None:
  """Prints the table of docs/tasks.md."""
  thyroid = numeric_classification.load()
  plan = [
    (triage.TRIAGE, triage.rows("train", 2000), triage.rows("test"), (250, 1000, 2000), (majority, bag_of_words)),
    (
      numeric_classification.NUMERIC_CLASSIFICATION,
      thyroid["train"],
      thyroid["test"],
      (249, 300),
      (majority, bag_of_words, decision_tree),
    ),
  ]
  print(f"{'task':24}{'method':16}{'train':>6}{'test':>6}  {'target':10}{'accuracy':>9}{'macro_f1':>9}")
  for task, train, test, sizes, methods in plan:
    for method in methods:
      for size in sizes:
        for target, (accuracy, f1) in scores(method(train[:size], test, task), test).items():
          last = f"{f1:9.3f}" if target != "all" else ""
          print(f"{task.name:24}{method.__name__:16}{size:6}{len(test):6}  {target:10}{accuracy:9.3f}{last}")


if __name__ == "__main__":
  main()
