"""`medjax plan` with the TPU's own compiler, on a model so small that it is done in seconds."""

import json
import math
import shlex

import pytest

from medjax.cli import main, train, verb
from medjax.config import as_dict, base_config, with_overrides
from medjax.errors import UserError
from medjax.hardware import flops, plan, plan_search, topologies
from medjax.hardware.plan_program import work_of
from medjax.hardware.program_costs import costs_of
from medjax.models.config import ModelConfig
from medjax.training import mesh

# Half of the head's two chunks, and all kernels but the norms, have sizes of their own.
LAYERS, WIDTH, FFN, VOCABULARY = 2, 1024, 2048, 16384
CONFIG = ModelConfig(VOCABULARY, WIDTH, LAYERS, 8, 8, 128, FFN, max_positions=1024)
HF = {
  "model_type": "llama",
  "vocab_size": VOCABULARY,
  "hidden_size": WIDTH,
  "num_hidden_layers": LAYERS,
  "num_attention_heads": 8,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "intermediate_size": FFN,
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-5,
  "tie_word_embeddings": False,
}
KERNELS = LAYERS * (4 * WIDTH * 1024 + 3 * WIDTH * FFN)
TABLE = VOCABULARY * WIDTH
WEIGHTS = KERNELS + 2 * TABLE + (2 * LAYERS + 1) * WIDTH


def run(capsys, *argv: str) -> list[dict]:
  assert main.main(["plan", "--quick", "--json", *argv]) == 0, capsys.readouterr().err
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("model")
  (path / "config.json").write_text(json.dumps(HF))
  return str(path)


@pytest.fixture
def programs(monkeypatch):
  """The costs of all programs that are planned meanwhile."""
  found = []

  def counting(*arguments):
    found.append(costs_of(*arguments))
    return found[-1]

  monkeypatch.setattr(plan, "costs_of", counting)
  return found


def check_gradients(found, microbatches=1):
  """No device sums a whole gradient, and the head's is summed a chunk at a time, each chunk once a microbatch."""
  reduced = [one for one in found if one.kind in ("all-reduce", "reduce-scatter", "collective-permute")]
  for one in reduced:
    assert one.kind != "all-reduce" or math.prod(one.shape) not in {WIDTH * 1024, WIDTH * FFN, TABLE, TABLE // 2}, one
    assert one.dtype == "f32", one
  of_head = [one for one in reduced if "PW,PD->WD" in one.source or math.prod(one.shape) in (TABLE, TABLE // 2)]
  assert sum(one.bytes for one in of_head) == pytest.approx(microbatches * 4 * TABLE * 3 / 4, rel=0.02)
  # Kernels: two gathers in bfloat16 and one reduction in float32; the head as they, the embedding not at all.
  least = microbatches * (KERNELS + TABLE) * (2 * 2 + 4) * 3 / 4
  assert 0.9 * least < sum(one.bytes for one in found) < 1.1 * least


def test_a_plan_of_sft(model, capsys, programs):
  (line,) = run(capsys, f"--model={model}", "--method=sft", "--topology=v5litepod-4", "--price=1.2")
  assert (line["topology"], line["chips"], line["batch"], line["sequence"]) == ("v5e:2x2", 4, 4, 1024)
  assert line["fits"] and line["attention"] == "splash"
  # Float32 master weights and two moments, cut in four but for the norms.
  cut = 4 * (KERNELS + 2 * TABLE) // 4 + 4 * (2 * LAYERS + 1) * WIDTH
  assert line["memory"]["weights"] == line["memory"]["gradients"] == cut
  assert line["memory"]["optimizer"] == pytest.approx(2 * cut, rel=1e-6)
  held = sum(line["memory"][kind] for kind in ("weights", "optimizer", "frozen", "reference", "batch", "temporaries"))
  assert held == line["peak_bytes"]
  # Each layer keeps more than its input and less than ten times what it makes.
  stream = 2 * 1024 * WIDTH
  assert LAYERS * stream < line["memory"]["activations"] < 20 * LAYERS * stream
  # Forward and backward once, the head's logits once more, and attention's scores again in each of its two kernels.
  assert 1.0 < 4 * line["flops"] / line["model_flops"] < 1.3
  assert line["step_seconds"]["low"] >= max(line["roofline"].values()) * 0.999
  assert line["step_seconds"]["low"] < line["step_seconds"]["high"]
  assert line["roofline"][line["bound"]] == max(line["roofline"].values())
  tokens = line["tokens_per_second_per_chip"]
  assert tokens["low"] * line["step_seconds"]["high"] == pytest.approx(1025)
  assert line["cost_per_million_tokens"]["low"] == pytest.approx(1.2 / 3600 * 1e6 / tokens["high"])
  assert 0 < line["mfu"]["low"] < line["mfu"]["high"] < 1
  check_gradients(programs[0].collectives)


def test_a_plan_of_dpo_in_microbatches(model, capsys, programs):
  argv = f"--model={model}/config.json", "--method=dpo", "--topology=v5e:2x2", "--answer=65", "--batch=12"
  (line,) = run(capsys, *argv)
  assert (line["rows"], line["microbatches"], line["attention"]) == (4, 3, "pallas")
  assert line["model"] == model, "which training takes, too"
  assert line["memory"]["reference"] == 0
  # The loop over microbatches counts three times: with it the program does what the pairs need, and sends so, too.
  assert 1.0 < 4 * line["flops"] / line["model_flops"] < 1.3
  assert 0.9 < line["collective_bytes"]["sent"] / line["collective_bytes"]["least"] < 1.1
  check_gradients(programs[0].collectives, microbatches=3)


def test_a_plan_of_adapters(model, capsys):
  (line,) = run(capsys, f"--model={model}", "--topology=v5e:2x2", "--config.lora.rank=8", "--config.lora.quantize=int8")
  assert line["memory"]["optimizer"] < line["memory"]["frozen"] / 10
  # Kernels in int8 with a float32 scale for 64 of them, tables in bfloat16.
  assert line["memory"]["frozen"] == pytest.approx((KERNELS * (1 + 4 / 64) + 2 * TABLE * 2) / 4, rel=0.01)


def test_what_does_not_fit_is_no_error(capsys):
  assert main.main(["plan", "--quick", "--model=llama3-8b", "--topology=v5e:2x2"]) == 0
  shown = capsys.readouterr().out
  assert "fits                no: " in shown and "15.75 there" in shown and "medjax train" not in shown


def test_unknown_machines_and_models(capsys, model):
  for argv, words in (
    (("--topology=v9:2x2",), ("v9:2x2", "v5e, v5p")),
    ((), ("--topology is needed",)),
    (("--topology=v5e:2x2", "--answer=2000"), ("--answer is 2000", "1024 tokens")),
    (("--topology=v5e:2x2", "--config.mesh.tensor=3"), ("mesh.tensor=3", "4 devices")),
    (("--topology=v5e:2x2", "--config.model.attention=cudnn"), ("cudnn", "NVIDIA")),
  ):
    assert main.main(["plan", f"--model={model}", *argv]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1 and all(word in shown for word in words), shown


def test_a_search_keeps_what_is_fast_and_fits(monkeypatch):
  config = with_overrides(base_config(), {"model.path": "llama3-8b"})
  topology = topologies.parse("v5e:4x4")

  def planned(config, topology, devices, answer, batch, price, quick):
    """Full remat alone fits, more rows are faster, tensor parallelism is slower, splash is refused."""
    asked.append(config.model.attention)
    if config.model.attention == "splash":
      raise UserError("splash cannot run")
    rate = (config.train.microbatch_rows or 16) / config.mesh.tensor
    return {
      "fits": config.model.remat == "full",
      "peak_bytes": {"full": 1, "products": 2, "none": 3}[config.model.remat],
      "tokens_per_second_per_chip": {"low": rate, "high": rate},
      "batch": batch,
      "attention": "pallas",
    }

  asked = []
  monkeypatch.setattr(plan_search, "plan", planned)
  found = plan_search.search(config, topology, [], compiles=20)
  best = found[0]
  assert "splash" in asked and "pallas" not in asked, "which auto has chosen is not compiled again"
  assert all(candidate.line["fits"] for candidate in found)
  assert best.settings["model.remat"] == "full" and best.settings["train.microbatch_rows"] == 64
  assert best.config.mesh.tensor == 1 and best.line["batch"] == 64
  command = plan.train_flags(best.config, base_config(), 64)
  assert "--config.model.remat=full" in command and "--config.model.path=MODEL" in command
  for candidate in found:
    words = shlex.split(plan.train_flags(candidate.config, base_config(), 64))
    assert words[:3] == ["medjax", "train", "--workdir=RUN"]
    again = verb.load_config(verb.parse("train", train.VERB, words[2:]))
    wanted = with_overrides(candidate.config, {"model.path": "MODEL", "train.batch_size": 64})
    assert as_dict(again) == as_dict(wanted), "what training reads is what was planned"
  assert len(plan_search.search(config, topology, [], compiles=2)) <= 2


def test_model_flops_are_those_of_the_groups():
  config = with_overrides(base_config(), {"method": "dpo"})
  devices = mesh.make_mesh({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})
  work = work_of(config, CONFIG, devices, answer=65)
  assert work.group.prompt and [len(answer) for answer in work.group.completions] == [65, 65]
  assert len(work.group.prompt) + 2 * 64 == work.tokens == 1024
  assert flops.train_flops(CONFIG, [work.group]) > 0
