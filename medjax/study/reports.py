"""Both reports of a study's folder, written at its end or again."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from medjax import config as schema
from medjax import files
from medjax.data.rows import task_rows
from medjax.errors import UserError
from medjax.study import recorded, report, report_html
from medjax.study.plan import task_of


def write_reports(workdir: pathlib.Path, results: Mapping[str, Any], config: Any = None, examples: int = 0) -> None:
  """Writes `report.md` and `report.html`.

  Args:
    workdir: the study's folder; without its `runs` (a study.json that was passed on) there are no training curves.
    results: what `study.json` holds.
    config: the study's, read for examples only.
    examples: how many test rows of each task `report.html` shows, which is clinical text.

  Raises:
    UserError: a file of a run is not there.
  """
  curves = recorded.read_curves(workdir, results) if (workdir / "runs").exists() else []
  shown = []
  if examples:
    found = {name: task_of(config, name) for name in results["protocol"]["tasks"]}
    rows = {
      name: task_rows(schema.with_overrides(config, {"task": name}), task)["test"] for name, task in found.items()
    }
    shown = recorded.read_examples(workdir, results, found, rows, examples)
  report.write_report(results, workdir / "report.md", curves)
  report_html.write_html(results, workdir / "report.html", curves, shown)


def rewrite(workdir: pathlib.Path, examples: int = 0, named: Collection[str] = ()) -> dict[str, Any]:
  """Writes the reports again from `study.json`; trains, scores and reads nothing else.

  Args:
    workdir: the folder of a study that has ended.
    examples: as in `write_reports`; the rows are read by the folder's own config.
    named: tasks that the command names, see `config.from_saved`.

  Returns:
    What `study.json` holds.

  Raises:
    UserError: there is no study.json, it is damaged, or a file of a run is not there.
  """
  path = workdir / "study.json"
  if not path.exists():
    raise UserError(f"{path} is not there; let the study end, then write its reports again")
  results = files.read_sealed(path, "run the study's command again, which writes it anew")
  config = None
  if examples:
    config = schema.from_saved(workdir / "config.json", named=named)
  write_reports(workdir, results, config, examples)
  return results
