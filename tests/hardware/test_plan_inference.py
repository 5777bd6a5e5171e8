"""Decoding and label scoring as the TPU's own compiler makes them, on models so small that it is done in seconds."""

import json
import math

import jax
import pytest

from medjax.cli import main
from medjax.evaluation import decode
from medjax.hardware import topologies
from medjax.hardware.plan_program import compile_lowered, placed
from medjax.hardware.program_costs import costs_of
from medjax.hardware.program_text import parse
from medjax.models.config import ModelConfig
from medjax.models.decoder import build, weight_bytes, weight_shapes
from medjax.training import mesh

LAYERS, WIDTH, FFN, VOCABULARY = 2, 512, 1024, 8192
ROWS, PROMPT, NEW = 16, 384, 128
HF = {
  "model_type": "llama",
  "vocab_size": VOCABULARY,
  "hidden_size": WIDTH,
  "num_hidden_layers": LAYERS,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 64,
  "intermediate_size": FFN,
  "max_position_embeddings": 512,
  "rms_norm_eps": 1e-5,
  "tie_word_embeddings": True,
}


def plan(capsys, tmp_path, *argv: str) -> dict:
  (tmp_path / "config.json").write_text(json.dumps(HF))
  assert main.main(["plan", f"--model={tmp_path}", "--topology=v5e:2x2", "--quick", "--json", *argv]) == 0
  return json.loads(capsys.readouterr().out)


def test_a_plan_of_decoding(capsys, tmp_path):
  line = plan(capsys, tmp_path, "--method=decode", "--batch=15")
  assert line["fits"] and line["method"] == "decode"
  assert (line["batch"], line["sequence"], line["answer"]) == (15, 512, 128)
  assert line["mesh"] == {"data": 1, "fsdp": 1, "tensor": 4, "sequence": 1}
  kernels = LAYERS * (2 * WIDTH * 512 + 2 * WIDTH * 256 + 3 * WIDTH * FFN)
  weights, cache = 2 * (kernels + VOCABULARY * WIDTH) / 4, 2 * 2 * LAYERS * 15 * 4 * 64 * 512 / 4
  assert line["memory"]["weights"] == pytest.approx(weights, rel=0.02)
  assert line["memory"]["cache"] == pytest.approx(cache, rel=0.1)
  # A token reads the weights and the cache once; of so small a model some stay on the chip.
  assert 0.7 * (weights + cache) < line["bytes_read"] < 1.1 * (weights + cache)
  # Hidden states of 15 rows are sent, twice a layer and once embedded; of the logits only the best of each part.
  assert {one["kind"] for one in line["collectives"]} == {"all-reduce", "all-gather"}
  reduced = sum(one["bytes"] for one in line["collectives"] if one["kind"] == "all-reduce")
  assert reduced == pytest.approx((2 * LAYERS + 1) * 15 * WIDTH * 2 * 2 * 3 / 4, rel=0.1)
  assert line["collective_bytes"]["gathered"] < 1000


def test_a_plan_of_scoring(capsys, tmp_path):
  line = plan(capsys, tmp_path, "--method=score")
  assert line["fits"] and (line["batch"], line["answer"]) == (4, 8)
  assert line["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1, "sequence": 1}
  assert line["collective_bytes"]["sent"] < 1000, "each device has all weights and rows of its own"
  assert line["memory"]["weights"] < line["bytes_read"]


def test_settings_of_train_steps_are_refused(capsys):
  argv = ["plan", "--model=llama3.2-1b", "--method=decode", "--topology=v5e:2x2"]
  assert main.main([*argv, "--price=1.2"]) == 2
  assert "--method=decode" in capsys.readouterr().err
  assert main.main([*argv, "--answer=100000"]) == 2
  assert "--answer is 100000" in capsys.readouterr().err


@pytest.fixture(scope="module", params=[64, 128], ids=["narrow heads", "wide heads"])
def token(request):
  """(the program that goes on token by token, the mesh, and of a device the shapes of weights and a layer's keys)."""
  config = ModelConfig(VOCABULARY, WIDTH, LAYERS, 8, 4, request.param, FFN, max_positions=512)
  given = mesh.make_mesh(
    {"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1}, topologies.compile_devices(topologies.parse("v5e:2x2"))
  )
  devices = mesh.for_inference(given, config, weight_bytes(config, "bfloat16"), 16e9, decodes=True)
  with jax.set_mesh(devices):
    params = weight_shapes(config, "bfloat16")
    params = placed(params, mesh.parameter_shardings(params, devices))
    graph = build(config, "bfloat16")
    _, going_on, cache = decode.lower(graph, params, config, "bfloat16", devices, ROWS, PROMPT, NEW)
    text, _, fits = compile_lowered(going_on, quick=False)
  assert fits
  keys = cache.k_LBKEC
  shapes = [x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(params)]
  return parse(text), devices, shapes, keys.sharding.shard_shape(keys.shape)[1:]


def test_no_weight_is_gathered_or_cast(token):
  """Neither for each token nor before the first one."""
  program, devices, shapes, _ = token
  least = min(math.prod(shape[1:]) for shape in shapes if len(shape) > 2)  # of a kernel of one layer
  for one in costs_of(program, dict(devices.shape)).collectives:
    assert math.prod(one.shape) < least, one
  for op, computation, _, _ in program.executed():
    for inner, around in ((op, computation), *program.inside(op)):
      if inner.kind == "convert" and inner.arrays[0].dtype == "bf16":
        read = around[inner.operands[0]].arrays[0]
        assert read.dtype != "f32" or math.prod(inner.arrays[0].shape) < least, inner


def test_the_cache_is_read_in_place(token):
  """No operation makes keys or values of a layer; the stack of all layers is written where it is."""
  program, _, _, keys_of_layer = token
  once, of_layer = program.loop(), math.prod(keys_of_layer)
  for op, _, _, _ in once.executed():
    if op.kind in ("parameter", "tuple", "get-tuple-element", "while", "bitcast"):
      continue
    for array in op.arrays:
      assert math.prod(array.shape) != of_layer, f"a copy of a layer's keys or values: {op.name} ({op.kind})"
      if math.prod(array.shape) >= LAYERS * of_layer:
        made_of = op.kind, *(inner.kind for inner, _ in once.inside(op))
        assert "dynamic-update-slice" in made_of, f"a copy of the cache: {op.name} ({op.kind})"
