"""A tiny model, and rows of which the first 16 train and the last 4 validate."""

import json
import pathlib
import random

import tiny


def write(path: pathlib.Path, write_model=tiny.write_model) -> None:
  """Fills a folder: `model/`, `sft.jsonl`, `dpo.jsonl`."""
  write_model(path / "model")
  draw = random.Random(0)
  values = [draw.randint(110, 160) for _ in range(20)]
  splits = ["train"] * 16 + ["validation"] * 4
  with open(path / "sft.jsonl", "w") as sft, open(path / "dpo.jsonl", "w") as dpo:
    for index, (value, split) in enumerate(zip(values, splits, strict=True)):
      answers = [" low", " not low"] if value < 135 else [" not low", " low"]
      row = {"id": f"case-{index}", "split": split, "prompt": f"sodium {value} mmol/L" + " again" * (index % 4)}
      sft.write(json.dumps({**row, "completion": answers[0]}) + "\n")
      dpo.write(json.dumps({**row, "chosen": answers[0], "rejected": answers[1]}) + "\n")
