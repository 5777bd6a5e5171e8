"""`medjax bench`: what its line says, checked against the examples it ran."""

import json

import pytest
import tiny

from medjax.cli.main import main
from medjax.data.packing import plain_tokens
from medjax.hardware.bench import synthetic_groups
from medjax.models.families import PRESETS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  path = tmp_path_factory.mktemp("bench")
  tiny.write_model(path / "model")
  with open(path / "pairs.jsonl", "w") as pairs, open(path / "examples.jsonl", "w") as examples:
    for number in range(8):
      prompt = f"sodium {120 + number}"
      pairs.write(json.dumps({"prompt": prompt, "chosen": " low", "rejected": " high"}) + "\n")
      examples.write(json.dumps({"prompt": prompt, "completion": " low"}) + "\n")
  return path


def line(capsys, *words):
  assert main(["bench", "--json", "--steps=2", "--config.train.row_length=48", *words]) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_line_of_a_users_own_file(home, capsys, method):
  file = {"sft": "examples.jsonl", "dpo": "pairs.jsonl"}[method]
  got = line(capsys, f"--model={home}/model", f"--data={home}/{file}", f"--method={method}", "--batch=8")
  assert (got["method"], got["devices"], got["batch"], got["steps"]) == (method, 8, 8, 2)
  assert got["step_seconds"]["min"] <= got["step_seconds"]["median"] <= got["step_seconds"]["max"]
  assert got["step_over_forward"] == pytest.approx(got["step_seconds"]["median"] / got["forward_seconds"]["median"])
  seconds = 2 * 8 / got["pairs_per_second" if method == "dpo" else "examples_per_second"]
  # Byte tokens: ten of a prompt, and answers end with EOS. A step has all eight rows.
  answers = [len(" low") + 1, len(" high") + 1]
  tokens = {"sft": 10 + answers[0], "dpo": 2 * 10 + sum(answers)}[method]
  assert got["tokens_per_second"] * seconds / 2 == pytest.approx(8 * tokens, rel=1e-6)
  assert 0 < got["padded_share"] < 1 and got["flops_per_step"] > 0 and got["peak_bytes"] > 2**20
  if method == "dpo":
    assert got["losses"][0] == pytest.approx(0.6931, abs=1e-3)


def test_synthetic_rows_fit(home, capsys):
  got = line(capsys, f"--model={home}/model", "--method=sft", "--batch=4")
  assert got["losses"][0] > 0


def test_synthetic_groups_have_the_lengths_of_clinical_examples():
  groups = synthetic_groups(PRESETS["smollm2-135m"], "dpo", 50, 0, 512)
  assert all(64 <= len(group.prompt) <= 192 and len(group.completions) == 2 for group in groups)
  assert all(plain_tokens(group) <= 2 * 192 + 2 * 48 for group in groups)
  assert synthetic_groups(PRESETS["smollm2-135m"], "dpo", 50, 0, 512) == groups


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--steps=0"], "--steps is 0: it must be at least 1"),
    (["--model=smollm2-135m", "--config.task=triage"], "preset smollm2-135m has no tokenizer"),
    (["--batch=2", "--config.train.batch_size=3"], "train.batch_size is given twice"),
  ],
)
def test_what_cannot_be_timed(capsys, words, message):
  assert main(["bench", *words]) == 2
  assert message in capsys.readouterr().err
