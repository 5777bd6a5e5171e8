"""`medjax tasks`: what can be named as `config.task`."""

import json

from absl import flags

from medjax.cli.verb import Arguments, Verb


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_boolean("json", False, "Print JSON.", flag_values=values)


def _run(arguments: Arguments) -> None:
  from medjax.tasks import task as registry

  rows = [
    {
      "task": task.name,
      "description": task.description,
      "data": "its own" if task.load else "--config.data.source=FILE",
      "targets": {
        name: {"labels": list(target.labels), "ordinal": target.ordinal, "primary": target.primary}
        for name, target in task.targets.items()
      },
    }
    for task in registry.registered()
  ]
  if arguments.flags.json:
    print(json.dumps(rows, indent=2))
    return
  for row in rows:
    print(f"{row['task']}: {row['description']}")
    print(f"  data: {row['data']}")
    for name, target in row["targets"].items():
      order = " < ".join(target["labels"]) if target["ordinal"] else ", ".join(target["labels"])
      print(f"  {name} ({target['primary']}): {order}")


VERB = Verb("the clinical tasks there are", "medjax tasks", _define, _run)
