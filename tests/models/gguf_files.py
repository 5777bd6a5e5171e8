"""GGUF files of random weights, as llama.cpp's converter writes them for each family."""

import dataclasses
import math

import gguf
import numpy as np
import reference_models as reference

from medjax.models.config import LinearScaling, LongRopeScaling, ModelConfig, YarnScaling
from medjax.models.families import gemma2, tensor_slots

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
