"""medjax on the work of `run_transformers.py`: the same prompts, labels and new tokens, the same model.

Usage: python tests/peers/run_scoring.py --files=DIR --method=decode|score --batch=16 --steps=5
"""

import argparse
import json
import pathlib

from workload_files import labels_of

from medjax import api
from medjax.data.examples import Segments
from medjax.evaluation import decode
from medjax.hardware.clock import Clock, peak_bytes
from medjax.objectives.scoring import score

WARM_UP = 2


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--files", type=pathlib.Path, required=True)
  parser.add_argument("--method", choices=["decode", "score"], required=True)
  parser.add_argument("--form", choices=["float32", "bfloat16"], default="float32")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--new_tokens", type=int, default=64)
  arguments = parser.parse_args()
  lines = (arguments.files / "sft.jsonl").read_text().splitlines()[: arguments.batch]
  model = api.load(str(arguments.files / "model"), arguments.form)
  prompts = model.encoder.prompts([json.loads(line)["prompt"] for line in lines])
  clock = Clock()
  if arguments.method == "decode":
    settings = arguments.new_tokens, 0.0, 1.0, 0, arguments.batch
    ids = [list(prompt) for prompt in prompts]
    calls = [lambda: decode.generate(model.graph, model.params, model.config, model.dtype, ids, (), *settings)]
    tokens = arguments.batch * arguments.new_tokens
  else:
    labels = labels_of(model.tokenizer)
    groups = [Segments(str(index), prompt, labels) for index, prompt in enumerate(prompts)]
    calls = [lambda: score(model.graph, model.params, groups, 2048, 1)]
    tokens = sum(len(prompt) + len(label) for prompt in prompts for label in labels)
  for step in range(-WARM_UP, arguments.steps):
    clock.time(calls[0], keep=step >= 0)
  print(
    json.dumps(
      {
        "library": "medjax",
        "method": arguments.method,
        "form": arguments.form,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "steps_undisturbed": sum(clock.undisturbed),
        "step_seconds": clock.spread(),
        "examples_per_second": clock.rate([arguments.batch] * arguments.steps),
        "tokens_per_second": clock.rate([tokens] * arguments.steps),
        "peak_bytes": peak_bytes(),
      }
    )
  )


if __name__ == "__main__":
  main()
