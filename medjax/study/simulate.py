"""Checks the statistics by simulation, and prints the tables of docs/statistics.md.

  OPENBLAS_NUM_THREADS=1 python -m medjax.study.simulate --studies=2000
  OPENBLAS_NUM_THREADS=1 python -m medjax.study.simulate --studies=2000 --rows=85 --groups=40

With `--rows`, and `--groups` where patients have several rows, for a test set of that size instead of a range of
sizes. Random numbers are fixed: equal commands print equal tables. `--only` chooses sections.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medjax.errors import UserError
from medjax.evaluation.simulated import SCORES, Design, design
from medjax.study import simulations
from medjax.study.simulations import PRIORS

ROWS = (30, 60, 100, 200, 400)
VERDICT_ROWS = (60, 120, 400, 1000)
_SKILLS = ((0.4, 0.6), (0.9, 0.93))
_MEANS = ((0.3, 0.5), (0.85, 0.9), (0.02, 0.05))
_ORDINAL = ("mcc", "kappa", "quadratic_kappa", "under_triage", "over_triage", "triage_cost")
_DEMO = 60

Table = tuple[str, list[str], list[list[str]]]  # what it shows, header, rows


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the sections and prints their tables as they come.

  Raises:
    UserError: fewer than 2 studies or groups, fewer rows than groups, groups without rows.
  """
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--studies", type=int, default=2000, help="simulated studies of each setting")
  parser.add_argument("--rows", type=int, help="rows of your test set; default: a range of sizes")
  parser.add_argument("--groups", type=int, help="patients of your test set; default: one for each row")
  parser.add_argument("--only", choices=list(_SECTIONS), action="append", help="a section; may be given several times")
  options = parser.parse_args(arguments)
  own = None
  if options.rows is None and options.groups is not None:
    raise UserError("--groups is given without --rows; give both")
  if options.rows is not None:
    groups = options.rows if options.groups is None else options.groups
    if not 2 <= groups <= options.rows:
      raise UserError(f"--rows={options.rows} --groups={groups}; give at least 2 groups and no more than rows")
    own = design(options.rows, groups)
  if options.studies < 2:
    raise UserError(f"--studies={options.studies}; give at least 2")
  for name in options.only or _SECTIONS:
    start = time.monotonic()
    for what, header, rows in _SECTIONS[name](options.studies, own):
      print(f"\n{what}\n")
      for line in (header, ["---"] + ["---:"] * (len(header) - 1), *rows):
        print("| " + " | ".join(line) + " |", flush=True)
    print(f"\n({name}: {time.monotonic() - start:.0f} s)", flush=True)


def coverage(studies: int, own: Design | None) -> Iterator[Table]:
  """Coverage of the intervals of label metrics, by metric and test size."""
  usual = [name for name in PRIORS if name != "4, one rare"]
  cells = (
    ("", usual, ("accuracy", "macro_f1"), _single(own)),
    ("", ("3 uneven",), _ORDINAL, _single(own)),
    (", a label of 5 %", ("4, one rare",), ("macro_f1",), _single(own)),
    (", patients of 1 to 4 rows", ("3 uneven", "4 even"), ("accuracy", "macro_f1"), _several(own)),
  )
  lines = {}
  for title, priors, names, designs in cells:
    for of in designs:
      for prior in priors:
        for skills in _SKILLS:
          for (what, name), share in simulations.label_coverage(of, PRIORS[prior], skills, names, studies).items():
            lines.setdefault((what, f"{name}{title}"), {}).setdefault(sum(of.sizes), []).append(share)
  yield from _covered(lines, own)


def many_labels(studies: int, own: Design | None) -> Iterator[Table]:
  """Coverage for macro-F1 of 24 labels, as many as the demo has, given in turn and drawn; a quarter of the studies."""
  lines, prior = {}, (1 / 24,) * 24
  for title, in_turn in ((", 24 labels in turn", True), (", 24 labels drawn", False)):
    for of in _single(own):
      for skills in _SKILLS:
        found = simulations.label_coverage(of, prior, skills, ("macro_f1",), max(studies // 4, 2), in_turn)
        for (what, name), share in found.items():
          lines.setdefault((what, f"{name}{title}"), {}).setdefault(sum(of.sizes), []).append(share)
  yield from _covered(lines, own)


def scores(studies: int, own: Design | None) -> Iterator[Table]:
  """Coverage of the intervals of metrics of scores."""
  lines = {}
  for title, designs in (("", _single(own)), (", patients of 1 to 4 rows", _several(own))):
    for of in designs:
      for kind in SCORES if not title else ("mixed",):
        for means in _MEANS:
          for (what, name), share in simulations.score_coverage(of, kind, means, studies).items():
            lines.setdefault((what, f"{name}{title}"), {}).setdefault(sum(of.sizes), []).append(share)
  yield from _covered(lines, own)


def _covered(lines: dict[tuple[str, str], dict[int, list[float]]], own: Design | None) -> Iterator[Table]:
  for kind in ("value", "difference"):
    title = (
      f"Coverage of 95 % intervals of a {kind}, mean (and lowest) over label shares and skills; by rows of the test"
    )
    rows = [
      [name, *(f"{np.mean(shares):.3f} ({min(shares):.3f})" for shares in by_size.values())]
      for (what, name), by_size in lines.items()
      if what == kind
    ]
    yield f"{title} set:", ["metric", *map(_size, _single(own))], rows


def _single(own: Design | None) -> list[Design]:
  return [design(rows, rows) for rows in ROWS] if own is None else [own]


def _several(own: Design | None) -> list[Design]:
  return [design(rows) for rows in ROWS] if own is None else []


def candidates(studies: int, own: Design | None) -> Iterator[Table]:
  """The intervals in use beside two of the bootstrap, at the demo's size."""
  of, names = own or design(_DEMO, _DEMO), ("accuracy", "macro_f1", "quadratic_kappa", "triage_cost")
  found: dict[tuple[str, str], dict[str, list[float]]] = {}
  for skills in _SKILLS:
    cell = (of, PRIORS["3 uneven"], skills, names, studies)
    for (what, name), share in simulations.label_coverage(*cell).items():
      found.setdefault((what, name), {}).setdefault("in use", []).append(share)
    for (way, what, name), share in simulations.bootstrap_coverage(*cell).items():
      found[what, name].setdefault(way, []).append(share)
  ways = ("percentile", "bca", "in use")
  rows = [
    [f"{name}, {what}", *(f"{np.mean(shares[way]):.3f} ({min(shares[way]):.3f})" for way in ways)]
    for (what, name), shares in sorted(found.items(), key=lambda item: item[0][0], reverse=True)
  ]
  yield f"Coverage of three intervals, mean (and lowest) over skills, {_size(of)} rows:", ["metric", *ways], rows


def false_positives(studies: int, own: Design | None) -> Iterator[Table]:
  """How often equally good methods differ at p <= 0.05."""
  single, several = _single(own), _several(own)
  lines: dict[str, list[np.ndarray]] = {}

  def add(title, found):
    for name, p_values in found.items():
      lines.setdefault(f"{name}{title}", []).append(p_values)

  for of in single:
    for prior in PRIORS:
      names = ("accuracy", "macro_f1") if prior == "4 even" else ("macro_f1",)
      found = simulations.null_label_p(of, PRIORS[prior], 0.7, names, studies)
      add("", {(name if name.startswith("accuracy") else f"{name}, {prior}"): p for name, p in found.items()})
    for kind in SCORES:
      add("", simulations.null_score_p(of, kind, 0.7, studies))
  for of in single:
    add(", 3 seeds", simulations.null_label_p(of, PRIORS["3 uneven"], 0.7, ("macro_f1",), studies, 3))
  for of in several:
    found = simulations.null_label_p(of, PRIORS["3 uneven"], 0.7, ("accuracy", "macro_f1"), studies)
    add(", patients of 1 to 4 rows", found | simulations.null_score_p(of, "mixed", 0.7, studies))
  rows = []
  for title, by_size in lines.items():
    together = np.concatenate(by_size) <= 0.05
    bound = simulations.upper_bound(int(together.sum()), len(together))
    rows.append([title, *(f"{np.mean(p <= 0.05):.3f}" for p in by_size), f"{together.mean():.4f}", f"{bound:.4f}"])
  yield (
    "Share of p <= 0.05 with equally good methods, by rows of the test set; over all sizes with its upper 95 % bound:",
    ["metric, labels", *map(_size, single), "all", "bound"],
    rows,
  )


def holm(studies: int, own: Design | None) -> Iterator[Table]:
  """Holm's family-wise rate in whole studies."""
  rows = []
  for of in [design(60, 60), design(200, 200)] if own is None else [own]:
    for skills in ((0.6, 0.6, 0.6), (0.4, 0.75, 0.75)):
      found = simulations.family_wise(of, skills, studies)
      bound = simulations.upper_bound(round(found["any"] * studies), studies)
      cells = (str(found["comparisons"]), str(found["equal"]), f"{found['unadjusted']:.3f}")
      rows.append([f"{_size(of)} rows, skills {_skills(skills)}", *cells, f"{found['any']:.4f}", f"{bound:.4f}"])
  header = ["study", "comparisons", "of equals", "any p < 0.05", "any Holm p < 0.05", "bound"]
  yield "Share of studies in which equally good methods are told apart; upper 95 % bound of the last:", header, rows


def verdict(studies: int, own: Design | None) -> Iterator[Table]:
  """Verdicts by truth and test size, and whether the examples said to be needed are enough."""
  kinds, rows, enough = ("sft_is_enough", "dpo_adds", "neither_helps", "not_decidable"), [], []
  for skills, (right, wrong) in simulations.TRUTHS.items():
    for of in [design(n, n) for n in VERDICT_ROWS] if own is None else [own]:
      shares, more = simulations.verdicts(of, skills, max(studies // 4, 2))
      errors = sum(shares.get(kind, 0.0) for kind in wrong)
      title = f"{_skills(skills)}: {right or 'at the edge'}"
      rows.append([title, _size(of), *(f"{shares.get(kind, 0.0):.3f}" for kind in kinds), f"{errors:.3f}"])
      if right is not None and more and sum(of.sizes) == 120:
        larger = sum(of.sizes) + int(np.median(more))
        again, _ = simulations.verdicts(design(larger, larger), skills, max(studies // 8, 2))
        share = f"{1 - again.get('not_decidable', 0.0):.3f}"
        enough.append([_skills(skills), f"{shares['not_decidable']:.3f}", str(int(np.median(more))), share])
  yield "Verdicts by the skills of base, sft and dpo:", ["truth", "rows", *kinds, "wrong"], rows
  if enough:
    header = ["skills", "not decidable of 120", "median of more_examples", "decided with them"]
    yield "Whether the examples that a verdict asks for are enough:", header, enough


def detectable(studies: int, own: Design | None) -> Iterator[Table]:
  """Power at the minimum detectable difference."""
  rows = []
  for of in [design(n, n) for n in (60, 200)] if own is None else [own]:
    for prior, metric in (("4 even", "accuracy"), ("3 even", "macro_f1"), ("3 uneven", "macro_f1")):
      found = simulations.power_at_detectable(of, PRIORS[prior], 0.6, metric, studies)
      rows.append([f"{metric}, {prior}", _size(of), f"{found['mdd']:.3f}", f"{found['power']:.3f}"])
  header = ["metric, labels", "rows", "detectable", "found"]
  yield "Share of studies that find a difference as large as `mdd` (median) at p < 0.05:", header, rows


def seeds(studies: int, own: Design | None) -> Iterator[Table]:
  """The spread between training seeds, apart from what the patients' chance adds to it."""
  rows = []
  for of in [design(n, n) for n in (60, 400)] if own is None else [own]:
    for spread, count in ((0.0, 3), (0.15, 3), (0.15, 5)):
      found = simulations.seed_spread(of, spread, count, studies)
      rows.append(
        [f"{_size(of)} rows, {count} seeds", *(f"{found[key]:.4f}" for key in ("true", "estimated", "naive"))]
      )
  yield "Standard deviation of a difference between seeds:", ["study", "true", "`seed_sd`", "of the values"], rows


def _size(of: Design) -> str:
  rows, groups = sum(of.sizes), len(of.sizes)
  return str(rows) if rows == groups else f"{rows} of {groups} patients"


def _skills(skills: Sequence[float]) -> str:
  return ", ".join(f"{skill:g}" for skill in skills)


_SECTIONS: dict[str, Callable[[int, Design | None], Iterator[Table]]] = {
  "coverage": coverage,
  "many_labels": many_labels,
  "scores": scores,
  "candidates": candidates,
  "false_positives": false_positives,
  "holm": holm,
  "verdict": verdict,
  "detectable": detectable,
  "seeds": seeds,
}

if __name__ == "__main__":
  main()
