"""Tiny models of every family and variant, and what transformers computes with them; torch only where it computes."""

import json
import zlib

import numpy as np
import transformers
from safetensors.numpy import save_file

SIZES = {
  "vocab_size": 61,
  "hidden_size": 32,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "tie_word_embeddings": False,
  "bos_token_id": 1,
  "eos_token_id": None,
  "pad_token_id": None,
}
_LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# A rotary width of 6 of 8 columns, as Phi-4-mini rotates 96 of 128.
_LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 2.5, 4.0]}


def _config(model_type: str, architecture: str, **keys) -> dict:
  return {"architectures": [architecture], "model_type": model_type, **SIZES, **keys}


def _llama(**keys) -> dict:
  return _config("llama", "LlamaForCausalLM", rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", **keys)


def _gemma3(**keys) -> dict:
  return _config("gemma3_text", "Gemma3ForCausalLM", **{"head_dim": 8, "tie_word_embeddings": True, **keys})


# config.json of each, in the form that most models on the hub have. Windows are shorter than the texts.
CASES = {
  "llama": _llama(num_key_value_heads=4),
  "llama_grouped_tied": _llama(tie_word_embeddings=True),
  "llama_wide_heads": _llama(num_key_value_heads=1, head_dim=12) | {"rope_theta": 500000.0},
  "llama_biased": _llama(attention_bias=True, rope_scaling={"type": "linear", "factor": 2.0}),
  "llama3_scaled": _llama(rope_scaling=_LLAMA3),
  "mistral_window": _config("mistral", "MistralForCausalLM", rms_norm_eps=1e-5, rope_theta=1e4, sliding_window=5),
  "mistral_plain": _config("mistral", "MistralForCausalLM", rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None),
  "qwen2": _config("qwen2", "Qwen2ForCausalLM", rope_theta=1e6, tie_word_embeddings=True),
  "qwen2_yarn_window": _config(
    "qwen2",
    "Qwen2ForCausalLM",
    rope_theta=1e6,
    rope_scaling=_YARN,
    use_sliding_window=True,
    sliding_window=5,
    max_window_layers=1,
  ),
  "qwen3": _config("qwen3", "Qwen3ForCausalLM", head_dim=12, rope_theta=1e6),
  "gemma2": _config(
    "gemma2",
    "Gemma2ForCausalLM",
    head_dim=8,
    tie_word_embeddings=True,
    sliding_window=5,
    query_pre_attn_scalar=12,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=6.0,
    hidden_activation="gelu_pytorch_tanh",
    num_hidden_layers=4,
  ),
  "gemma3": _gemma3(
    sliding_window=5,
    sliding_window_pattern=3,
    num_hidden_layers=5,
    query_pre_attn_scalar=12,
    rope_scaling={"rope_type": "linear", "factor": 8.0},
    rope_theta=1e5,
    rope_local_base_freq=1e3,
  ),
  "phi3": _config("phi3", "Phi3ForCausalLM", rms_norm_eps=1e-5, sliding_window=5, num_key_value_heads=4),
  "phi4_mini": _config(
    "phi3",
    "Phi3ForCausalLM",
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    partial_rotary_factor=0.75,
    original_max_position_embeddings=24,
    max_position_embeddings=96,
    rope_scaling=_LONGROPE,
  ),
  "smollm3": _config(
    "smollm3", "SmolLM3ForCausalLM", rope_theta=1e6, no_rope_layers=[1, 0, 1, 0, 1], num_hidden_layers=5
  ),
}
LENGTHS = (40, 29, 7)  # longer than the scaled models' original positions, and than windows of 5
# The last is longer than windows and original positions, the others are not with what is generated.
PROMPTS = ([1, 17, 42, 5, 9, 33, 20, 8], [3, 4], [7, 7, 7, 58, 30, 21, 2], [*range(5, 50, 2)] + [9, 8, 3, 40, 11, 6])


def torch_model(case: str) -> "torch.nn.Module":
  """The case's model with weights drawn from its name, large enough that a wrong detail shows in the logits."""
  import torch

  values = {key: value for key, value in CASES[case].items() if key not in ("architectures", "model_type")}
  config = transformers.CONFIG_MAPPING[CASES[case]["model_type"]](**values)
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
  return model


def weight(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor that depends on case and name only, float32."""
  draw = np.random.default_rng(zlib.crc32(f"{case}/{name}".encode()))
  values = draw.standard_normal(shape)
  if len(shape) > 1:
    # Under a tied head an embedding as large as the layers would repeat the last token for ever.
    is_tied = CASES.get(case, {}).get("tie_word_embeddings") and "embed" in name
    return ((0.18 if is_tied else 0.25) * values).astype(np.float32)
  offset = 0 if "bias" in name else 1
  if "gemma" in case:  # its norms multiply by 1 + scale
    offset = 3 if "post_" in name else 0
  return (offset + 0.2 * values).astype(np.float32)


def write_directory(case: str, shapes: dict[str, tuple[int, ...]], path) -> None:
  """A model directory made without torch: config.json as it is in CASES, and one safetensors file."""
  path.mkdir(parents=True, exist_ok=True)
  (path / "config.json").write_text(json.dumps(CASES[case]))
  save_file({name: weight(case, name, shape) for name, shape in shapes.items()}, path / "model.safetensors")


def batch(side: str, lengths: tuple[int, ...] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and mask [B, T], padded on one side."""
  draw = np.random.default_rng(5)
  tokens, mask = np.zeros((2, len(lengths), max(lengths)), np.int32)
  for row, length in enumerate(lengths):
    part = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
    tokens[row, part] = draw.integers(0, SIZES["vocab_size"], length)
    mask[row, part] = 1
  return tokens, mask


def torch_logits(model: "torch.nn.Module", tokens: np.ndarray, mask: np.ndarray) -> "torch.Tensor":
  """Logits [B, T, V] with positions that follow the mask, each row computed alone.

  Rows go alone since LongRoPE in transformers chooses the frequencies of all rows by the longest.
  """
  import torch

  rows = []
  for row_tokens, row_mask in zip(tokens, mask, strict=True):
    row_mask = torch.from_numpy(row_mask[None]).long()
    positions = (row_mask.cumsum(1) - 1).clamp(min=0)
    ids = torch.from_numpy(row_tokens[None]).long()
    rows.append(model(ids, attention_mask=row_mask, position_ids=positions, use_cache=False).logits)
  return torch.cat(rows)


def torch_gradients(model: "torch.nn.Module", tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
  """Gradients of the mean log-probability of each row's tokens given those before."""
  import torch

  model.zero_grad()
  logp = torch.log_softmax(torch_logits(model, tokens, mask)[:, :-1], -1)
  targets = torch.from_numpy(tokens).long()[:, 1:, None]
  scored = torch.from_numpy(mask[:, 1:] * mask[:, :-1])
  loss = (logp.gather(2, targets)[..., 0] * scored).sum() / scored.sum()
  loss.backward()
  return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def torch_greedy(model: "torch.nn.Module", prompt: list[int], count: int = 16) -> list[int]:
  """Tokens that transformers generates greedily, the prompt not included."""
  import torch

  ids = torch.tensor([prompt])
  out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0)
  return out[0, len(prompt) :].tolist()
