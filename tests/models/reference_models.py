"""Tiny models of every supported variant, and what transformers computes with them."""

import json
import zlib

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

_SMALL = {
  "vocab_size": 61,
  "hidden_size": 32,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 4,
  "max_position_embeddings": 64,
  "rms_norm_eps": 1e-5,
  "rope_theta": 10000.0,
  "tie_word_embeddings": False,
  "hidden_act": "silu",
  "bos_token_id": 1,
  "eos_token_id": None,
}
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_SMALL}
_SCALING = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}

# config.json of each, in the older form that most models on the hub have.
CASES = {
  "llama": _LLAMA,
  "llama_grouped_tied": {**_LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True},
  "llama_wide_heads": {**_LLAMA, "num_key_value_heads": 1, "head_dim": 12, "rope_theta": 500000.0},
  "llama3_scaled": {**_LLAMA, "num_key_value_heads": 2, "rope_scaling": _SCALING},
  "mistral_window": {
    **_SMALL,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "num_key_value_heads": 2,
    "sliding_window": 5,
  },
}
LENGTHS = (40, 29, 7)  # longer than the scaled model's 16 original positions and Mistral's window of 5
PROMPTS = ([1, 17, 42, 5, 9, 33, 20, 8, 60, 11], [3, 4], [7, 7, 7, 58, 30, 21, 2])


def torch_model(case: str) -> torch.nn.Module:
  """The case's model with weights drawn from its name, large enough that a wrong detail shows in the logits."""
  hf = dict(CASES[case])
  rope = {"rope_theta": hf.pop("rope_theta"), **hf.pop("rope_scaling", {"rope_type": "default"})}
  kind = transformers.LlamaConfig if hf["model_type"] == "llama" else transformers.MistralConfig
  config = kind(**hf, rope_parameters=rope)
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
  return model


def weight(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor that depends on case and name only, float32."""
  draw = np.random.default_rng(zlib.crc32(f"{case}/{name}".encode()))
  values = draw.standard_normal(shape)
  return (1 + 0.2 * values if len(shape) == 1 else 0.25 * values).astype(np.float32)


def write_directory(case: str, shapes: dict[str, tuple[int, ...]], path) -> None:
  """A model directory made without torch: config.json as it is in CASES, and one safetensors file."""
  path.mkdir(parents=True, exist_ok=True)
  (path / "config.json").write_text(json.dumps(CASES[case]))
  save_file({name: weight(case, name, shape) for name, shape in shapes.items()}, path / "model.safetensors")


def batch(side: str) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and mask [B, T], padded on one side."""
  draw = np.random.default_rng(5)
  tokens, mask = np.zeros((2, len(LENGTHS), max(LENGTHS)), np.int32)
  for row, length in enumerate(LENGTHS):
    part = slice(0, length) if side == "right" else slice(max(LENGTHS) - length, None)
    tokens[row, part] = draw.integers(0, _SMALL["vocab_size"], length)
    mask[row, part] = 1
  return tokens, mask


def torch_logits(model: torch.nn.Module, tokens: np.ndarray, mask: np.ndarray) -> torch.Tensor:
  """Logits [B, T, V] with positions that follow the mask."""
  mask = torch.from_numpy(mask).long()
  positions = (mask.cumsum(1) - 1).clamp(min=0)
  return model(torch.from_numpy(tokens).long(), attention_mask=mask, position_ids=positions, use_cache=False).logits


def torch_gradients(model: torch.nn.Module, tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
  """Gradients of the mean log-probability of each row's tokens given those before."""
  model.zero_grad()
  logp = torch.log_softmax(torch_logits(model, tokens, mask)[:, :-1], -1)
  targets = torch.from_numpy(tokens).long()[:, 1:, None]
  scored = torch.from_numpy(mask[:, 1:] * mask[:, :-1])
  loss = (logp.gather(2, targets)[..., 0] * scored).sum() / scored.sum()
  loss.backward()
  return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def torch_greedy(model: torch.nn.Module, prompt: list[int], count: int = 16) -> list[int]:
  """Tokens that transformers generates greedily, the prompt not included."""
  ids = torch.tensor([prompt])
  out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0)
  return out[0, len(prompt) :].tolist()
