"""tunix's own trainers on a workload's files, padded to the longest as its pipelines do; prints a line like TRL's.

Usage: PYTHON tests/peers/run_tunix.py --files=DIR --method=sft|dpo|text --steps=12
where PYTHON is that of an environment with google-tunix and transformers.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import resource
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers
from flax import nnx
from tunix.models.llama3 import model as llama
from tunix.rl import common
from tunix.sft import hooks, peft_trainer
from tunix.sft.dpo import dpo_trainer

# The file alone: this environment need not have what medjax needs.
_FILE = pathlib.Path(__file__).parents[2] / "medjax" / "hardware" / "undisturbed.py"
_SPEC = importlib.util.spec_from_file_location("undisturbed", _FILE)
undisturbed = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(undisturbed)
Others = undisturbed.Others

WARM_UP = 3
PAD = 2


class Clock(hooks.TrainingHooks):
  """Seconds between the starts of steps: each is dispatched when the one before has ended."""

  def __init__(self):
    self.starts, self.disturbed, self.others = [], [], Others()

  def on_train_start(self, trainer):
    pass

  def on_train_end(self, trainer):
    pass

  def on_train_step_start(self, trainer):
    self.starts.append(time.perf_counter())
    self.disturbed.append(self.others.cores() > Others.MOST)

  def on_train_step_end(self, trainer, *_, **__):
    pass

  def on_eval_step_start(self, trainer):
    pass

  def on_eval_step_end(self, trainer, *_, **__):
    pass


def padded(rows: list[list[int]], size: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """(ids, mask), both int32 [rows, size]."""
  ids, mask = np.full((len(rows), size), PAD, np.int32), np.zeros((len(rows), size), np.int32)
  for row, found in enumerate(rows):
    at = slice(size - len(found), size) if left else slice(0, len(found))
    ids[row, at], mask[row, at] = found, 1
  return ids, mask


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--files", type=pathlib.Path, required=True)
  parser.add_argument("--method", choices=["sft", "dpo", "text"], required=True)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--steps", type=int, default=12)
  arguments = parser.parse_args()
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.files / "model")
  lines = (arguments.files / f"{arguments.method}.jsonl").read_text().splitlines()
  rows = [{key: tokenizer(text)["input_ids"] for key, text in json.loads(line).items()} for line in lines]
  sizes = json.loads((arguments.files / "model" / "config.json").read_text())
  config = llama.ModelConfig(
    num_layers=sizes["num_hidden_layers"],
    vocab_size=sizes["vocab_size"],
    embed_dim=sizes["hidden_size"],
    hidden_dim=sizes["intermediate_size"],
    num_heads=sizes["num_attention_heads"],
    head_dim=sizes["hidden_size"] // sizes["num_attention_heads"],
    num_kv_heads=sizes["num_key_value_heads"],
    rope_theta=10000,
    norm_eps=1e-6,
    weight_tying=True,
  )

  def model():
    made = llama.Llama3(config, rngs=nnx.Rngs(0))
    state = nnx.state(made)
    draw = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jnp.asarray(0.02 * draw.standard_normal(x.shape), jnp.float32), state)
    nnx.update(made, state)
    return made

  needed = arguments.batch * (arguments.steps + WARM_UP + 2)
  rows = (rows * -(-needed // len(rows)))[:needed]
  batches = [rows[first : first + arguments.batch] for first in range(0, needed, arguments.batch)]
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5, weight_decay=0.0))
  common_settings = {
    "eval_every_n_steps": 10**9,
    "max_steps": arguments.steps + WARM_UP + 1,
    "max_inflight_computations": 1,
  }
  ends = [PAD]
  if arguments.method == "dpo":
    prompt = max(len(row["prompt"]) for row in rows)
    answer = max(len(row[key]) + 1 for row in rows for key in ("chosen", "rejected"))

    def example(members):
      found = {}
      for name, key, size in (
        ("prompt", "prompt", prompt),
        ("chosen", "chosen", answer),
        ("rejected", "rejected", answer),
      ):
        ids = [row[key] + (ends if key != "prompt" else []) for row in members]
        found[f"{name}_ids"], found[f"{name}_mask"] = padded(ids, size, left=key == "prompt")
      return dpo_trainer.TrainingInput(**found)

    settings = dpo_trainer.DPOTrainingConfig(beta=0.1, **common_settings)
    trainer = dpo_trainer.DPOTrainer(model(), model(), optimizer, settings)
    tokens = [2 * len(row["prompt"]) + len(row["chosen"]) + len(row["rejected"]) + 2 for row in rows]
  else:
    texts = [[*row["text"], *ends] if "text" in row else [*row["prompt"], *row["completion"], *ends] for row in rows]
    size = max(map(len, texts))

    def example(members):
      ids = [[*row["text"], *ends] if "text" in row else [*row["prompt"], *row["completion"], *ends] for row in members]
      tokens, mask = padded(ids, size)
      scored = mask.copy()
      for index, row in enumerate(members):
        scored[index, : len(row.get("prompt", ()))] = 0
      return {"tokens": tokens, "mask": mask, "scored": scored}

    trainer = peft_trainer.PeftTrainer(model(), optimizer, peft_trainer.TrainingConfig(**common_settings))
    trainer = trainer.with_gen_model_input_fn(
      lambda x: {
        "input_tokens": x["tokens"],
        "input_mask": x["scored"],
        "positions": common.build_positions_from_mask(x["mask"]),
        "attention_mask": common.make_causal_attn_mask(x["mask"]),
      }
    )
    tokens = [*map(len, texts)]
  clock = Clock()
  trainer.with_training_hooks(clock)
  trainer.train([example(members) for members in batches])
  seconds = [after - before for before, after in zip(clock.starts, clock.starts[1:], strict=False)][WARM_UP:]
  clean = [not bad for bad in clock.disturbed[1:]][WARM_UP:]
  kept = sorted([x for x, good in zip(seconds, clean, strict=True) if good] or seconds)
  print(
    json.dumps(
      {
        "library": "tunix",
        "method": arguments.method,
        "form": "padded",
        "batch": arguments.batch,
        "steps": len(seconds),
        "steps_undisturbed": sum(clean),
        "step_seconds": {"median": kept[len(kept) // 2], "min": kept[0], "max": kept[-1]},
        "per_second": arguments.batch * len(kept) / sum(kept),
        "tokens_per_second": float(np.mean(tokens)) * arguments.batch * len(kept) / sum(kept),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
      }
    )
  )


if __name__ == "__main__":
  main()
