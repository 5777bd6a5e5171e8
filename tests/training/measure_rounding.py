"""Measures how far rounding moves an answer's log-probability when it is computed in rows of another shape.

Usage: python tests/training/measure_rounding.py [TASK=triage] [DTYPE=bfloat16] [PAIRS=24]

Scores the pairs of a task under smollm2-135m in rows of 1024 and of 640 tokens. Prints a JSON line, in nats: the root
mean square and the largest difference by the square root of an answer's tokens, and the means over the pairs.
"""

import json
import sys

import jax
import numpy as np

from medjax import config as schema
from medjax import tasks
from medjax.data import chat, items
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.objectives.scoring import score
from medjax.training import mesh
from medjax.training.policy import initial_policy


def main(task: str = "triage", dtype: str = "bfloat16", pairs: str = "24") -> None:
  settings = {"method": "dpo", "task": task, "model.dtype": dtype, "data.train_rows": int(pairs)}
  config = schema.with_overrides(schema.base_config(), settings)
  devices, described = mesh.make_mesh(config.mesh.to_dict()), load_config_and_tokenizer(config.model.path)
  encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
  found = items.training_items(config, tasks.of(config))["train"]
  groups, _ = chat.encode_all(found, encoder, chat.limits_of(config, described.config, 640))
  groups = groups[: int(pairs)]
  with jax.set_mesh(devices):
    policy = initial_policy(config, described, devices)
    graph = policy.graph(described.config, dtype)
    logps = [np.stack(score(graph, policy.params, groups, length, 1)) for length in (1024, 640)]
  moved_P2 = logps[1] - logps[0]
  tokens_P2 = np.array([[len(answer) for answer in group.completions] for group in groups])
  by_root_P2 = moved_P2 / np.sqrt(tokens_P2)
  line = {"task": task, "dtype": dtype, "pairs": len(groups), "tokens": float(tokens_P2.mean())}
  line |= {"rms": float(np.sqrt((by_root_P2**2).mean())), "largest": float(np.abs(by_root_P2).max())}
  print(json.dumps(line | {"means": moved_P2.mean(0).tolist()}))


if __name__ == "__main__":
  main(*sys.argv[1:])
