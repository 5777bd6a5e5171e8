import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.evaluation.metrics import METRICS, UNPARSEABLE
from medjax.tasks.task import Target

COLOURS = Target(("red", "green", "blue"))
URGENCY = Target(("routine", "soon", "now"), ordinal=True, under_cost=3.0)

REFERENCES = ["routine", "routine", "soon", "soon", "now", "now"]
PREDICTIONS = ["routine", "now", "routine", "soon", "routine", "soon"]


def value(name, references, predictions, target):
  return METRICS[name].function(references, predictions, target)


def test_ordinal_metrics_by_hand():
  # Levels too high: item 1 by 2. Too low: item 2 by 1, item 4 by 2, item 5 by 1.
  assert value("under_triage", REFERENCES, PREDICTIONS, URGENCY) == pytest.approx(3 / 6)
  assert value("over_triage", REFERENCES, PREDICTIONS, URGENCY) == pytest.approx(1 / 6)
  assert value("triage_cost", REFERENCES, PREDICTIONS, URGENCY) == pytest.approx((2 * 1 + 4 * 3.0) / 6)
  # Observed squared distances 0 4 1 0 4 1 = 10; chance: margins 2 2 2 against 3 2 1 over 6.
  chance = (2 * 2 * 1 + 2 * 1 * 4 + 2 * 3 * 1 + 2 * 1 * 1 + 2 * 3 * 4 + 2 * 2 * 1) / 6
  assert value("quadratic_kappa", REFERENCES, PREDICTIONS, URGENCY) == pytest.approx(1 - 10 / chance)


def test_nominal_metrics_are_scikit_learns():
  assert value("accuracy", REFERENCES, PREDICTIONS, URGENCY) == sk.accuracy_score(REFERENCES, PREDICTIONS)
  assert value("mcc", REFERENCES, PREDICTIONS, URGENCY) == sk.matthews_corrcoef(REFERENCES, PREDICTIONS)
  assert value("kappa", REFERENCES, PREDICTIONS, URGENCY) == pytest.approx(
    sk.cohen_kappa_score(REFERENCES, PREDICTIONS)
  )
  for average in ("macro", "micro", "weighted"):
    wanted = sk.f1_score(REFERENCES, PREDICTIONS, average=average)
    assert value(f"{average}_f1", REFERENCES, PREDICTIONS, URGENCY) == wanted


def test_an_answer_outside_the_set_costs_micro_f1_recall_and_no_precision():
  references, predictions = ["red", "red", "green", "blue"], ["red", "no idea", "green", "green"]
  # Of three answers two are right, of four items two: 2 x 2 / (3 + 4). Red has F1 2/3, green 2/3, blue 0.
  assert value("micro_f1", references, predictions, COLOURS) == pytest.approx(4 / 7)
  assert value("weighted_f1", references, predictions, COLOURS) == pytest.approx((2 * 2 / 3 + 2 / 3) / 4)


def test_macro_f1_is_over_the_whole_label_set():
  # Blue neither occurs nor is predicted: it counts as 0, scikit-learn without labels would leave it out.
  assert value("macro_f1", ["red", "green"], ["red", "green"], COLOURS) == pytest.approx(2 / 3)


def test_answers_outside_the_set_are_wrong_and_named():
  references, predictions = ["red", "red", "green"], ["red", "no idea", "red or green"]
  summary = metrics.summarize(references, predictions, COLOURS)
  assert summary["unparseable"] == 2
  assert summary["accuracy"] == pytest.approx(1 / 3)
  assert summary["confusion"]["predicted"] == ["red", "green", "blue", UNPARSEABLE]
  assert summary["confusion"]["matrix"] == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
  assert summary["per_class"]["red"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


@pytest.mark.parametrize("name", ["under_triage", "triage_cost", "over_triage"])
@pytest.mark.parametrize("truth, worst", [("routine", "now"), ("soon", "routine"), ("now", "routine")])
def test_refusing_to_answer_is_as_bad_as_the_worst_answer(name, truth, worst):
  assert value(name, [truth], ["I cannot say"], URGENCY) == value(name, [truth], [worst], URGENCY)


def test_summary_has_rows_for_the_truth_and_goes_through_json():
  summary = metrics.summarize(REFERENCES, PREDICTIONS, URGENCY, probabilities=np.full((6, 3), 1 / 3))
  assert summary["confusion"]["predicted"] == ["routine", "soon", "now"]
  expected = sk.confusion_matrix(REFERENCES, PREDICTIONS, labels=list(URGENCY.labels))
  assert summary["confusion"]["matrix"] == expected.tolist()
  assert summary["calibration"]["log_loss"] == pytest.approx(np.log(3))
  assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of single-class inputs
def test_ordinal_metrics_are_for_ordinal_targets_only():
  assert metrics.applicable(COLOURS) == ["accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "kappa"]
  assert "triage_cost" not in metrics.summarize(["red"], ["red"], COLOURS)
  with pytest.raises(UserError, match="needs an ordinal target"):
    metrics.get_metric("triage_cost", COLOURS)
  with pytest.raises(UserError, match="is unknown"):
    metrics.get_metric("bleu", COLOURS)


@given(
  st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30),
  st.sampled_from([0.5, 1.0, 2.5]),
)
@settings(max_examples=150, deadline=None)
def test_counts_give_what_scikit_learn_gives(items, under_cost):
  target = Target(("a", "b", "c", "d"), ordinal=True, under_cost=under_cost)
  names = [*target.labels, "?"]
  references, predictions = [names[r] for r, _ in items], [names[p] for _, p in items]
  counts = np.zeros((4, 5))
  np.add.at(counts, tuple(zip(*items, strict=True)), 1)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scikit-learn warns of single-class inputs
    for name, metric in METRICS.items():
      expected = metric.function(references, predictions, target)
      both = metric.from_counts(np.stack([counts, 3 * counts]), target)
      assert both == pytest.approx(expected, abs=1e-9), name


@given(st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_order_of_items_does_not_matter(order):
  shuffled = [REFERENCES[i] for i in order], [PREDICTIONS[i] for i in order]
  assert metrics.summarize(*shuffled, URGENCY) == metrics.summarize(REFERENCES, PREDICTIONS, URGENCY)


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of single-class inputs
def test_a_perfect_and_constant_answer_has_finite_metrics():
  summary = metrics.summarize(["now"] * 3, ["now"] * 3, URGENCY)
  assert summary["accuracy"] == 1 and summary["triage_cost"] == 0 and summary["kappa"] == 0 and summary["mcc"] == 0


def test_calibration_by_hand():
  references = ["red", "green", "blue", "red"]
  probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.85, 0.05], [0.55, 0.25, 0.2], [0.1, 0.2, 0.7]])
  found = metrics.calibration(references, probabilities, COLOURS)
  assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.85, 0.2, 0.1]).mean())
  truth = np.eye(3)[[0, 1, 2, 0]]
  assert found["brier"] == pytest.approx(((probabilities - truth) ** 2).sum(1).mean())
  # Bins [0.5, 0.6): wrong at 0.55; [0.7, 0.8): wrong at 0.7; [0.8, 0.9): right at 0.8 and 0.85.
  assert found["ece"] == pytest.approx((0.55 + 0.7 + 0.35) / 4)


def test_calibration_keeps_the_order_of_the_label_set():
  # scikit-learn sorts string labels: "red" would read the column of "blue".
  sure = metrics.calibration(["red", "blue"], np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), COLOURS)
  assert sure == pytest.approx({"log_loss": 0, "brier": 0, "ece": 0}, abs=1e-9)


def test_areas_by_hand():
  # Items of "now" at 0.9 and 0.4, others at 0.6 and 0.1: of four pairs three are in order; precision 1/1 and 2/3.
  target, truth = Target(("later", "now")), ["now", "later", "now", "later"]
  p_N = np.array([0.9, 0.6, 0.4, 0.1])
  found = metrics.summarize(truth, truth, target, np.stack([1 - p_N, p_N], 1))["ranking"]
  assert found == {"auroc": pytest.approx(3 / 4), "auprc": pytest.approx((1 + 2 / 3) / 2), "left_out": []}


def test_areas_of_several_labels_are_scikit_learns_and_leave_out_what_does_not_occur():
  draw = np.random.default_rng(0)
  probabilities = draw.dirichlet(np.ones(3), 40)
  truth = draw.integers(0, 3, 40)
  names = [COLOURS.labels[code] for code in truth]
  found = metrics.summarize(names, names, COLOURS, probabilities)["ranking"]
  assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, probabilities, multi_class="ovr"))
  assert found["auprc"] == pytest.approx(sk.average_precision_score(np.eye(3)[truth], probabilities))
  some = truth < 2
  found = metrics.summarize(
    *[[n for n, kept in zip(names, some, strict=True) if kept]] * 2, COLOURS, probabilities[some]
  )
  of_two = [sk.roc_auc_score(truth[some] == k, probabilities[some, k]) for k in (0, 1)]
  assert found["ranking"]["auroc"] == pytest.approx(np.mean(of_two)) and found["ranking"]["left_out"] == ["blue"]


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of single-class inputs
def test_where_all_items_have_one_label_there_is_nothing_to_rank():
  found = metrics.summarize(["red"] * 3, ["red"] * 3, COLOURS, np.full((3, 3), 1 / 3))["ranking"]
  assert found == {"auroc": None, "auprc": None, "left_out": ["red", "green", "blue"]}


@pytest.mark.parametrize(
  "probabilities, message",
  [
    (np.ones((2, 2)) / 2, "shape"),
    (np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.1]]), "item 1"),
    (np.array([[np.nan, 0.5, 0.5], [0.2, 0.3, 0.5]]), "item 0"),
  ],
)
def test_calibration_refuses_what_is_no_distribution(probabilities, message):
  with pytest.raises(UserError, match=message):
    metrics.calibration(["red", "green"], probabilities, COLOURS)


@pytest.mark.parametrize(
  "references, predictions, target, message",
  [
    (["red"], ["red", "green"], COLOURS, "1 references but 2 predictions"),
    ([], [], COLOURS, "no items"),
    (["red", "pink"], ["red", "red"], COLOURS, "reference of item 1 is not one of red"),
    (["a"], ["a"], Target(("a", UNPARSEABLE)), "rename"),
  ],
)
def test_unusable_items_are_refused_in_one_line(references, predictions, target, message):
  with pytest.raises(UserError, match=message) as caught:
    metrics.summarize(references, predictions, target)
  assert "\n" not in str(caught.value)
