"""What a study does not show, written from its own record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medjax.study import names

FEW_PATIENTS = 150  # below it only large differences can be found (docs/statistics.md)
FEW_ROWS = 5  # of a label; below it the interval of macro-F1 may be too narrow
_OWN_ROWS = "the task's own rows"


def write(study: Mapping[str, Any], runs: Sequence[Mapping[str, Any]] = ()) -> Iterator[str]:
  """Sentences on limits.

  Args:
    study: what `study.json` holds.
    runs: its training runs, as `recorded.read_curves` gives them; may be empty.
  """
  looks = study.get("protocol", {}).get("second_looks")
  if looks:
    yield (
      f"Test rows were looked at more than once ({len(looks)} times, with other checkpoints): intervals and p-values "
      "assume one look, and the verdicts are exploratory."
    )
  patients = {names.target(row): row.get("groups") or 0 for row in study["results"] if row["primary"]}
  few = [f"{title} ({count})" for title, count in patients.items() if count < FEW_PATIENTS]
  if few:
    yield f"Fewer than {FEW_PATIENTS} test patients: {', '.join(few)}. Only large differences can be found from so few."
  rare = list(dict.fromkeys(filter(None, map(_rare_labels, study.get("confusion", [])))))
  if rare:
    yield (
      f"Labels with fewer than {FEW_ROWS} test rows: {', '.join(rare)}. There macro-F1 hinges on single answers; its "
      "interval is to be relied on only where every label was given its rows (docs/statistics.md)."
    )
  if not names.several_seeds(study):
    yield "One training seed: how much results would change with another seed is not known, and no interval covers it."
  yield (
    f"Verdicts hold for this model, these settings and this much training{_budget(study)}, and for patients like these."
  )
  budget = study.get("protocol", {}).get("budget", {})
  if budget.get("equal") is False:
    yield "Methods had unequal tuning budgets (see Training): a method that was tried with more may look better for it."
  failed = study.get("protocol", {}).get("failed")
  if failed:
    yield f"{len(failed)} training runs failed and could not be chosen."
  if not any(row.get("baseline") for row in study["results"]):
    yield "No baseline without a language model was evaluated: whether one would do as well is not known."
  yield (
    "“Enough” and “neither helps” mean that a relevant gain is excluded at 95 % for that target alone; these claims "
    "are not adjusted for the number of targets."
  )
  if not study.get("subgroups"):
    yield (
      "Results were not broken down by age, sex, site or another column: whether all are served alike is not known."
    )
  if any(row["unparseable"] for row in study.get("unparseable", [])):
    yield "Answers that could not be read count as wrong: part of a difference may be of form and not of knowledge."
  if _simulated(study, runs):
    yield (
      "The data that come with medjax are simulated, but for the thyroid laboratory values (docs/tasks.md); scores on "
      "simulated text say little about real notes."
    )


def _rare_labels(matrix: Mapping[str, Any]) -> str:
  """How many labels of a matrix have few test rows: `triage / provider (1 of 4)`; nothing where none has."""
  rare = sum(sum(row) < FEW_ROWS for row in matrix["matrix"])
  return f"{names.target(matrix)} ({rare} of {len(matrix['labels'])})" if rare else ""


def _budget(study) -> str:
  steps: dict[str, list[int]] = {}
  for row in study.get("training", []):
    if "steps" in row:
      steps.setdefault(names.method(row["method"]), []).append(row["steps"])
  spans = [f"{name} {' to '.join(map(str, sorted({min(n), max(n)})))} steps" for name, n in steps.items()]
  return f" ({', '.join(spans)})" if spans else ""


def _simulated(study, runs) -> bool:
  """Whether a task's own rows were used, as far as is known."""
  if study.get("data"):
    return any(card["source"] == _OWN_ROWS for card in study["data"].values())
  return not all(run.get("config", {}).get("data", {}).get("source") for run in runs)
