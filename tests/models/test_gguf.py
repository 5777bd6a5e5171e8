"""GGUF files give the parameters, config and tokenizer of the model they were converted from."""

import dataclasses
import itertools
import math

import gguf
import jax
import numpy as np
import pytest
import reference_models as reference
from named import by_tensor

from medjax.errors import UserError
from medjax.models.config import LinearScaling, Llama3Scaling, LongRopeScaling, ModelConfig, YarnScaling
from medjax.models.families import gemma2, tensor_slots
from medjax.models.gguf import GgufFile
from medjax.models.pretrained import load_config_and_tokenizer, load_pretrained
from medjax.models.rope import frequencies_of
from medjax.models.tokenizers import tokenizer_from_gguf

CONFIG = ModelConfig(300, 64, 2, 4, 2, 16, 96, rope_theta=500000.0, max_positions=128)
_GEMMA = {"head_width": 32, "tied_head": True, "sliding_window": 8, **gemma2.SHARED, "query_scalar": 32}
_LONGROPE = LongRopeScaling((1.0, 1.5, 2.0, 2.5), (1.0, 4.0, 8.0, 16.0), 32, 1.25)

# One of each family, as llama.cpp's converter can write it.
CONFIGS = {
  "llama": CONFIG,
  "qwen2": dataclasses.replace(
    CONFIG, family="qwen2", qkv_bias=True, rope_scaling=YarnScaling(4.0, 32, 0.1 * math.log(4.0) + 1.0)
  ),
  "qwen3": dataclasses.replace(CONFIG, family="qwen3", qk_norm=True, head_width=32),
  "gemma2": dataclasses.replace(
    CONFIG,
    family="gemma2",
    rope_theta=10000.0,
    pattern=("sliding", "global"),
    attention_softcap=50.0,
    logit_softcap=30.0,
    **_GEMMA,
  ),
  "gemma3": dataclasses.replace(
    CONFIG,
    family="gemma3_text",
    num_layers=7,
    pattern=("sliding",) * 5 + ("global",),
    local_rope_theta=10000.0,
    rope_scaling=LinearScaling(8.0),
    qk_norm=True,
    **_GEMMA,
  ),
  "phi3": dataclasses.replace(CONFIG, family="phi3", sliding_window=8, rope_scaling=_LONGROPE, rotary_width=8),
  "smollm3": dataclasses.replace(CONFIG, family="smollm3", num_layers=5, pattern=("global",) * 3 + ("nope",)),
}

DEQUANTIZED = sorted(kind.name for kind in gguf.quants._type_traits)

# A byte alphabet, a few merges over it, then two control tokens.
ALPHABET = [chr(i) for i in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
MERGES = ["m g", "Ġ m", "1 2", "Ġ Ġ", "Ċ Ċ"]


def llama_cpp_rows(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows of q or k as llama.cpp's converter writes them in some families."""
  split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
  return split.swapaxes(1, 2).reshape(rows.shape)


def as_converted(name: str, values: np.ndarray, config: ModelConfig) -> np.ndarray:
  """A tensor of Hugging Face as llama.cpp's converter writes it."""
  if config.family in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
    return llama_cpp_rows(values, config.num_heads if "q_proj" in name else config.num_kv_heads)
  return values + 1 if config.family.startswith("gemma") and name.endswith("norm.weight") else values


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
  """Keys of the model; those of one family are what its class in llama.cpp's conversion adds."""
  writer.add_block_count(config.num_layers)
  writer.add_context_length(config.max_positions)
  writer.add_embedding_length(config.width)
  writer.add_feed_forward_length(config.ffn_width)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  if config.family != "gemma2":
    writer.add_rope_freq_base(config.rope_theta)
  if config.family in ("llama", "smollm3", "phi3"):
    writer.add_rope_dimension_count(config.rotated)
  if config.head_width != config.width // config.num_heads:
    writer.add_key_length(config.head_width)
  if config.sliding_window:
    writer.add_sliding_window(config.sliding_window)
  if config.family == "gemma2":
    writer.add_attn_logit_softcapping(config.attention_softcap)
    writer.add_final_logit_softcapping(config.logit_softcap)
  match config.rope_scaling:
    case LinearScaling(factor):
      writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
      writer.add_rope_scaling_factor(factor)
    case YarnScaling(factor, original):
      writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
      writer.add_rope_scaling_factor(factor)
      writer.add_rope_scaling_orig_ctx_len(original)
    case LongRopeScaling(short, long, original, attention_factor):
      writer.add_rope_scaling_orig_ctx_len(original)
      writer.add_rope_scaling_attn_factors(attention_factor)
      writer.add_tensor("rope_factors_short.weight", np.asarray(short, np.float32))
      writer.add_tensor("rope_factors_long.weight", np.asarray(long, np.float32))


def write_gguf(path, config=CONFIG, kind="F32", pre="smollm", change=None, extra=(), tokens=None):
  """A model file of random weights named as in reference_models; `change` edits metadata, `extra` adds tensors."""
  architecture = "gemma3" if config.family == "gemma3_text" else config.family
  writer = gguf.GGUFWriter(path, architecture)
  add_metadata(writer, config)
  merged = [merge.replace(" ", "") for merge in MERGES]
  filler = [f"filler{i}" for i in range(config.vocab_size - len(ALPHABET) - len(merged) - 2)]
  tokens = tokens or [*ALPHABET, *merged, *filler, "<s>", "</s>"]
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
  writer.add_token_merges(MERGES)
  writer.add_bos_token_id(len(tokens) - 2)
  writer.add_eos_token_id(len(tokens) - 1)
  if change:
    change(writer)
  kind = gguf.GGMLQuantizationType[kind]
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_layers)
  for name, shape in {slot.tensor: slot.shape for slot in tensor_slots(config)}.items():
    values = as_converted(name, reference.weight("gguf", name, shape), config)
    ours = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
    renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
    writer.add_tensor(renamed, gguf.quantize(values, ours), raw_dtype=ours)
  for name, values in extra:
    writer.add_tensor(name, values)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


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


def test_pre_tokenizers_split_as_named(tmp_path):
  text = "1212  12mg\n\n12 mg"
  pieces = {}
  for pre in ("smollm", "gpt-2", "llama-bpe"):
    tokenizer = load_config_and_tokenizer(str(write_gguf(tmp_path / f"{pre}.gguf", pre=pre))).tokenizer
    pieces[pre] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]
  one, two, mg, space_m = "1", "2", "mg", "Ġm"
  assert pieces["smollm"] == [one, two, one, two, "ĠĠ", one, two, mg, "ĊĊ", one, two, "Ġ", mg]
  assert pieces["gpt-2"] == ["12", "12", "Ġ", "Ġ", "12", mg, "Ċ", "Ċ", "12", "Ġ", mg]
  assert pieces["llama-bpe"] == ["<s>", "12", one, two, "Ġ", "Ġ", "12", mg, "ĊĊ", "12", "Ġ", mg]
  assert space_m not in pieces["gpt-2"], "mg merges before Ġm"


SENTENCES = ["the thyroid", "TSH 4.5 mIU/L", "µg é 東", "a  b", "mg mg", "hyperthyroid hypothyroid the"]


def sentencepiece_metadata():
  """A Llama-2-like vocabulary: unknown, BOS, EOS, bytes, pieces by falling score."""
  pieces = ["th", "he", "▁t", "▁the", "roid", "ro", "id", "yro", "▁m", "▁mg", "hyp", "yp", "▁a", "er", "▁▁"]
  letters = sorted(set("".join(SENTENCES).replace(" ", "▁") + "▁") - set("µé東"))
  tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces, *letters]
  kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) + len(letters))]
  scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) + len(letters))]
  values = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": kinds}
  values |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
  return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def greedy_pieces(text: str, metadata) -> list[str]:
  """SentencePiece's rule, plainly: join the neighbours of the best score, leftmost first, until none is left."""
  scores = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"], strict=True))
  pieces = list("▁" + text.replace(" ", "▁"))
  while True:
    joins = [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in scores]
    if not joins:
      break
    _, i = min(joins)
    pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
  spelled = [[p] if p in scores else [f"<0x{byte:02X}>" for byte in p.encode()] for p in pieces]
  return [piece for group in spelled for piece in group]


def test_sentencepiece_merges_by_score():
  metadata = sentencepiece_metadata()
  tokenizer = tokenizer_from_gguf(metadata, "model.gguf")
  for text in SENTENCES:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *greedy_pieces(text, metadata)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


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
