"""A tiny random Llama with a byte-level tokenizer and a chat template, as a Hugging Face directory."""

import importlib.util
import pathlib

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# For tests of what the drawn model happens to say.
drawn_by_torch = pytest.mark.skipif(
  importlib.util.find_spec("torch") is None, reason="numpy draws other weights than torch, which is not installed"
)
SETTINGS = dict(
  vocab_size=264,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=64,
  max_position_embeddings=512,
  initializer_range=0.1,
  eos_token_id=2,
  bos_token_id=1,
)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
  """One token a byte, three special tokens; pad = eos."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters])}
  bpe = Tokenizer(models.BPE(vocabulary, []))
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token="<|im_start|>",
    eos_token="<|im_end|>",
    pad_token="<|im_end|>",
    additional_special_tokens=["<|endoftext|>"],
    chat_template=TEMPLATE,
  )


def write_model(path: pathlib.Path, seed: int = 0, **changes) -> pathlib.Path:
  """Saves the model and its tokenizer in `path`; `changes` go into its transformers.LlamaConfig.

  Where torch is not installed numpy draws the weights.
  """
  if importlib.util.find_spec("torch") is None:
    return write_without_torch(path, seed, **changes)
  import torch

  torch.manual_seed(seed)
  transformers.LlamaForCausalLM(transformers.LlamaConfig(**SETTINGS | changes)).save_pretrained(path)
  tokenizer().save_pretrained(path)
  return path


def write_without_torch(path: pathlib.Path, seed: int = 0, **changes) -> pathlib.Path:
  """Saves a model of the same shape, with weights that numpy draws, and the tokenizer."""
  about = {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
  config = transformers.LlamaConfig(**SETTINGS | about | changes)
  config.save_pretrained(path)
  draw = np.random.default_rng(seed)
  weights = {name: _initial(draw, shape, config.initializer_range) for name, shape in _shapes(config)}
  save_file(weights, path / "model.safetensors", {"format": "pt"})
  tokenizer().save_pretrained(path)
  return path


def _shapes(config: transformers.LlamaConfig):
  """Names and shapes of a Llama's tensors."""
  width, ffn, head = config.hidden_size, config.intermediate_size, config.head_dim
  queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
  yield "model.embed_tokens.weight", (config.vocab_size, width)
  for layer in range(config.num_hidden_layers):
    block = f"model.layers.{layer}"
    yield f"{block}.input_layernorm.weight", (width,)
    yield f"{block}.self_attn.q_proj.weight", (queries, width)
    yield f"{block}.self_attn.k_proj.weight", (keys, width)
    yield f"{block}.self_attn.v_proj.weight", (keys, width)
    yield f"{block}.self_attn.o_proj.weight", (width, queries)
    yield f"{block}.post_attention_layernorm.weight", (width,)
    yield f"{block}.mlp.gate_proj.weight", (ffn, width)
    yield f"{block}.mlp.up_proj.weight", (ffn, width)
    yield f"{block}.mlp.down_proj.weight", (width, ffn)
  yield "model.norm.weight", (width,)
  if not config.tie_word_embeddings:
    yield "lm_head.weight", (config.vocab_size, width)


def _initial(draw: np.random.Generator, shape: tuple[int, ...], spread: float) -> np.ndarray:
  """Norms are 1, all else is drawn."""
  return np.ones(shape, np.float32) if len(shape) == 1 else draw.normal(0, spread, shape).astype(np.float32)
