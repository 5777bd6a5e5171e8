"""A small run of what `python -m medjax.study.simulate` does at length, with random numbers that are fixed."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from medjax.errors import UserError
from medjax.evaluation import simulated, statistics
from medjax.study import simulate, simulations
from medjax.study.simulations import PRIORS

SIXTY = simulated.design(60, 60)


def test_designs_spread_rows_over_patients():
  assert simulated.design(7, 3).sizes == (3, 2, 2)
  assert simulated.design(12).sizes == (1, 2, 3, 4, 1, 1)
  assert simulated.design(5, 2).group_of.tolist() == [0, 0, 0, 1, 1]


def test_the_true_values_are_what_large_test_sets_have():
  rng, of, names = np.random.default_rng(0), simulated.design(40_000, 20_000), ("accuracy", "macro_f1", "triage_cost")
  ((labels,),) = simulated.label_samples(rng, of, PRIORS["4 uneven"], [0.6], names)
  truth = simulated.label_values(PRIORS["4 uneven"], 0.6, names)
  assert truth["accuracy"] == pytest.approx(0.6)
  for name in names:
    assert labels.measures[name].value == pytest.approx(truth[name], abs=0.02)
  for kind in simulated.SCORES:
    ((scores,),) = simulated.score_samples(rng, of, kind, [0.7])
    assert scores.measures[kind].value == pytest.approx(simulated.score_value(kind, 0.7), abs=0.02)


def test_answers_to_one_patient_and_of_one_method_resemble_one_another():
  rng, of = np.random.default_rng(1), simulated.design(4000, 2000)
  samples = simulated.label_samples(rng, of, PRIORS["2 even"], (0.5, 0.5), ["accuracy"], seeds=2)
  right = [[np.einsum("gkk->g", sample.statistics[..., :-1]) for sample in seeds] for seeds in samples]
  (a, a_again), (b, _) = right
  assert a.var() > 1.1 * 0.5  # two independent answers a patient: 2 * 0.5 * 0.5
  assert 0.2 < np.corrcoef(a, b)[0, 1] < np.corrcoef(a, a_again)[0, 1]


@pytest.mark.parametrize("of", [SIXTY, simulated.design(60)], ids=["a row a patient", "1 to 4 rows"])
def test_intervals_cover(of):
  found = simulations.label_coverage(of, PRIORS["3 uneven"], (0.5, 0.7), ("accuracy", "macro_f1"), 200)
  assert set(found) == {(what, name) for what in ("value", "difference") for name in ("accuracy", "macro_f1")}
  for share in found.values():
    assert 0.90 <= share <= 0.995  # 0.95 within three standard errors


@pytest.mark.parametrize("kind", simulated.SCORES)
def test_intervals_of_scores_cover(kind):
  for share in simulations.score_coverage(SIXTY, kind, (0.3, 0.5), 150).values():
    assert 0.89 <= share <= 1


def test_near_perfect_methods_are_where_bootstrap_intervals_fail():
  cell = (SIXTY, PRIORS["3 uneven"], (0.9, 0.93), ("accuracy", "quadratic_kappa"), 150)
  ours, others = simulations.label_coverage(*cell), simulations.bootstrap_coverage(*cell)
  assert min(ours.values()) >= 0.9
  assert others["bca", "difference", "quadratic_kappa"] < 0.9


def test_equally_good_methods_differ_in_one_of_twenty_studies():
  found = simulations.null_label_p(SIXTY, PRIORS["4 even"], 0.7, ("accuracy", "macro_f1"), 300)
  rates = {name: np.mean(p <= 0.05) for name, p in found.items()}
  assert rates["accuracy"] <= rates["accuracy mid-p"] <= 0.09
  assert rates["accuracy"] <= 0.05 and 0.013 <= rates["macro_f1"] <= 0.09  # 0.05 within three standard errors
  clustered = simulations.null_score_p(simulated.design(60), "mixed", 0.7, 200, seeds=2)["mixed"]
  assert 0.005 <= np.mean(clustered <= 0.05) <= 0.1


def test_holm_guards_the_whole_study():
  found = simulations.family_wise(SIXTY, (0.6, 0.6, 0.6), 60)
  assert (found["comparisons"], found["equal"]) == (15, 15)
  assert found["any"] <= 0.14 and found["unadjusted"] > 0.2


@pytest.mark.parametrize("skills", simulations.TRUTHS)
def test_verdicts_follow_the_truth_and_are_seldom_wrong(skills):
  right, wrong = simulations.TRUTHS[skills]
  shares, more = simulations.verdicts(simulated.design(1000, 1000), skills, 15)
  assert sum(shares.get(verdict, 0) for verdict in wrong) <= 0.1
  if right is not None:
    assert shares[right] >= 0.5
  undecided, more = simulations.verdicts(simulated.design(40, 40), skills, 15)
  assert undecided["not_decidable"] >= 0.4 and min(more) >= 19  # never below 59 patients in all


def test_detectable_differences_are_detected():
  for metric in ("accuracy", "macro_f1"):
    found = simulations.power_at_detectable(simulated.design(100, 100), PRIORS["3 even"], 0.6, metric, 150)
    assert 0.65 <= found["power"] <= 0.9


def test_the_spread_of_seeds_is_told_from_the_patients_chance():
  none = simulations.seed_spread(SIXTY, 0.0, 4, 60)
  some = simulations.seed_spread(SIXTY, 0.3, 4, 60)
  assert none["true"] == 0 and none["estimated"] < 0.6 * none["naive"]
  assert some["estimated"] == pytest.approx(some["true"], rel=0.2)


def test_upper_bound_is_clopper_pearsons():
  assert simulations.upper_bound(7, 60) == pytest.approx(proportion_confint(7, 60, alpha=0.1, method="beta")[1])
  assert simulations.upper_bound(60, 60) == 1


def test_the_command_prints_the_same_tables_again_for_a_users_own_size(capsys):
  arguments = ["--studies=8", "--rows=20", "--groups=12"]
  simulate.main([*arguments, "--only=coverage", "--only=false_positives"])
  first = capsys.readouterr().out
  simulate.main([*arguments, "--only=coverage"])
  again = capsys.readouterr().out
  lines = [line for line in first.splitlines() if line.startswith("| ")]
  assert "| metric | 20 of 12 patients |" in lines and any(line.startswith("| macro_f1, 3 uneven |") for line in lines)
  assert [line for line in again.splitlines() if line.startswith("| ")] == lines[: again.count("\n| ")]


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--groups=5"], "--groups is given without --rows"),
    (["--rows=5", "--groups=6"], "no more than rows"),
    (["--studies=1"], "give at least 2"),
  ],
)
def test_impossible_sizes_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    simulate.main(arguments)


def test_patients_taken_for_independent_items_are_covered_too_seldom():
  rng, truth = np.random.default_rng(12), simulated.label_values(PRIORS["3 even"], 0.5, ["accuracy"])["accuracy"]
  covered = {"clustered": 0, "naive": 0}
  for _ in range(200):
    ((sample,),) = simulated.label_samples(rng, SIXTY, PRIORS["3 even"], [0.5], ["accuracy"])
    copies = {"clustered": 4 * sample.statistics, "naive": np.repeat(sample.statistics, 4, 0)}
    for way, counts in copies.items():
      found = statistics.estimate(statistics.count_sample(counts, ["accuracy"], simulated.target(3)))["accuracy"]
      covered[way] += found.low <= truth <= found.high
  assert covered["clustered"] / 200 > 0.9 and covered["naive"] / 200 < 0.8
