import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from medjax.errors import UserError
from medjax.evaluation import intervals, metrics, power, statistics
from medjax.tasks.task import Target

TARGET = Target(("low", "middle", "high"), ordinal=True)
LABELS = np.array(TARGET.labels)
PRIOR = np.array([0.5, 0.3, 0.2])


def intervals_of(references, predictions, names, target, groups=None):
  """Intervals of several metrics of label predictions."""
  return statistics.estimate(statistics.label_sample(references, predictions, names, target, groups))


def interval_of(references, predictions, name, target, groups=None):
  return intervals_of(references, predictions, [name], target, groups)[name]


def compared(references, predictions_a, predictions_b, name, target, groups=None, seed=0, swaps=2000):
  """Two methods' label predictions compared on one metric."""
  a, b = (statistics.label_sample(references, side, [name], target, groups) for side in (predictions_a, predictions_b))
  return statistics.difference([a], [b], name, seed, swaps)


def simulate(rng, n, *skills, labels=LABELS, prior=PRIOR):
  """References, and answers that are right with probability `skill` and else drawn from the prior."""
  truth = rng.choice(len(labels), n, p=prior)
  answers = [np.where(rng.random(n) < skill, truth, rng.choice(len(labels), n, p=prior)) for skill in skills]
  return [labels[codes].tolist() for codes in (truth, *answers)]


@pytest.mark.parametrize("kind", ["mean", "macro_f1"])
def test_bca_is_scipys_where_every_patient_has_one_item(kind):
  rng = np.random.default_rng(0)
  if kind == "mean":
    sample = statistics.score_sample({"ratio": rng.lognormal(0, 0.7, 25)})
    of, function = sample.measures["ratio"].of, np.mean
    data = (sample.statistics[:, 0, 0],)
  else:
    references, predictions = simulate(rng, 25, 0.6)
    sample = statistics.label_sample(references, predictions, [kind], TARGET)
    data = [np.array([TARGET.labels.index(label) for label in side]) for side in (references, predictions)]
    of = sample.measures[kind].of
    function = lambda a, b: sk.f1_score(a, b, labels=range(3), average="macro", zero_division=0)  # noqa: E731
  drawn = intervals.resample(lambda weights: of(np.tensordot(weights, sample.statistics, 1)), 25, 5, 400)
  left_out = of(sample.statistics.sum(0) - sample.statistics)
  rng = np.random.default_rng([5, 0])
  expected = stats.bootstrap(data, function, paired=True, vectorized=False, n_resamples=400, method="BCa", rng=rng)
  whole = of(sample.statistics.sum(0))
  assert whole == pytest.approx(function(*data))
  found = intervals.bca_interval(whole, drawn, left_out, stats.norm.isf(0.025))
  assert found == pytest.approx(tuple(expected.confidence_interval))


def test_bca_of_patients_is_that_of_their_sums():
  """Patients with several items: scipy, given a row of sum and count for each patient."""
  rng = np.random.default_rng(1)
  groups = rng.integers(0, 20, 60)
  sample = statistics.score_sample({"ratio": rng.lognormal(0, 0.7, 60)}, groups.tolist())
  of, sums = sample.measures["ratio"].of, sample.statistics[:, 0]
  drawn = intervals.resample(lambda weights: of(np.tensordot(weights, sample.statistics, 1)), len(sums), 5, 400)
  left_out = of(sample.statistics.sum(0) - sample.statistics)
  expected = stats.bootstrap(
    (sums[:, 0], sums[:, 1]),
    lambda total, count: total.sum() / count.sum(),
    paired=True,
    vectorized=False,
    n_resamples=400,
    method="BCa",
    rng=np.random.default_rng([5, 0]),
  ).confidence_interval
  found = intervals.bca_interval(of(sample.statistics.sum(0)), drawn, left_out, stats.norm.isf(0.025))
  assert found == pytest.approx(tuple(expected))


def test_a_metric_without_bounds_gets_the_wider_bca():
  scores = np.random.default_rng(2).lognormal(0, 0.7, 30)
  found = statistics.estimate(statistics.score_sample({"length_ratio": scores}), seed=5, resamples=999)["length_ratio"]
  drawn = intervals.resample(lambda weights: weights @ scores / 30, 30, 5, 999)
  left_out = (scores.sum() - scores) / 29
  narrow = intervals.bca_interval(scores.mean(), drawn, left_out, stats.norm.isf(0.025))
  assert found.method == "bca" and found.value == pytest.approx(scores.mean())
  assert found.low < narrow[0] and narrow[1] < found.high
  assert found.high - found.low < 1.2 * (narrow[1] - narrow[0])


def test_bca_of_equal_values_is_that_value():
  assert intervals.bca_interval(0.5, np.full(50, 0.5), np.full(9, 0.5), 1.96) == (0.5, 0.5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.55, 1.0])
def test_interval_of_accuracy_is_wilsons(share):
  n = 400
  references = ["low"] * n
  predictions = ["low"] * round(share * n) + ["high"] * round((1 - share) * n)
  found = interval_of(references, predictions, "accuracy", TARGET)
  expected = proportion_confint(round(share * n), n, method="wilson")
  assert (found.value, found.method, found.n, found.groups) == (share, "score", n, n)
  assert (found.low, found.high) == pytest.approx(expected, abs=2e-3)  # t for z, n - 1 for n


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_intervals_stay_within_the_metrics_bounds_and_have_a_width(name):
  low, high = metrics.span(name, TARGET)
  for answers in (["low"] * 12 + ["high"] * 3, ["high"] * 12 + ["low"] * 3, ["low", "middle", "high"] * 5):
    for references in (answers, answers[::-1], ["low", "middle", "high"] * 5):
      found = interval_of(references, answers, name, TARGET)
      assert low <= found.low <= found.high <= high and found.low <= found.value <= found.high
      assert found.high - found.low > 0.05


def test_jackknife_error_of_a_mean_is_the_textbooks():
  scores = np.random.default_rng(3).random(30)
  left_out = (scores.sum() - scores) / 29
  assert intervals.jackknife_error(left_out) == pytest.approx(scores.std(ddof=1) / np.sqrt(30))


def test_smoothed_error_of_accuracy_by_hand():
  """Half a right and half a wrong answer more for each of two labels: 9 + 1 right and 0 + 1 wrong of 9 + 2."""
  counts = np.array([[5.0, 0, 0], [0, 4, 0]])
  error = intervals.smoothed_error(
    counts, lambda counts: metrics.METRICS["accuracy"].from_counts(counts, Target(("a", "b")))
  )
  assert error == pytest.approx(np.sqrt(10 / 11 * 1 / 11 / 11), rel=2e-3)


def test_several_metrics_at_once_are_what_they_are_alone():
  references, predictions = simulate(np.random.default_rng(2), 30, 0.6)
  together = intervals_of(references, predictions, metrics.applicable(TARGET), TARGET)
  for name, interval in together.items():
    assert interval_of(references, predictions, name, TARGET) == interval


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
  expected = compared(*items, name, TARGET, groups, swaps=200)
  shuffled = [[side[i] for i in order] for side in (*items, groups)]
  assert compared(*shuffled[:3], name, TARGET, shuffled[3], swaps=200) == expected


@given(st.integers(0, 50), st.sampled_from(sorted(metrics.METRICS)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_swapping_the_methods_flips_the_sign(seed, name, clustered):
  references, a, b = simulate(np.random.default_rng(seed), 20, 0.4, 0.7)
  groups = [f"p{i // 2}" for i in range(20)] if clustered else None
  forth = compared(references, a, b, name, TARGET, groups, seed, 200)
  back = compared(references, b, a, name, TARGET, groups, seed, 200)
  assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))
  assert back.p == pytest.approx(forth.p) and back.p_mid == pytest.approx(forth.p_mid)
  assert (back.error, back.mdd) == pytest.approx((forth.error, forth.mdd))
  if forth.effect_size is not None:
    assert back.effect_size == pytest.approx(-forth.effect_size)


def test_difference_is_b_minus_a_and_deterministic():
  references, a, b = simulate(np.random.default_rng(6), 200, 0.3, 0.8)
  found = compared(references, a, b, "macro_f1", TARGET, seed=1)
  value = metrics.METRICS["macro_f1"].function
  assert found.difference == pytest.approx(value(references, b, TARGET) - value(references, a, TARGET))
  assert 0 < found.low < found.difference < found.high
  assert found == compared(references, a, b, "macro_f1", TARGET, seed=1)
  assert compared(references, a, b, "triage_cost", TARGET).high < 0


def test_equal_answers_differ_by_nothing():
  references, a = simulate(np.random.default_rng(7), 20, 0.5)
  for name in ("accuracy", "macro_f1"):
    found = compared(references, a, a, name, TARGET)
    assert (found.difference, found.low, found.high, found.p, found.effect_size) == (0, 0, 0, 1, None)
    # Six changes in one direction, each of 20 patients with this probability: found in four studies of five.
    assert stats.binom.sf(5, 20, found.mdd) == pytest.approx(0.8)


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
  assert found.test == "mcnemar_exact"
  assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
  only_a, only_b = int(table[1, 0]), int(table[0, 1])
  # mid-p: half the probability of the table at hand, twice for two sides (Fagerland et al. 2013)
  smaller = min(only_a, only_b)
  mid = 2 * stats.binom.cdf(smaller - 1, only_a + only_b, 0.5) + stats.binom.pmf(smaller, only_a + only_b, 0.5)
  assert found.p_mid == pytest.approx(mid) and found.p_mid < found.p
  assert (found.effect, found.effect_size) == ("cohens_g", pytest.approx(only_b / (only_a + only_b) - 0.5))


@pytest.mark.parametrize("only_a, only_b", [(0, 1), (0, 7), (3, 9), (9, 3), (5, 5), (0, 0)])
def test_mcnemar_of_few_pairs(only_a, only_b):
  a = np.array([1] * only_a + [0] * only_b + [1, 0])
  b = np.array([0] * only_a + [1] * only_b + [1, 0])
  p, mid = statistics.mcnemar(a, b)
  expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
  assert p == pytest.approx(expected) and mid <= p


def test_mcnemar_gives_way_where_patients_have_several_items():
  references, a, b = simulate(np.random.default_rng(9), 40, 0.4, 0.7)
  found = compared(references, a, b, "accuracy", TARGET, [f"p{i // 2}" for i in range(40)])
  assert found.test == "permutation"
  assert found.p_mid is None


def test_permutation_p_is_the_exact_one_within_monte_carlo_error():
  references, a, b = simulate(np.random.default_rng(10), 24, 0.3, 0.6)
  groups = [f"p{i // 3}" for i in range(24)]
  found = compared(references, a, b, "macro_f1", TARGET, groups, swaps=4000)

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
  found = compared(references, ["middle"] * 80, references, "macro_f1", TARGET, swaps=99)
  assert found.p == 0.01


def test_holm_by_hand():
  # Sorted 0.01 0.02 0.03 0.5 times 4 3 2 1, made monotone: 0.04 0.06 0.06 0.5.
  assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
  assert statistics.holm([]) == []


def test_holm_is_statsmodels():
  p_values = np.random.default_rng(14).choice([0.001, 0.004, 0.01, 0.02, 0.3, 0.9], 12)
  assert statistics.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_holm_rejects_what_stepping_down_rejects(p_values):
  """Holm's rule as he wrote it: from the smallest p on, reject while p <= 0.05 / (those left)."""
  rejected = set()
  for step, place in enumerate(np.argsort(p_values, kind="stable")):
    if p_values[place] * (len(p_values) - step) > 0.05:
      break
    rejected.add(place)
  assert {place for place, p in enumerate(statistics.holm(p_values)) if p <= 0.05} == rejected


def test_minimum_detectable_difference_is_detected_as_often_as_promised():
  n, discordance = 300, 0.2
  difference = power.minimum_detectable_difference(n, discordance)
  rng = np.random.default_rng(13)
  shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
  counts = rng.multinomial(n, shares, size=1000)
  found = np.mean([stats.binomtest(int(b), int(b + c)).pvalue < 0.05 for b, c, _ in counts])
  assert 0.7 < found < 0.85  # the exact test is a little weaker than the normal approximation
  assert power.minimum_detectable_difference(4 * n, discordance) == pytest.approx(difference / 2, rel=0.05)
  assert power.minimum_detectable_difference(10, discordance) is None


def test_groups_needed_grows_with_the_square():
  needed = power.groups_needed(0.05, 100, 0.05)
  assert needed == pytest.approx(100 * (stats.norm.isf(0.025) + stats.norm.isf(0.2)) ** 2, abs=1)
  assert power.groups_needed(0.05, 100, 0.1) == pytest.approx(needed / 4, abs=1)
  assert power.groups_needed(0.05, 100, 0.05, family=10) == pytest.approx(
    100 * (stats.norm.isf(0.0025) + stats.norm.isf(0.2)) ** 2, abs=1
  )


def test_detectable_differences_need_groups_and_bounds_where_nothing_differs():
  assert power.detectable(0.0, 5, (0.0, 1.0)) is None  # five changes are never significant
  assert power.detectable(0.0, 50, None) is None
  assert power.detectable(0.0, 50, (-1.0, 1.0)) == pytest.approx(2 * power.detectable(0.0, 50, (0.0, 1.0)))
  assert power.detectable(0.02, 10_000, None) == pytest.approx(0.056, abs=1e-3)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((["low", "high"], ["low"], "accuracy", TARGET), "2 references but 1 predictions"),
    ((["low", "tall"], ["low", "low"], "accuracy", TARGET), "reference of item 1 is not one of"),
    ((["low", "high"], ["low", "low"], "speed", TARGET), "'speed' is unknown"),
    ((["low", "high"], ["low", "low"], "accuracy", TARGET, ["p1"]), "1 groups for 2 items"),
    ((["low", "high"], ["low", "low"], "accuracy", TARGET, ["p1", "p1"]), "at least two"),
  ],
)
def test_unusable_input_is_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    interval_of(*arguments)
  with pytest.raises(UserError, match="discordance"):
    power.minimum_detectable_difference(100, 0)


def test_scores_of_a_patient_stay_together():
  """By hand: patients with sums 3 of 3, 0 of 1 give the means 1 (both drawn the first), 3/4 (one each) and 0."""
  sample = statistics.score_sample({"fact_f1": [1.0, 1.0, 0.0, 1.0]}, ["a", "a", "b", "a"])
  (measure,) = sample.measures.values()
  assert sample.statistics.tolist() == [[[3, 3]], [[0, 1]]]
  weights_RG = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
  assert measure.of(np.tensordot(weights_RG, sample.statistics, 1)).tolist() == [1.0, 0.75, 0.0]
  found = statistics.estimate(sample, resamples=400)["fact_f1"]
  assert (found.value, found.low, found.high, found.n, found.groups) == (0.75, 0.0, 1.0, 4, 2)
  bounded = statistics.score_sample({"fact_f1": [1.0, 1.0, 0.0, 1.0]}, ["a", "a", "b", "a"], bounded=["fact_f1"])
  assert statistics.estimate(bounded)["fact_f1"].method == "score"


def test_difference_of_scores_is_scipys_paired_permutation_test():
  rng = np.random.default_rng(22)
  a = rng.random(9)
  b = np.clip(a + rng.normal(0.1, 0.15, 9), 0, 1)
  found = statistics.difference(*([statistics.score_sample({"rougeL": s})] for s in (a, b)), "rougeL", swaps=4000)
  exact = stats.permutation_test(
    (a, b), lambda a, b: np.mean(b - a), permutation_type="samples", n_resamples=np.inf, vectorized=False
  ).pvalue
  assert found.test == "permutation"
  assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)
  expected = stats.ttest_rel(b, a).confidence_interval(0.95)
  assert (found.difference, found.low, found.high) == pytest.approx(((b - a).mean(), *expected))
  assert (found.effect, found.effect_size) == ("cohens_dz", pytest.approx((b - a).mean() / (b - a).std(ddof=1)))


def test_mcnemar_serves_scores_of_0_and_1_with_one_item_a_patient():
  rng = np.random.default_rng(23)
  a, b = (rng.random((2, 60)) < np.array([[0.5], [0.25]])).astype(float)

  def compared(groups=None, zero_one=("invention_rate",)):
    samples = [[statistics.score_sample({"invention_rate": s}, groups, zero_one)] for s in (a, b)]
    return statistics.difference(*samples, "invention_rate")

  table = np.array([[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
  found = compared()
  assert (found.test, found.p) == ("mcnemar_exact", pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue))
  assert compared([f"p{i // 2}" for i in range(60)]).test == "permutation"
  assert compared(zero_one=()).test == "permutation"


def test_labels_and_scores_share_one_road():
  """Whether an answer is right, as a score, gives what accuracy gives."""
  references, a, b = simulate(np.random.default_rng(24), 40, 0.4, 0.7)
  groups = [f"p{i // 2}" for i in range(40)]
  hits = [np.array(references) == np.array(side) for side in (a, b)]
  samples = [[statistics.score_sample({"hit": hit}, groups, bounded=["hit"])] for hit in hits]
  by_score = statistics.difference(*samples, "hit")
  by_label = compared(references, a, b, "accuracy", TARGET, groups)
  error = 4 * np.sqrt(2 * by_label.p * (1 - by_label.p) / 2000)  # swaps are drawn where answers differ, not scores
  assert by_score.p == pytest.approx(by_label.p, abs=error)
  for field in ("difference", "effect_size"):
    assert getattr(by_score, field) == pytest.approx(getattr(by_label, field))
  assert (by_score.low, by_score.high) == pytest.approx((by_label.low, by_label.high), abs=0.015)  # smoothed by label


def test_rare_inventions_have_an_interval():
  """No text of one method and one of the other invents something: what is seen of the spread is nearly nothing."""
  samples = [
    [statistics.score_sample({"invention_rate": [0.0] * (60 - count) + [1.0] * count}, zero_one=["invention_rate"])]
    for count in (1, 0)
  ]
  found = statistics.difference(*samples, "invention_rate")
  newcombe = confint_proportions_2indep(0, 60, 1, 60, method="newcomb", compare="diff")  # takes them as not paired
  assert found.low == pytest.approx(newcombe[0], abs=0.05) and found.high == pytest.approx(newcombe[1], abs=0.05)
  assert found.low < -0.04 and found.high > 0.01
  same = statistics.estimate(samples[1][0])["invention_rate"]
  assert (same.low, same.high) == pytest.approx((0, proportion_confint(0, 60, method="wilson")[1]), abs=5e-3)


def test_seeds_are_averaged_and_a_copy_is_no_evidence():
  references, a, b, c = simulate(np.random.default_rng(25), 60, 0.4, 0.7, 0.6)
  a, b, c = (statistics.label_sample(references, side, ["macro_f1"], TARGET) for side in (a, b, c))
  once = statistics.difference([a], [b], "macro_f1")
  twice = statistics.difference([a, a], [b, b], "macro_f1")
  assert (once.seeds, once.seed_sd, twice.seeds, twice.seed_sd) == (1, None, 2, 0.0)
  assert (twice.difference, twice.low, twice.high, twice.p) == pytest.approx(
    (once.difference, once.low, once.high, once.p)
  )
  other = statistics.difference([a], [c], "macro_f1")
  mixed = statistics.difference([a, a], [b, c], "macro_f1")
  assert mixed.difference == pytest.approx((once.difference + other.difference) / 2)
  assert mixed.test == "permutation" and mixed.n == 60
  with pytest.raises(UserError, match="compare methods on the same rows"):
    statistics.difference([a, a], [b], "macro_f1")


def test_spread_of_seeds_by_hand():
  """Means over four patients: what varies between seeds beyond patients by seeds, by the usual mean squares."""
  a_SN = np.zeros((3, 4))
  b_SN = np.array([[0.5, 0.6, 0.7, 0.8], [0.1, 0.3, 0.1, 0.4], [0.6, 0.9, 0.8, 0.5]])
  samples = [[statistics.score_sample({"s": row}) for row in side] for side in (a_SN, b_SN)]
  found = statistics.difference(*samples, "s")
  rest = b_SN - b_SN.mean(0) - b_SN.mean(1, keepdims=True) + b_SN.mean()
  mean_square = (rest**2).sum() / (2 * 3)
  assert found.seed_sd == pytest.approx(np.sqrt(b_SN.mean(1).var(ddof=1) - mean_square / 4))


@pytest.mark.parametrize(
  ("scores", "groups", "message"),
  [
    ({"rougeL": [0.1, float("nan")]}, None, "rougeL of item 1 is not a finite number"),
    ({"rougeL": [0.1, 0.2], "rouge1": [0.1]}, None, "unequal number"),
    ({"rougeL": []}, None, "none at all"),
    ({"rougeL": [0.1, 0.2]}, ["p", "p"], "at least two"),
    ({"rougeL": [0.1, 1.2]}, None, "rougeL of item 1 is not between 0 and 1"),
  ],
)
def test_unusable_scores_are_refused(scores, groups, message):
  with pytest.raises(UserError, match=message):
    statistics.score_sample(scores, groups, bounded=["rougeL"])
