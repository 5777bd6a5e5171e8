"""Verbs that read data, train, score and write run once on a tiny model, on every supported Python and JAX."""

import csv
import json

import make_home
import pytest
import runs
import tiny

from medjax.cli import main


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  path = tmp_path_factory.mktemp("home")
  make_home.write(path, tiny.write_without_torch)
  with open(path / "notes.csv", "w", newline="") as file:
    rows = [{"note": f"sodium {value} mmol/L", "level": "low" if value < 135 else "high"} for value in range(116, 156)]
    csv.DictWriter(file, ["note", "level"]).writerows([{"note": "note", "level": "level"}, *rows])
  return path


def test_from_sft_over_dpo_to_an_exported_model(home, tmp_path, capsys):
  sft, dpo, model = tmp_path / "sft", tmp_path / "dpo", tmp_path / "model"
  assert main.main(["train", f"--workdir={sft}", *runs.flags(runs.overrides(home, train__steps=2))]) == 0
  settings = runs.overrides(home, "dpo", train__steps=2, train__init_from=str(sft))
  assert main.main(["train", f"--workdir={dpo}", *runs.flags(settings)]) == 0
  assert runs.lines(dpo)[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "DPO starts at ln 2"
  assert main.main(["export", f"--checkpoint={dpo}", f"--output={model}"]) == 0
  (tmp_path / "prompts.txt").write_text("sodium 120\nsodium 140\n")
  capsys.readouterr()
  assert main.main(["generate", f"--model={model}", f"--prompts={tmp_path / 'prompts.txt'}", "--max_new_tokens=3"]) == 0
  assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == 2


def test_a_table_is_described_scored_predicted_and_paired(home, tmp_path, capsys):
  task = (
    *("--config.task=text_classification", f"--config.data.source={home / 'notes.csv'}"),
    *("--config.define.prompt={note}", "--config.define.labels=level", f"--config.model.path={home / 'model'}"),
  )
  assert main.main(["data", *task]) == 0
  of = f"--checkpoint={home / 'model'}"
  assert main.main(["eval", of, f"--workdir={tmp_path}", "--json", *task]) == 0
  printed = capsys.readouterr().out
  assert "accuracy" in printed
  words = (f"--input={home / 'notes.csv'}", f"--output={tmp_path / 'predictions.jsonl'}")
  assert main.main(["predict", of, *words, *task]) == 0
  assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 40
  assert main.main(["prefer", f"--output={tmp_path / 'pairs.jsonl'}", *task]) == 0
  assert {"prompt", "chosen", "rejected"} <= json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0]).keys()
