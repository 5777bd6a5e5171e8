"""Exported runs: what transformers loads, what the model card says, what is never overwritten."""

import json

import numpy as np
import pytest
import tiny
import torch
import transformers
import yaml
from runs import overrides, train
from safetensors.numpy import load_file, save_file

import medjax
from medjax.cli.main import main
from medjax.errors import UserError
from medjax.training import export as export_module
from medjax.training.export import export


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "run"
  train(path, overrides(home, evaluation__every=3))
  return path


def test_a_trained_run(home, run, tmp_path):
  (home / "model" / "README.md").write_text("---\nlicense: llama3\nlicense_name: meta\n---\nBase.")
  (home / "model" / "LICENSE").write_text("Words of the licence.")
  assert main(["export", f"--checkpoint={run}", f"--output={tmp_path / 'out'}"]) == 0
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
  tokens, mask = np.full((1, 9), 7, np.int32) + np.arange(9, dtype=np.int32)[None], np.ones((1, 9), np.int32)
  with torch.no_grad():
    wanted = model(torch.from_numpy(tokens).long()).logits.numpy()
  np.testing.assert_allclose(medjax.load(str(run)).logits(tokens, mask), wanted, rtol=0, atol=1e-4)
  for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
    assert (tmp_path / "out" / name).is_file(), name
  assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.TEMPLATE
  card = (tmp_path / "out" / "README.md").read_text()
  front = yaml.safe_load(card.split("---")[1])
  assert front["license"] == "llama3" and front["library_name"] == "transformers" and "sft" in front["tags"]
  identity = json.loads((run / "checkpoints" / "6" / "identity" / "metadata").read_text())
  for expected in (identity["data"], "Supervised fine-tuning of model", "validation/loss", '"learning_rate": 0.01'):
    assert expected in card, expected
  assert "licence is `meta`" in card and "Not a medical device" in card
  assert str(home) not in card, "no paths of this machine"


def test_odd_front_matter_of_the_base_is_left_out(home, run, tmp_path):
  card = home / "model" / "README.md"
  card.write_text("---\nlicense: [unclosed\n---\nBase.")
  export(str(run), tmp_path / "out")
  assert "license" not in yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
  card.unlink()


def test_what_float16_cannot_hold_is_refused(tmp_path):
  tiny.write_model(tmp_path / "model", seed=1)
  path = tmp_path / "model" / "model.safetensors"
  tensors = load_file(path)
  tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1e6
  save_file(tensors, path, {"format": "pt"})
  with pytest.raises(UserError, match=r"tensor model\.norm\.weight has values beyond float16; export in bfloat16"):
    export(str(tmp_path / "model"), tmp_path / "out", "float16")
  assert not (tmp_path / "out").exists()


def test_evaluations_of_this_checkpoint_are_on_the_card(run, tmp_path):
  for name, checkpoint, value in (("mine", run, 0.8125), ("other", run.parent / "elsewhere", 0.3125)):
    folder = run / "eval" / name
    folder.mkdir(parents=True)
    metrics = {"task": "triage", "split": "test", "n": 16, "checkpoint": str(checkpoint)}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "targets": {"provider": {"macro_f1": value}}}))
  export(str(run), tmp_path / "out")
  card = (tmp_path / "out" / "README.md").read_text()
  assert "| triage | test | 16 | provider | macro_f1 | 0.8125 |" in card and "0.3125" not in card


def test_nothing_is_overwritten_or_left_half_done(home, run, tmp_path, monkeypatch):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "mine.txt").write_text("keep")
  with pytest.raises(UserError, match="full exists; remove it or give another --output"):
    export(str(run), tmp_path / "full")
  (tmp_path / "empty").mkdir()
  export(str(run), tmp_path / "empty")
  assert (tmp_path / "empty" / "config.json").is_file()

  def fail(*_, **__):
    raise OSError("No space left on device")

  monkeypatch.setattr(export_module, "save_file", fail)
  with pytest.raises(OSError, match="No space"):
    export(str(run), tmp_path / "out")
  assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"empty", "full"}


def test_flags_that_do_not_go_together(home, run, tmp_path, capsys):
  def line(*words):
    assert main(["export", f"--output={tmp_path / 'out'}", *words]) == 2
    return capsys.readouterr().err

  assert "has no adapters (lora.rank = 0); export it without --adapter" in line(f"--checkpoint={run}", "--adapter")
  assert "--base belongs to --adapter" in line(f"--checkpoint={run}", "--base=org/model")
  assert "--dtype is of merged weights" in line(f"--checkpoint={run}", "--adapter", "--dtype=bfloat16")
  assert "no such file or directory" in line(f"--checkpoint={tmp_path / 'nowhere'}")
