"""Short training runs, and what they leave."""

import json

from medjax import config as schema
from medjax.training import loop


def overrides(home, method="sft", **changes):
  """Settings of a short run; `section__key` stands for `section.key`."""
  return {
    "method": method,
    "model.path": str(home / "model"),
    "data.source": str(home / f"{method}.jsonl"),
    "preference.pairs": "given",
    "train.steps": 6,
    "train.batch_size": 8,
    "train.row_length": 96,
    "optimizer.learning_rate": 0.01,
    "optimizer.warmup_steps": 2,
  } | {key.replace("__", "."): value for key, value in changes.items()}


def flags(settings):
  """The settings as words of a command line."""
  return [f"--config.{key}={value}" for key, value in settings.items()]


def train(workdir, settings):
  config = schema.with_overrides(schema.base_config(), settings)
  schema.validate(config)
  return loop.train(config, workdir)


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def curve(workdir):
  """What must be equal, bit for bit, however often a run was interrupted: everything but the speed."""
  return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines(workdir)]
