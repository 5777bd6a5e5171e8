"""TRL's own trainers on a workload's files; prints a JSON line like `medjax bench`.

Usage: python tests/peers/run_trl.py --files=DIR --method=sft|dpo|text --form=fp32|default|... --steps=12
"""

import argparse
import json
import os
import pathlib
import resource
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import torch
import transformers
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from medjax.hardware.undisturbed import Others

FLOAT32 = {"bf16": False, "gradient_checkpointing": False}
FORMS = {
  "fp32": FLOAT32,
  "default": {},  # what a user of TRL gets: bfloat16 autocast and gradient checkpointing
  "fp32_precomputed": {**FLOAT32, "precompute_ref_log_probs": True},
  "default_precomputed": {"precompute_ref_log_probs": True},
  "padding_free": {**FLOAT32, "padding_free": True, "max_length": None},
  "packing": {**FLOAT32, "packing": True, "max_length": 512},
  "default_padding_free": {"padding_free": True, "max_length": None},
  "default_packing": {"packing": True, "max_length": 512},
}
WARM_UP = 3


class Clock(transformers.TrainerCallback):
  """Seconds between the ends of steps, and whether another process ran meanwhile."""

  def __init__(self):
    self.ends, self.disturbed = [], []
    self.others = Others()

  def on_step_end(self, *_, **__):
    self.ends.append(time.perf_counter())
    self.disturbed.append(self.others.cores() > Others.MOST)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--files", type=pathlib.Path, required=True)
  parser.add_argument("--method", choices=["sft", "dpo", "text"], required=True)
  parser.add_argument("--form", choices=FORMS, required=True)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--steps", type=int, default=12)
  arguments = parser.parse_args()
  torch.manual_seed(0)
  rows = datasets.load_dataset("json", data_files=str(arguments.files / f"{arguments.method}.jsonl"), split="train")
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.files / "model")
  model = transformers.AutoModelForCausalLM.from_pretrained(arguments.files / "model", dtype=torch.float32)
  Config, Trainer = (DPOConfig, DPOTrainer) if arguments.method == "dpo" else (SFTConfig, SFTTrainer)
  settings = {"max_length": None, **FORMS[arguments.form]}
  if arguments.method == "sft":
    settings["completion_only_loss"] = True
  config = Config(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=arguments.batch,
    max_steps=arguments.steps + WARM_UP,
    learning_rate=1e-5,
    weight_decay=0.0,
    max_grad_norm=1.0,
    lr_scheduler_type="constant",
    report_to=[],
    save_strategy="no",
    logging_steps=1,
    use_cpu=True,
    disable_tqdm=True,
    dataloader_num_workers=0,
    **settings,
  )
  clock = Clock()
  trainer = Trainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[clock])
  before = resource.getrusage(resource.RUSAGE_SELF)
  trainer.train()
  used = resource.getrusage(resource.RUSAGE_SELF)
  seconds = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)][WARM_UP - 1 :]
  disturbed = clock.disturbed[WARM_UP:]
  clean = [not bad for bad in disturbed] if not all(disturbed) else [True] * len(disturbed)
  kept = sorted(x for x, good in zip(seconds, clean, strict=True) if good)
  losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
  tokens = [real_tokens(arguments, tokenizer) * arguments.batch] * len(seconds)
  if "packing" in settings:  # a step has as many examples as fit: TRL counts
    counted = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    tokens = [after - before for before, after in zip(counted, counted[1:], strict=False)][WARM_UP - 1 :][
      : len(seconds)
    ]
  kept_tokens = sum(count for count, good in zip(tokens, clean, strict=True) if good)
  print(
    json.dumps(
      {
        "library": "trl",
        "method": arguments.method,
        "form": arguments.form,
        "batch": arguments.batch,
        "steps": len(seconds),
        "steps_undisturbed": disturbed.count(False),
        "step_seconds": {"median": kept[len(kept) // 2], "min": kept[0], "max": kept[-1]},
        "tokens_per_second": kept_tokens / sum(kept),
        "peak_bytes": 1024 * used.ru_maxrss,
        "cpu_seconds_per_step": (used.ru_utime - before.ru_utime) / (arguments.steps + WARM_UP),
        "losses": [losses[0], losses[-1]],
      }
    )
  )


def real_tokens(arguments, tokenizer) -> float:
  """Mean real tokens of an example or pair, a prompt counted with each of its answers."""
  total, count = 0, 0
  for line in (arguments.files / f"{arguments.method}.jsonl").read_text().splitlines():
    row = {key: len(tokenizer(text)["input_ids"]) for key, text in json.loads(line).items()}
    if arguments.method == "dpo":
      total += 2 * row["prompt"] + row["chosen"] + row["rejected"] + 2
    else:
      total += sum(row.values()) + 1
    count += 1
  return total / count


if __name__ == "__main__":
  main()
