"""GGUF files give the parameters and config of the model they were converted from, or one clear line."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest
import reference_models as reference
from gguf_files import CONFIG, CONFIGS, write_gguf
from named import by_tensor

from medjax.errors import UserError
from medjax.models.config import Llama3Scaling
from medjax.models.gguf import GgufFile
from medjax.models.pretrained import load_config_and_tokenizer, load_pretrained
from medjax.models.rope import frequencies_of

DEQUANTIZED = sorted(kind.name for kind in gguf.quants._type_traits)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


def assert_converted(loaded, config, tolerance=0.0):
  """Config and weights are those that the file was converted from."""
  assert loaded.config.norm_eps == pytest.approx(config.norm_eps)
  assert approximately(dataclasses.asdict(loaded.config)) == approximately(dataclasses.asdict(config))
  for name, values in by_tensor(loaded.params, config).items():
    wanted = reference.weight("gguf", name, values.shape)
    assert np.abs(values - wanted).max() <= tolerance * np.abs(wanted).max() + 1e-6, name


def approximately(value):
  """Numbers of nested dicts to six digits: a file holds float32."""
  if isinstance(value, dict):
    return {key: approximately(inner) for key, inner in value.items()}
  if isinstance(value, tuple):
    return tuple(map(approximately, value))
  return float(f"{value:.6g}") if isinstance(value, float) else value


@pytest.mark.parametrize(
  ("kind", "tolerance"), [("F32", 0), ("F16", 1e-3), ("BF16", 4e-3), ("Q8_0", 5e-3), ("Q4_1", 0.08)]
)
def test_parameters_are_those_of_the_converted_model(tmp_path, kind, tolerance):
  assert_converted(load_pretrained(str(write_gguf(tmp_path / "model.gguf", kind=kind))), CONFIG, tolerance)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_family(tmp_path, name):
  assert_converted(load_pretrained(str(write_gguf(tmp_path / "model.gguf", CONFIGS[name]))), CONFIGS[name])


def test_gguf_of_the_largest_gemmas_divides_queries_by_another_number(tmp_path):
  config = dataclasses.replace(CONFIGS["gemma2"], num_layers=46)
  path = write_gguf(tmp_path / "model.gguf", config)
  assert load_config_and_tokenizer(str(path)).config.query_scalar == config.width / config.num_heads


@pytest.mark.parametrize("kind", DEQUANTIZED)
def test_every_quantization_that_the_package_reads(tmp_path, kind):
  """Blocks of any bytes; read in parts, they are what the package makes of the whole."""
  kind = gguf.GGMLQuantizationType[kind]
  block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  raw = np.random.default_rng(0).integers(0, 256, (6, 2 * block_bytes)).astype(np.uint8)
  writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
  writer.add_tensor("x", raw, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with np.errstate(all="ignore"):
    wanted = gguf.dequantize(raw, kind)
    file = GgufFile(tmp_path / "model.gguf")
    assert file.shapes["x"] == (6, 2 * block)
    got = file.read("x", (slice(2, 5), slice(7, 2 * block - 3)))
  np.testing.assert_array_equal(got, wanted[2:5, 7 : 2 * block - 3])


def test_without_an_output_tensor_the_head_is_tied(tmp_path):
  config = dataclasses.replace(CONFIG, tied_head=True)
  loaded = load_pretrained(str(write_gguf(tmp_path / "model.gguf", config)), dtype="bfloat16")
  assert loaded.config.tied_head and "head" not in loaded.params
  assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"bfloat16"}


def test_llama3_scaling_is_recognised_and_others_refused(tmp_path):
  scaling = Llama3Scaling(32.0, 1.0, 4.0, 8192)
  scaled, _ = frequencies_of(dataclasses.replace(CONFIG, rope_scaling=scaling), "global")
  factors = np.asarray(frequencies_of(CONFIG, "global")[0] / scaled, np.float32)
  assert len(set(factors.tolist())) > 2, "needs a blended frequency to be a test"
  path = write_gguf(tmp_path / "scaled.gguf", extra=[("rope_freqs.weight", factors)])
  assert load_config_and_tokenizer(str(path)).config.rope_scaling == scaling
  path = write_gguf(tmp_path / "other.gguf", extra=[("rope_freqs.weight", factors * 1.1)])
  with pytest.raises(UserError, match="rope_freqs.weight is no scaling"):
    load_config_and_tokenizer(str(path))


REFUSED = {
  "architecture": (lambda w: w.add_string("general.architecture", "gpt2"), "general.architecture = 'gpt2'"),
  "experts": (lambda w: w.add_expert_count(8), "llama.expert_count"),
  "scaling": (lambda w: w.add_string("llama.rope.scaling.type", "ntk"), "llama.rope.scaling.type = 'ntk'"),
  "partial rotary": (lambda w: w.add_rope_dimension_count(8), "8 rotated columns"),
  "split": (lambda w: w.add_uint16("split.count", 3), "one part of 3"),
  "pre-tokenizer": (lambda w: w.add_tokenizer_pre("strange"), "tokenizer.ggml.pre = 'strange'"),
  "tokenizer": (lambda w: w.add_tokenizer_model("t5"), "tokenizer.ggml.model = 't5'"),
  "eos": (lambda w: w.add_eos_token_id(70000), "tokenizer.ggml.eos_token_id = 70000"),
  "misshapen": (lambda w: w.add_feed_forward_length(64), r"tensor blk.0.ffn_gate.weight has shape \[96, 64\]"),
  "missing": (lambda w: w.add_block_count(3), "tensor blk.2.attn_norm.weight is missing"),
  "extra": (lambda w: w.add_block_count(1), "tensor blk.1.* is unknown"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_with_the_key_or_tensor_named(fault, tmp_path):
  change, message = REFUSED[fault]
  # The writer warns on a second value of a key and refuses none; the last one wins.
  path = write_gguf(tmp_path / "model.gguf", change=change)
  with pytest.raises(UserError, match=message) as error:
    load_pretrained(str(path))
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_unknown_quantization_is_named(good, tmp_path):
  name = b"blk.0.ffn_up.weight"
  data = bytearray(good.read_bytes())
  at = data.index(name) + len(name) + 4 + 2 * 8  # rank, two sizes, then the type
  for number, message in ((99, "quantization number 99"), (gguf.GGMLQuantizationType.I8, "quantization I8")):
    data[at : at + 4] = int(number).to_bytes(4, "little")
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"tensor blk.0.ffn_up.weight has {message}"):
      load_pretrained(str(path))


def test_every_truncation_is_noticed(good, tmp_path):
  data = good.read_bytes()
  path = tmp_path / "cut.gguf"
  for size in [*range(0, 64), *range(64, len(data), len(data) // 150), len(data) - 33]:
    path.write_bytes(data[:size])
    with pytest.raises(UserError, match="cut.gguf.*(download it again|empty)") as error:
      GgufFile(path)
    assert "\n" not in str(error.value)


def test_damaged_headers_never_end_in_another_error(good, tmp_path):
  data = good.read_bytes()
  header = data.index(b"blk.1.ffn_down.weight") + 60
  draw = np.random.default_rng(0)
  path = tmp_path / "damaged.gguf"
  outcomes = {"refused": 0, "loaded": 0}
  for _ in range(300):
    damaged = bytearray(data)
    damaged[draw.integers(4, header)] = draw.integers(256)
    path.write_bytes(damaged)
    try:
      load_pretrained(str(path))
      outcomes["loaded"] += 1
    except UserError as error:
      outcomes["refused"] += 1
      assert str(path) in str(error) and "\n" not in str(error)
  assert min(outcomes.values()) > 10, outcomes
