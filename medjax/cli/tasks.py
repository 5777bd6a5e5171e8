"""`medjax tasks`: what can be named as `config.task`."""

import json
import textwrap
import typing

from absl import flags

from medjax.cli.verb import Arguments, Verb

if typing.TYPE_CHECKING:
  from medjax.tasks.task import Target, TextTarget


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_boolean("json", False, "Print JSON.", flag_values=values)


def _run(arguments: Arguments) -> None:
  from medjax.config_checks import KINDS
  from medjax.tasks import task as registry

  rows = [
    {
      "task": task.name,
      "description": task.description,
      "data": "its own" if task.load else "--config.data.source=FILE",
      "answer": "generated" if task.generation else "label likelihood",
      "targets": {name: _target(target) for name, target in task.targets.items()},
    }
    for task in registry.registered()
  ]
  if arguments.flags.json:
    print(json.dumps(rows, indent=2))
    return
  for row in rows:
    print(f"{row['task']}: {row['description']}")
    print(f"  data: {row['data']}; answer: {row['answer']}")
    for name, target in row["targets"].items():
      labels = (" < " if target.get("ordinal") else ", ").join(target.get("labels", ["a text"]))
      print(
        textwrap.fill(f"{name} ({target['primary']}): {labels}", 110, initial_indent="  ", subsequent_indent="    ")
      )
  print(f"Your own columns make a task of one of these kinds by config.define (docs/data.md): {', '.join(KINDS)}")


def _target(target: "Target | TextTarget") -> dict:
  if hasattr(target, "labels"):
    return {"labels": list(target.labels), "ordinal": target.ordinal, "primary": target.primary}
  return {"primary": target.primary}


VERB = Verb("the clinical tasks there are", "medjax tasks", _define, _run)
