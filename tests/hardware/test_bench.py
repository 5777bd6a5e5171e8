"""`medjax bench`: what its lines say, checked against the examples it ran; files compared; the ladder's losses."""

import json

import jax
import numpy as np
import packed
import pytest
import soak
import tiny

from medjax import config as schema
from medjax.cli.main import main
from medjax.data.packing import plain_tokens, row_tokens
from medjax.hardware import ablation, compare
from medjax.hardware.clock import Clock
from medjax.hardware.devices import peak_flops
from medjax.hardware.workloads import WORKLOADS, random_groups


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


# Byte tokens: ten of a prompt, and answers end with EOS.
PROMPT, LOW, HIGH = 10, len(" low") + 1, len(" high") + 1


@pytest.mark.parametrize(
  ("method", "layout", "tokens", "computed"),
  soak.some(
    [
      ("dpo", "shared_prompt", 2 * PROMPT + LOW + HIGH, PROMPT + LOW + HIGH - 2),
      ("dpo", "plain", 2 * PROMPT + LOW + HIGH, 2 * PROMPT + LOW + HIGH - 2),
      ("sft", "shared_prompt", PROMPT + LOW, PROMPT + LOW - 1),
    ],
    2,
  ),
)
def test_a_line_of_a_users_own_file(home, eight_devices, capsys, method, layout, tokens, computed):
  file = {"sft": "examples.jsonl", "dpo": "pairs.jsonl"}[method]
  words = f"--model={home}/model", f"--data={home}/{file}", f"--method={method}", f"--layout={layout}", "--batch=8"
  got = line(capsys, *words)
  assert (got["method"], got["devices"], got["batch"], got["steps"]) == (method, 8, 8, 2)
  assert got["layout"] == ("packed" if method == "sft" else layout)
  assert got["step_seconds"]["min"] <= got["step_seconds"]["median"] <= got["step_seconds"]["max"]
  seconds = 8 / got["pairs_per_second" if method == "dpo" else "examples_per_second"]
  # A step has all eight rows, one on each device.
  assert got["tokens_per_second"] * seconds == pytest.approx(8 * tokens, rel=1e-6)
  (T,) = got["row_lengths"]
  assert got["tokens_computed_per_second"] * seconds == pytest.approx(8 * T, rel=1e-6)
  assert got["padded_share"] == pytest.approx(1 - computed / T)
  assert got["flops_per_step"] > 0 and got["peak_bytes"] > 2**20 and got["mfu"] is None
  if method == "dpo":
    assert got["losses"][0] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(("method", "unit"), [("reference", "pairs"), ("score", "examples"), ("decode", "examples")])
def test_passes_over_random_ids(home, capsys, method, unit):
  got = line(capsys, f"--model={home}/model", f"--method={method}", "--batch=4", "--new_tokens=3")
  assert (got["workload"], got["steps"], got["method"]) == ("clinical", 2, method)
  seconds = 4 / got[f"{unit}_per_second"]
  if method == "decode":
    assert got["tokens_per_second"] * seconds == pytest.approx(12)
  else:
    assert got["tokens_per_second"] > got["tokens_computed_per_second"], "a prompt is counted with each answer"
  assert got["flops_per_step"] > 0 and got["step_seconds"]["min"] > 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_random_groups_have_the_lengths_of_their_workload(name):
  workload = WORKLOADS[name]
  groups = random_groups(workload, 2, 200, 0, 100, 2048)
  assert groups == random_groups(workload, 2, 200, 0, 100, 2048)
  prompts = [len(group.prompt) for group in groups]
  answers = [len(completion) - 1 for group in groups for completion in group.completions]
  if workload.everything:
    assert set(prompts) == {1}
  else:
    assert workload.prompt.least <= min(prompts) and max(prompts) <= workload.prompt.most
    assert 0.8 < np.median(prompts) / workload.prompt.median < 1.25
    assert 0.8 < np.median(answers) / workload.answer.median < 1.25
  assert max(token for group in groups for token in group.prompt) < 100
  short = random_groups(workload, 2, 200, 0, 100, 60)
  assert max(map(row_tokens, short)) <= 60 and max(map(plain_tokens, short)) > 40


def test_a_disturbed_call_does_not_count(monkeypatch):
  clock = Clock()
  busy = iter([0.0, 0.9, 0.0, 0.0, 0.0, 0.05])  # before and after each call
  monkeypatch.setattr(clock._others, "cores", lambda: next(busy))
  for _ in range(3):
    clock.time(lambda: jax.numpy.zeros(()))
  clock.seconds = [5.0, 1.0, 3.0]
  assert clock.undisturbed == [False, True, True]
  assert clock.spread() == {"median": 2.0, "min": 1.0, "max": 3.0}
  assert clock.rate([100, 4, 4]) == 2.0


def test_peaks_are_known_by_the_names_that_jax_has():
  assert (peak_flops("TPU v5 lite"), peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")) == (197e12, 989e12, None)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--steps=0"], "--steps is 0: it must be at least 1"),
    (["--model=smollm2-135m", "--config.task=triage"], "preset smollm2-135m has no tokenizer"),
    (["--batch=2", "--config.train.batch_size=3"], "train.batch_size is given twice"),
    (["compare"], "name the files to compare"),
    (["compare", "missing.jsonl"], "missing.jsonl cannot be read"),
    (["ablate", "--rung=8"], "--rung is 8: it must be 1 to 7"),
    (["ablate", "--rung=1"], "on one device"),
    (["b.jsonl"], "'b.jsonl' is no flag"),
  ],
)
def test_what_cannot_be_timed(capsys, words, message):
  assert main(["bench", *words]) == 2
  assert message in capsys.readouterr().err


def made_line(device: str, rate: float, **changes) -> dict:
  seconds = {"median": 1 / rate, "min": 0.9 / rate, "max": 2 / rate}
  work = {"model": "m", "method": "dpo", "layout": "shared_prompt", "dtype": "bfloat16", "batch": 8}
  machine = {"device_kind": device, "devices": 4, "peak_bytes": 2_500_000_000, "mfu": 0.413}
  return {**work, **machine, "tokens_per_second": rate, "step_seconds": seconds, **changes}


def test_files_of_two_machines_side_by_side(tmp_path, capsys):
  one, two, plot = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "rates.png"
  one.write_text(json.dumps(made_line("TPU v5 lite", 100.0)) + "\n" + json.dumps(made_line("x", 7.0, method="sft")))
  two.write_text(json.dumps(made_line("NVIDIA H200", 250.0)) + "\n\n")
  assert main(["bench", "compare", str(one), str(two), f"--plot={plot}"]) == 0
  rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[2:]]
  same = "m dpo shared_prompt bfloat16 8"
  assert rows[0] == [same, "4 x NVIDIA H200", "250", "1.00", "0.004 [0.0036, 0.008]", "41.3 %", "2.50 GB", "b.jsonl"]
  assert rows[1][:4] == [same, "4 x TPU v5 lite", "100", "0.40"]
  assert rows[2][:2] == ["m sft shared_prompt bfloat16 8", "4 x x"]
  assert plot.read_bytes().startswith(b"\x89PNG")
  assert [entry["file"] for entry in compare.read_lines([str(one), str(two)])] == ["a.jsonl", "a.jsonl", "b.jsonl"]
  one.write_text('{"loss": 1}')
  assert main(["bench", "compare", str(one)]) == 2
  assert f"{one} line 1 is no line of" in capsys.readouterr().err


def test_each_rung_has_the_same_losses():
  changes = {"train.batch_size": 4, "optimizer.learning_rate": 1e-2, "train.row_length": 256, "method": "dpo"}
  config = schema.with_overrides(schema.base_config(), changes)
  groups = packed.random_groups(12, 2, seed=1)
  with jax.default_matmul_precision("highest"):
    lines = []
    for rung in ablation.LADDER:
      graph, params = packed.decoder()
      params = jax.tree.map(jax.numpy.copy, params)
      lines.append(ablation.climb(rung, config, packed.CONFIG, graph, params, groups, 3))
  losses = np.array([each["losses"][:5] for each in lines])
  np.testing.assert_allclose(losses[:, 0], np.log(2), atol=1e-5)
  assert np.ptp(losses[0]) > 0.01, "they learn"
  np.testing.assert_allclose(losses[1:], np.broadcast_to(losses[0], losses[1:].shape), atol=1e-4)
  assert "| prefix sharing |" in ablation.table(lines)
