import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from medjax.errors import UserError
from medjax.evaluation import metrics, statistics
from medjax.tasks.task import Target

TARGET = Target(("low", "middle", "high"), ordinal=True)
LABELS = np.array(TARGET.labels)
PRIOR = np.array([0.5, 0.3, 0.2])


def intervals_of(references, predictions, names, target, groups=None, seed=0, resamples=2000):
  """Intervals of several metrics of label predictions."""
  return statistics.intervals(statistics.label_sample(references, predictions, names, target, groups), seed, resamples)


def interval_of(references, predictions, name, target, groups=None, seed=0, resamples=2000):
  return intervals_of(references, predictions, [name], target, groups, seed, resamples)[name]


def compared(references, predictions_a, predictions_b, name, target, groups=None, seed=0, resamples=2000):
  """Two methods' label predictions compared on one metric."""
  a, b = (statistics.label_sample(references, side, [name], target, groups) for side in (predictions_a, predictions_b))
  return statistics.difference(a, b, name, seed, resamples)


def simulate(rng, n, *skills, labels=LABELS, prior=PRIOR):
  """References, and answers that are right with probability `skill` and else drawn from the prior."""
  truth = rng.choice(len(labels), n, p=prior)
  answers = [np.where(rng.random(n) < skill, truth, rng.choice(len(labels), n, p=prior)) for skill in skills]
  return [labels[codes].tolist() for codes in (truth, *answers)]


def true_macro_f1(skill, prior=PRIOR):
  joint = np.diag(prior * skill) + np.outer(prior, prior) * (1 - skill)
  return (2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))).mean()


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "quadratic_kappa"])
def test_interval_is_scipys(name):
  references, predictions = simulate(np.random.default_rng(0), 25, 0.6)
  codes = [np.array([TARGET.labels.index(label) for label in side]) for side in (references, predictions)]
  function = {
    "accuracy": sk.accuracy_score,
    "macro_f1": lambda a, b: sk.f1_score(a, b, labels=range(3), average="macro", zero_division=0),
    "quadratic_kappa": lambda a, b: sk.cohen_kappa_score(a, b, labels=range(3), weights="quadratic"),
  }[name]
  expected = stats.bootstrap(
    codes,
    function,
    paired=True,
    vectorized=False,
    n_resamples=400,
    method="percentile",
    rng=np.random.default_rng([5, 0]),
  ).confidence_interval
  found = interval_of(references, predictions, name, TARGET, seed=5, resamples=400)
  assert (found.low, found.high) == pytest.approx(tuple(expected))
  assert found.value == pytest.approx(function(*codes))
  assert (found.n, found.groups) == (25, 25)


def test_interval_of_accuracy_is_near_the_binomial_one():
  references, predictions = simulate(np.random.default_rng(1), 400, 0.5)
  found = interval_of(references, predictions, "accuracy", TARGET)
  low, high = proportion_confint(round(found.value * 400), 400)
  assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)


def test_several_metrics_at_once_are_what_they_are_alone():
  references, predictions = simulate(np.random.default_rng(2), 30, 0.6)
  together = intervals_of(references, predictions, metrics.applicable(TARGET), TARGET, resamples=200)
  for name, interval in together.items():
    assert interval_of(references, predictions, name, TARGET, resamples=200) == interval


def test_repeated_items_of_a_patient_add_no_certainty():
  references, predictions = simulate(np.random.default_rng(3), 40, 0.6)
  patients = [f"p{i}" for i in range(40)]
  once = interval_of(references, predictions, "accuracy", TARGET, patients)
  thrice = interval_of(references * 3, predictions * 3, "accuracy", TARGET, patients * 3)
  assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
  assert (thrice.n, thrice.groups) == (120, 40)
  naive = interval_of(references * 3, predictions * 3, "accuracy", TARGET)
  assert naive.high - naive.low < 0.7 * (thrice.high - thrice.low)


@given(st.permutations(range(24)), st.sampled_from(["accuracy", "macro_f1", "triage_cost"]))
@settings(max_examples=15, deadline=None)
def test_order_of_items_does_not_matter(order, name):
  items = simulate(np.random.default_rng(4), 24, 0.4, 0.7)
  groups = [f"p{i // 2}" for i in range(24)]
  expected = compared(*items, name, TARGET, groups, resamples=200)
  shuffled = [[side[i] for i in order] for side in (*items, groups)]
  assert compared(*shuffled[:3], name, TARGET, shuffled[3], resamples=200) == expected


@given(st.integers(0, 50), st.sampled_from(sorted(metrics.METRICS)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_swapping_the_methods_flips_the_sign(seed, name, clustered):
  references, a, b = simulate(np.random.default_rng(seed), 20, 0.4, 0.7)
  groups = [f"p{i // 2}" for i in range(20)] if clustered else None
  forth = compared(references, a, b, name, TARGET, groups, seed, 200)
  back = compared(references, b, a, name, TARGET, groups, seed, 200)
  assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))
  assert back.p == pytest.approx(forth.p)


def test_difference_is_b_minus_a_and_deterministic():
  references, a, b = simulate(np.random.default_rng(6), 200, 0.3, 0.8)
  found = compared(references, a, b, "macro_f1", TARGET, seed=1)
  value = metrics.METRICS["macro_f1"].function
  assert found.difference == pytest.approx(value(references, b, TARGET) - value(references, a, TARGET))
  assert 0 < found.low < found.difference < found.high
  assert found == compared(references, a, b, "macro_f1", TARGET, seed=1)
  assert found != compared(references, a, b, "macro_f1", TARGET, seed=2)
  assert compared(references, a, b, "triage_cost", TARGET).high < 0


def test_equal_answers_differ_by_nothing():
  references, a = simulate(np.random.default_rng(7), 20, 0.5)
  for name in ("accuracy", "macro_f1"):
    found = compared(references, a, a, name, TARGET)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("name", ["accuracy", "under_triage"])
def test_mcnemar_is_statsmodels(name):
  references, a, b = simulate(np.random.default_rng(8), 60, 0.4, 0.7)
  found = compared(references, a, b, name, TARGET)
  level = {label: number for number, label in enumerate(TARGET.labels)}

  def hit(truth, answer):
    return truth == answer if name == "accuracy" else level[answer] < level[truth]

  table = np.zeros((2, 2))
  for truth, one, other in zip(references, a, b, strict=True):
    table[int(hit(truth, one)), int(hit(truth, other))] += 1
  assert found.method == "mcnemar"
  assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)


def test_mcnemar_gives_way_where_patients_have_several_items():
  references, a, b = simulate(np.random.default_rng(9), 40, 0.4, 0.7)
  found = compared(references, a, b, "accuracy", TARGET, [f"p{i // 2}" for i in range(40)])
  assert found.method == "exchange"


def test_exchange_p_is_the_exact_one_within_monte_carlo_error():
  references, a, b = simulate(np.random.default_rng(10), 24, 0.3, 0.6)
  groups = [f"p{i // 3}" for i in range(24)]
  found = compared(references, a, b, "macro_f1", TARGET, groups, resamples=4000)

  def f1(answers):
    return sk.f1_score(references, answers, labels=TARGET.labels, average="macro", zero_division=0)

  observed, as_large = abs(f1(b) - f1(a)), 0
  for swaps in range(2**8):
    swapped = [swaps >> (i // 3) & 1 for i in range(24)]
    first = [y if s else x for x, y, s in zip(a, b, swapped, strict=True)]
    second = [x if s else y for x, y, s in zip(a, b, swapped, strict=True)]
    as_large += abs(f1(second) - f1(first)) >= observed - 1e-12
  exact = as_large / 2**8
  assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)


def test_p_is_never_zero():
  references = ["low", "high"] * 40
  found = compared(references, ["middle"] * 80, references, "macro_f1", TARGET, resamples=99)
  assert found.p == 0.01


def test_intervals_cover_and_p_values_keep_their_level():
  rng = np.random.default_rng(11)
  covered, false_alarms, found_real = 0, {"macro_f1": 0, "accuracy": 0}, 0
  truth = true_macro_f1(0.6) - true_macro_f1(0.4)
  for trial in range(200):
    references, a, b, also_a = simulate(rng, 60, 0.4, 0.6, 0.4)
    found = compared(references, a, b, "macro_f1", TARGET, seed=trial, resamples=400)
    covered += found.low <= truth <= found.high
    found_real += found.p < 0.05
    for name in false_alarms:
      null = compared(references, a, also_a, name, TARGET, seed=trial, resamples=400)
      false_alarms[name] += null.p <= 0.05
  assert 0.89 <= covered / 200 <= 0.99  # 0.95 within four standard errors
  assert 0.005 <= false_alarms["macro_f1"] / 200 <= 0.11
  assert false_alarms["accuracy"] / 200 <= 0.09  # exact McNemar is conservative
  assert found_real / 200 > 0.3


def test_clustered_intervals_cover_where_naive_ones_do_not():
  rng = np.random.default_rng(12)
  covered = {"clustered": 0, "naive": 0}
  for trial in range(200):
    references, predictions = (side * 4 for side in simulate(rng, 40, 0.5))
    groups = [f"p{i}" for i in range(40)] * 4
    for kind in covered:
      found = interval_of(
        references, predictions, "accuracy", TARGET, groups if kind == "clustered" else None, trial, 300
      )
      covered[kind] += found.low <= 0.5 + 0.5 * (PRIOR**2).sum() <= found.high
  assert covered["clustered"] / 200 > 0.88
  assert covered["naive"] / 200 < 0.8


def test_holm_by_hand():
  # Sorted 0.01 0.02 0.03 0.5 times 4 3 2 1, made monotone: 0.04 0.06 0.06 0.5.
  assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
  assert statistics.holm([]) == []


def test_minimum_detectable_difference_is_detected_as_often_as_promised():
  n, discordance = 300, 0.2
  difference = statistics.minimum_detectable_difference(n, discordance)
  rng = np.random.default_rng(13)
  shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
  counts = rng.multinomial(n, shares, size=1000)
  found = np.mean([stats.binomtest(int(b), int(b + c)).pvalue < 0.05 for b, c, _ in counts])
  assert 0.7 < found < 0.85  # the exact test is a little weaker than the normal approximation
  assert statistics.minimum_detectable_difference(4 * n, discordance) == pytest.approx(difference / 2, rel=0.05)
  assert statistics.minimum_detectable_difference(10, discordance) is None


def test_groups_needed_grows_with_the_square():
  half = stats.norm.isf(0.025) * 0.05  # a standard error of 0.05 from 100 groups
  needed = statistics.groups_needed(-half, half, 100, 0.05)
  assert needed == pytest.approx(100 * (stats.norm.isf(0.025) + stats.norm.isf(0.2)) ** 2, abs=1)
  assert statistics.groups_needed(-half, half, 100, 0.1) == pytest.approx(needed / 4, abs=1)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((["low", "high"], ["low"], "accuracy", TARGET), "2 references but 1 predictions"),
    ((["low", "tall"], ["low", "low"], "accuracy", TARGET), "'tall'"),
    ((["low", "high"], ["low", "low"], "speed", TARGET), "'speed' is unknown"),
    ((["low", "high"], ["low", "low"], "accuracy", TARGET, ["p1"]), "1 groups for 2 items"),
    ((["low", "high"], ["low", "low"], "accuracy", TARGET, ["p1", "p1"]), "at least two"),
  ],
)
def test_unusable_input_is_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    interval_of(*arguments)
  with pytest.raises(UserError, match="discordance"):
    statistics.minimum_detectable_difference(100, 0)


def test_interval_of_scores_is_scipys():
  scores = np.random.default_rng(20).beta(2, 1, 30)
  expected = stats.bootstrap(
    (scores,), np.mean, n_resamples=400, method="percentile", rng=np.random.default_rng([5, 0])
  ).confidence_interval
  other = np.random.default_rng(21).random(30)
  found = statistics.intervals(statistics.score_sample({"other": other, "fact_f1": scores}), seed=5, resamples=400)
  assert (found["fact_f1"].low, found["fact_f1"].high) == pytest.approx(tuple(expected))
  assert found["fact_f1"].value == pytest.approx(scores.mean())
  assert (found["fact_f1"].n, found["fact_f1"].groups) == (30, 30)


def test_scores_of_a_patient_stay_together():
  """By hand: patients with sums 3 of 3, 0 of 1 give the means 1 (both drawn the first), 3/4 (one each) and 0."""
  sample = statistics.score_sample({"fact_f1": [1.0, 1.0, 0.0, 1.0]}, ["a", "a", "b", "a"])
  (measure,) = sample.measures.values()
  assert sample.statistics.tolist() == [[[3, 3]], [[0, 1]]]
  weights_RG = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
  assert measure.of(np.tensordot(weights_RG, sample.statistics, 1)).tolist() == [1.0, 0.75, 0.0]
  found = statistics.intervals(sample, resamples=400)["fact_f1"]
  assert (found.value, found.low, found.high, found.n, found.groups) == (0.75, 0.0, 1.0, 4, 2)


def test_difference_of_scores_is_scipys_paired_permutation_test():
  rng = np.random.default_rng(22)
  a = rng.random(9)
  b = np.clip(a + rng.normal(0.1, 0.15, 9), 0, 1)
  found = statistics.difference(*(statistics.score_sample({"rougeL": s}) for s in (a, b)), "rougeL", resamples=4000)
  exact = stats.permutation_test(
    (a, b), lambda a, b: np.mean(b - a), permutation_type="samples", n_resamples=np.inf, vectorized=False
  ).pvalue
  assert found.method == "exchange"
  assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)
  assert found.difference == pytest.approx((b - a).mean()) and found.low < found.difference < found.high


def test_mcnemar_serves_scores_of_0_and_1_with_one_item_a_patient():
  rng = np.random.default_rng(23)
  a, b = (rng.random((2, 60)) < np.array([[0.5], [0.25]])).astype(float)

  def compared(groups=None, zero_one=("invention_rate",)):
    samples = [statistics.score_sample({"invention_rate": s}, groups, zero_one) for s in (a, b)]
    return statistics.difference(*samples, "invention_rate")

  table = np.array([[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
  found = compared()
  assert (found.method, found.p) == ("mcnemar", pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue))
  assert compared([f"p{i // 2}" for i in range(60)]).method == "exchange"
  assert compared(zero_one=()).method == "exchange"


def test_labels_and_scores_share_one_road():
  """Whether an answer is right, as a score, gives what accuracy gives."""
  references, a, b = simulate(np.random.default_rng(24), 40, 0.4, 0.7)
  groups = [f"p{i // 2}" for i in range(40)]
  hits = [np.array(references) == np.array(side) for side in (a, b)]
  by_score = statistics.difference(*(statistics.score_sample({"hit": hit}, groups) for hit in hits), "hit")
  by_label = compared(references, a, b, "accuracy", TARGET, groups)
  error = 4 * np.sqrt(2 * by_label.p * (1 - by_label.p) / 2000)  # swaps are drawn where answers differ, not scores
  assert by_score.p == pytest.approx(by_label.p, abs=error)
  assert dataclasses.replace(by_score, p=by_label.p) == dataclasses.replace(
    by_label,
    difference=pytest.approx(by_label.difference),
    low=pytest.approx(by_label.low),
    high=pytest.approx(by_label.high),
  )


@pytest.mark.parametrize(
  ("scores", "groups", "message"),
  [
    ({"rougeL": [0.1, float("nan")]}, None, "rougeL of item 1 is not a finite number"),
    ({"rougeL": [0.1, 0.2], "rouge1": [0.1]}, None, "unequal number"),
    ({"rougeL": []}, None, "none at all"),
    ({"rougeL": [0.1, 0.2]}, ["p", "p"], "at least two"),
  ],
)
def test_unusable_scores_are_refused(scores, groups, message):
  with pytest.raises(UserError, match=message):
    statistics.score_sample(scores, groups)
