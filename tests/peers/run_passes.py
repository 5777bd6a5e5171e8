"""Decoding and label scoring of a workload's prompts, by medjax or by transformers as most people use it.

Usage: python tests/peers/run_passes.py --files=DIR --library=medjax|transformers --method=decode|score --batch=16
Prints a JSON line like `medjax bench`.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"

from workload_files import labels_of

from medjax.hardware.clock import Clock, peak_bytes

WARM_UP = 2


def with_medjax(arguments, prompts: list[str]) -> tuple[Callable, int]:
  """(a call that does the work, its real or new tokens)."""
  from medjax import api
  from medjax.data.examples import Segments
  from medjax.evaluation import decode
  from medjax.objectives.scoring import score

  model = api.load(str(arguments.files / "model"), arguments.form)
  ids = model.encoder.prompts(prompts)
  if arguments.method == "decode":
    settings = (), arguments.new_tokens, 0.0, 1.0, 0, arguments.batch
    return (
      lambda: decode.generate(model.graph, model.params, model.config, model.dtype, ids, *settings),
      arguments.batch * arguments.new_tokens,
    )
  labels = labels_of(model.tokenizer)
  groups = [Segments(str(index), prompt, labels) for index, prompt in enumerate(ids)]
  return lambda: score(model.graph, model.params, groups, 2048, 1), _scored(ids, labels)


def with_transformers(arguments, prompts: list[str]) -> tuple[Callable, int]:
  """The same: `generate`, and a padded batch of prompts for one label after the other."""
  import torch
  import transformers

  torch.set_grad_enabled(False)
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.files / "model", padding_side="left")
  dtype = getattr(torch, arguments.form)
  model = transformers.AutoModelForCausalLM.from_pretrained(arguments.files / "model", dtype=dtype).eval()
  if arguments.method == "decode":
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    new = {"max_new_tokens": arguments.new_tokens, "min_new_tokens": arguments.new_tokens, "do_sample": False}
    return (
      lambda: model.generate(**encoded, **new, pad_token_id=tokenizer.eos_token_id).sum().item(),
      arguments.batch * arguments.new_tokens,
    )
  labels, ids = labels_of(tokenizer), tokenizer(prompts)["input_ids"]

  def score() -> list[list[float]]:
    found = []
    for label in labels:
      rows = [[*prompt, *label] for prompt in ids]
      longest = max(map(len, rows))
      padded = torch.tensor([[tokenizer.eos_token_id] * (longest - len(row)) + row for row in rows])
      mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
      logits = model(input_ids=padded, attention_mask=mask, logits_to_keep=len(label) + 1).logits[:, :-1].float()
      logps = torch.log_softmax(logits, -1).gather(-1, padded[:, -len(label) :, None])[..., 0]
      found.append(logps.sum(1).tolist())
    return found

  return score, _scored(ids, labels)


def _scored(ids, labels) -> int:
  return sum(len(prompt) + len(label) for prompt in ids for label in labels)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--files", type=pathlib.Path, required=True)
  parser.add_argument("--library", choices=["medjax", "transformers"], required=True)
  parser.add_argument("--method", choices=["decode", "score"], required=True)
  parser.add_argument("--form", choices=["float32", "bfloat16"], default="float32")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--new_tokens", type=int, default=64)
  arguments = parser.parse_args()
  lines = (arguments.files / "sft.jsonl").read_text().splitlines()[: arguments.batch]
  make = with_medjax if arguments.library == "medjax" else with_transformers
  call, tokens = make(arguments, [json.loads(line)["prompt"] for line in lines])
  clock = Clock()
  for step in range(-WARM_UP, arguments.steps):
    clock.time(call, keep=step >= 0)
  line = {name: getattr(arguments, name) for name in ("library", "method", "form", "batch", "steps")}
  line |= {"steps_undisturbed": sum(clock.undisturbed), "step_seconds": clock.spread()}
  line |= {"examples_per_second": clock.rate([arguments.batch] * arguments.steps)}
  line |= {"tokens_per_second": clock.rate([tokens] * arguments.steps), "peak_bytes": peak_bytes()}
  print(json.dumps(line))


if __name__ == "__main__":
  main()
