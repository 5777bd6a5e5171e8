"""How long Python takes beside the compiled step of `medjax train`, on a toy of 4 layers.

Usage: PYTHONPATH=tests python tests/training/measure_overhead.py

A step's wall time, from one line of metrics to the next, less the time in which the compiled step ran.
"""

import json
import os
import pathlib
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import numpy as np
import tiny

from medjax import config as schema
from medjax.training import loop
from medjax.training.telemetry import Telemetry

STEPS, WARM_UP = 200, 10


def main() -> None:
  home = pathlib.Path(tempfile.mkdtemp())
  tiny.write_model(home / "model", num_hidden_layers=4)
  rows = [{"prompt": f"sodium {120 + number}", "completion": " low"} for number in range(400)]
  (home / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  settings = {"model.path": str(home / "model"), "data.source": str(home / "sft.jsonl"), "train.steps": STEPS}
  make, write, inner, ends = loop.jitted_step, Telemetry.write, [], []

  def timed(*arguments):
    step = make(*arguments)

    def run(*arguments):
      started = time.perf_counter()
      result = jax.block_until_ready(step(*arguments))
      inner.append(time.perf_counter() - started)
      return result

    return run

  def writing(*arguments):
    write(*arguments)
    ends.append(time.perf_counter())

  loop.jitted_step, Telemetry.write = timed, writing
  loop.train(schema.load("", settings), home / "run")
  walls = np.diff(ends)[WARM_UP:]
  beside = 1e3 * (walls - np.array(inner)[1:][WARM_UP : WARM_UP + len(walls)])
  print(f"step {1e3 * np.median(walls):.2f} ms; beside the compiled step: median {np.median(beside):.2f} ms, ", end="")
  print(f"90th percentile {np.percentile(beside, 90):.2f} ms")


if __name__ == "__main__":
  main()
