"""What needs no language model: the commonest label, words without their order, first sentences, and bare values.

`python -m medjax.tasks.baselines` prints them for every task with rows of its own, on the test split;
`python -m medjax.tasks.baselines configs/medqa.py:questions.jsonl` for the tasks of configs.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from medjax import config as schema
from medjax.data.examples import Row
from medjax.data.rows import task_rows
from medjax.tasks import numeric_classification, panels, triage
from medjax.tasks.kinds import of, settled
from medjax.tasks.task import Target, Task, TextTarget, registered

Predictions = dict[str, list[str]]  # target -> one label or text a test row


def majority(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """The commonest training label for every test row: among the row's own options where it has some.

  Where several labels are equally common it is the first of them in the label set.
  """
  out = {}
  for name, target in _label_targets(task).items():
    counts = Counter(_labels(train_rows, name))
    out[name] = [max(_allowed(row, target), key=lambda label: counts[label]) for row in test_rows]
  return out


def bag_of_words(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """TF-IDF of single words and pairs of neighbours, and logistic regression, one for each label target.

  Where a row has options (`fields["options"]`) the most probable of them is chosen.

  Args:
    train_rows: labelled rows to fit; where they have one label only, or no words, the commonest label is the answer.
    test_rows: rows to predict.
    task: renders the rows.

  Returns:
    Target name -> one label a test row.
  """
  train, test = ([task.render(row.fields) for row in rows] for rows in (train_rows, test_rows))
  out = {}
  for name, target in _label_targets(task).items():
    labels = _labels(train_rows, name)
    if len(set(labels)) == 1 or not any(re.search(r"\b\w\w+\b", text) for text in train):
      out[name] = majority(train_rows, test_rows, task)[name]
      continue
    model = make_pipeline(
      TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
      LogisticRegression(C=30.0, class_weight="balanced", max_iter=1000),
    )
    probabilities = model.fit(train, labels).predict_proba(test)
    out[name] = []
    for row, row_probabilities in zip(test_rows, probabilities, strict=True):
      of_label = dict(zip(model.classes_, row_probabilities, strict=True))
      out[name].append(max(_allowed(row, target), key=lambda label: of_label.get(label, 0.0)))
  return out


def lead(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """The first sentences of the message, for each text target.

  As many whole sentences as fit in the mean number of words of the training references, at least one.
  """
  out = {}
  for name, target in task.targets.items():
    if isinstance(target, TextTarget):
      words = float(np.mean([len(row.labels[name].split()) for row in train_rows]))
      out[name] = [_first_sentences(task.render(row.fields), words) for row in test_rows]
  return out


BASELINES = {"majority": majority, "bag_of_words": bag_of_words, "lead": lead}  # those that any task may have


def _first_sentences(text: str, words: float) -> str:
  sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]
  kept, length = sentences[:1], len(sentences[0].split()) if sentences else 0
  for sentence in sentences[1:]:
    length += len(sentence.split())
    if length > words:
      break
    kept.append(sentence)
  return " ".join(kept)


def _label_targets(task: Task) -> dict[str, Target]:
  return {name: target for name, target in task.targets.items() if not isinstance(target, TextTarget)}


def _allowed(row: Row, target: Target) -> Sequence[str]:
  """The labels that a row may have, in the target's order: its options (a list, or `a; b; c`), else all."""
  options = row.fields.get("options") or ()
  options = {str(o).strip().casefold() for o in (options.split(";") if isinstance(options, str) else options)}
  return [label for label in target.labels if label.casefold() in options] or target.labels


def _labels(rows: Sequence[Row], target: str) -> list[str]:
  return [row.labels[target] for row in rows]


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


def _panel_values(rows: Sequence[Row]) -> np.ndarray:
  """[rows, 2] sodium, and the higher transaminase in multiples of the sex's limit."""
  highest = [max(row.fields["alt"] or 0, row.fields["ast"] or 0) for row in rows]
  limits = [panels.LIMITS[row.fields["sex"]] for row in rows]
  return np.array([[row.fields["sodium"] for row in rows], np.divide(highest, limits)], float).T


def panel_trees(train_rows: Sequence[Row], test_rows: Sequence[Row], task: Task) -> Predictions:
  """A decision tree a target on the values of the panel (`laboratory_thresholds` only)."""
  values, unseen = _panel_values(train_rows), _panel_values(test_rows)
  return {
    name: DecisionTreeClassifier(random_state=0).fit(values, _labels(train_rows, name)).predict(unseen).tolist()
    for name in task.targets
  }


def scores(predictions: Predictions, test_rows: Sequence[Row]) -> Mapping[str, tuple[float, float]]:
  """Accuracy and macro-F1 by label target; under `all`, the share of rows with every target right (twice)."""
  out, right = {}, np.ones(len(test_rows), bool)
  for name, guess in predictions.items():
    truth = _labels(test_rows, name)
    out[name] = (accuracy_score(truth, guess), f1_score(truth, guess, average="macro", zero_division=0.0))
    right &= np.array(truth) == np.array(guess)
  if len(predictions) > 1:
    out["all"] = (float(right.mean()), float(right.mean()))
  return out


# Where a task has more to say than its own rows tell: train sizes, and the simulator's further train rows.
_SIZES = {"triage": (250, 1000, 2000), "numeric_classification": (249, 300)}
_MORE_ROWS = {"triage": lambda: triage.rows("train", max(_SIZES["triage"]))}
_MORE_METHODS = {"numeric_classification": (decision_tree,), "laboratory_thresholds": (panel_trees,)}


def main(configs: Sequence[str]) -> None:
  """Prints the numbers of docs/tasks.md: of every task with rows of its own, or of the configs that are named.

  Args:
    configs: `FILE.py:ARGS`, as `--config` takes them; evaluated on validation where the source has no test rows.
  """
  print(f"{'task':28}{'method':14}{'train':>6}{'test':>6}  {'target':15}metrics")
  for config in configs:
    settings = settled(schema.load(config))
    task = of(settings)
    splits = task_rows(settings, task)
    _print(task, splits["train"], splits["test"] or splits["validation"])
  for task in () if configs else registered():
    if task.load is not None:
      splits = task.load()
      _print(task, _MORE_ROWS.get(task.name, lambda: splits["train"])(), splits["test"])  # noqa: B023


def _print(task: Task, train: Sequence[Row], test: Sequence[Row]) -> None:
  from medjax.evaluation.metrics import score_texts, summarize_texts  # a room above this one, for the scores of texts

  for method in (*BASELINES.values(), *_MORE_METHODS.get(task.name, ())):
    for size in _SIZES.get(task.name, sorted({min(250, len(train)), len(train)})):
      predictions = method(train[:size], test, task)
      texts = {name for name in predictions if isinstance(task.targets[name], TextTarget)}
      found = {
        name: {"accuracy": accuracy, "macro_f1": f1} if name != "all" else {"accuracy": accuracy}
        for name, (accuracy, f1) in scores({n: p for n, p in predictions.items() if n not in texts}, test).items()
      }
      for name in sorted(texts):
        summary = summarize_texts(score_texts(task, name, test, predictions[name]), 0)
        found[name] = {key: value for key, value in summary.items() if key not in ("n", "unparseable")}
      for name, values in found.items():
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{task.name:28}{method.__name__:14}{size:6}{len(test):6}  {name:15}{shown}")


if __name__ == "__main__":
  main(sys.argv[1:])
