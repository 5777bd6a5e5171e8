"""`medjax data`: what medjax sees in a run's data, before anything is trained on it."""

import json
import pathlib

from absl import flags

from medjax.cli.verb import Arguments, Verb, load_config
from medjax.console import visible, visible_lines


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_string("workdir", "", "Folder for data.json and data.png; empty: none.", flag_values=values)
  flags.DEFINE_boolean(
    "identifiers", False, "Search the texts for what may identify a patient; only counts are told.", flag_values=values
  )
  flags.DEFINE_boolean("json", False, "Print what data.json holds.", flag_values=values)


def _run(arguments: Arguments) -> None:
  from medjax import config as schema
  from medjax import files

  values, config = arguments.flags, load_config(arguments)
  schema.validate_data(config)
  from medjax.overview.describe import describe
  from medjax.overview.figure import draw
  from medjax.overview.lines import lines

  seen = describe(config, values.identifiers)
  if values.workdir:
    workdir = pathlib.Path(values.workdir)
    files.write_json(workdir / "data.json", seen, private=True)
    draw(seen, workdir / "data.png")
  if values.json:
    print(json.dumps(seen, indent=2, ensure_ascii=False))
    return
  for line in lines(seen):
    print(visible(line))
  if values.show_examples:
    from medjax.overview.example import rendered

    print(f"\n{visible_lines(rendered(config))}")
  if values.workdir:
    print(pathlib.Path(values.workdir) / "data.json")
    print(pathlib.Path(values.workdir) / "data.png")


VERB = Verb(
  "show what medjax sees in your data: counts, labels, lengths, duplicates, leaks",
  "medjax data --config=configs/triage.py --workdir=runs/triage-data",
  _define,
  _run,
  takes_config=True,
)
