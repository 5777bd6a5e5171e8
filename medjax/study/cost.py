"""What a study's training took: tokens, and the FLOPs that the mathematics of it needs."""

import pathlib
from collections.abc import Iterable
from typing import Any

from medjax import config as schema
from medjax import files, tasks
from medjax.data import chat, items
from medjax.data.examples import Segments
from medjax.data.loader import Plan
from medjax.hardware.flops import forward_flops, train_flops
from medjax.models.pretrained import Description
from medjax.objectives.objective import objective_of
from medjax.objectives.preference import reads_reference
from medjax.study.plan import Run
from medjax.training import curve
from medjax.training.checkpoints import lora_of

_DATA = ("task", "method", "seed", "define", "data", "preference", "model")  # parts that token ids depend on


def training_costs(workdir: pathlib.Path, chosen: Iterable[Run], model: Description) -> list[dict[str, Any]]:
  """The costs of all training runs of a study, those of candidates that were not chosen too.

  Args:
    workdir: the study's folder.
    chosen: the runs that were tested.
    model: the base model.

  Returns:
    Rows of `study.json`'s `cost`: `task, method, seed, candidate, chosen, steps, tokens` (real tokens, a prompt counted
    with each of its answers), `flops` of the steps and `reference_flops` of the reference's log-probabilities: model
    FLOPs of the packed rows, without padding and recomputation.

  Raises:
    UserError: the data of a run cannot be read any more.
  """
  chosen = list(chosen)
  rows, encoded, named = [], {}, {run.task for run in chosen}
  for run in chosen:
    for folder in sorted((workdir / run.folder).parent.glob("candidate*")):
      if (folder / "metrics.jsonl").exists():
        where = {"task": run.task, "method": run.method, "seed": run.seed, "candidate": _number(folder)}
        row = {**where, "chosen": folder.name == run.folder.name}
        rows.append({**row, **_cost(folder, named, model, encoded)})
  return rows


def _number(folder: pathlib.Path) -> int:
  return int(folder.name.removeprefix("candidate"))


def _cost(
  folder: pathlib.Path, named: set[str], model: Description, encoded: dict[str, dict[str, list[Segments]]]
) -> dict[str, int]:
  """The cost of one run's steps so far; `encoded` keeps the token ids of data that several runs share."""
  steps = curve.read(folder)
  config = schema.from_saved(folder / "config.json", named=named)
  values = schema.as_dict(config)
  key = files.fingerprint({part: values[part] for part in _DATA} | {"row_length": config.train.row_length})
  if key not in encoded:
    encoded[key] = _groups(config, model)
  groups = encoded[key]["train"]
  settings = config.train
  plan = Plan(groups, len(steps), config.seed, settings.batch_size, settings.row_length, settings.microbatch_rows)
  read = [groups[index] for step in range(len(steps)) for index in plan.indices(step)]
  reference = 0
  if reads_reference(objective_of(config)):
    if config.preference.reference == "precomputed":
      validated = encoded[key]["validation"] if config.evaluation.every else []
      reference = forward_flops(model.config, [*groups, *validated])
    else:
      reference = forward_flops(model.config, read)
  return {
    "steps": len(steps),
    "tokens": sum(step["tokens"] for step in steps),
    "flops": train_flops(model.config, read, lora_of(values)),
    "reference_flops": reference,
  }


def _groups(config, model: Description) -> dict[str, list[Segments]]:
  """Token ids of what a run trains on and validates with."""
  encoder = chat.Encoder(model.tokenizer, model.config.vocab_size)
  limits = chat.limits_of(config, model.config, config.train.row_length)
  found = items.training_items(config, tasks.of(config) if config.task else None)
  return {split: chat.encode_all(of_split, encoder, limits)[0] for split, of_split in found.items()}
