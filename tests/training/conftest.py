"""What the tests of training share: a tiny model with rows, and a cache of their own."""

import json
import random

import pytest
import tiny
from processes import forks


@pytest.fixture(scope="session")
def home(tmp_path_factory):
  """A tiny model, and rows of which the first 16 train and the last 4 validate."""
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  draw = random.Random(0)
  values = [draw.randint(110, 160) for _ in range(20)]
  splits = ["train"] * 16 + ["validation"] * 4
  with open(path / "sft.jsonl", "w") as sft, open(path / "dpo.jsonl", "w") as dpo:
    for index, (value, split) in enumerate(zip(values, splits, strict=True)):
      answers = [" low", " not low"] if value < 135 else [" not low", " low"]
      row = {"id": f"case-{index}", "split": split, "prompt": f"sodium {value} mmol/L" + " again" * (index % 4)}
      sft.write(json.dumps({**row, "completion": answers[0]}) + "\n")
      dpo.write(json.dumps({**row, "chosen": answers[0], "rejected": answers[1]}) + "\n")
  return path


@pytest.fixture(scope="session")
def forked():
  with forks() as found:
    yield found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"
