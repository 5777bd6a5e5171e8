"""transformers as most people use it, on a workload's prompts: `generate`, and a forward pass for each label.

Usage: python tests/peers/run_transformers.py --files=DIR --method=decode|score --batch=16 --steps=5
Prints a JSON line like `medjax bench`.
"""

import argparse
import json
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from workload_files import labels_of

from medjax.hardware.clock import Clock, peak_bytes

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
  prompts = [json.loads(line)["prompt"] for line in lines]
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.files / "model", padding_side="left")
  dtype = getattr(torch, arguments.form)
  model = transformers.AutoModelForCausalLM.from_pretrained(arguments.files / "model", dtype=dtype).eval()
  clock = Clock()
  with torch.inference_mode():
    if arguments.method == "decode":
      encoded = tokenizer(prompts, return_tensors="pt", padding=True)
      settings = {"max_new_tokens": arguments.new_tokens, "min_new_tokens": arguments.new_tokens, "do_sample": False}
      calls = [lambda: model.generate(**encoded, **settings, pad_token_id=tokenizer.eos_token_id).sum().item()]
      tokens = arguments.batch * arguments.new_tokens
    else:
      labels = labels_of(tokenizer)
      calls = [lambda: score(model, tokenizer, prompts, labels)]
      tokens = sum(len(tokenizer(prompt)["input_ids"]) + len(label) for prompt in prompts for label in labels)
    for step in range(-WARM_UP, arguments.steps):
      clock.time(calls[0], keep=step >= 0)
  print(
    json.dumps(
      {
        "library": "transformers",
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


def score(model, tokenizer, prompts, labels) -> list[list[float]]:
  """Log-probability of each label after each prompt: a padded batch of prompts for one label after the other."""
  found = []
  for label in labels:
    ids = [tokenizer(prompt)["input_ids"] + list(label) for prompt in prompts]
    longest = max(map(len, ids))
    padded = torch.tensor([[tokenizer.eos_token_id] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    logits = model(input_ids=padded, attention_mask=mask, logits_to_keep=len(label) + 1).logits[:, :-1].float()
    logps = torch.log_softmax(logits, -1).gather(-1, padded[:, -len(label) :, None])[..., 0]
    found.append(logps.sum(1).tolist())
  return found


if __name__ == "__main__":
  main()
