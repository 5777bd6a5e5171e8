"""A tiny random Llama with a byte-level tokenizer and a chat template, as a Hugging Face directory."""

import pathlib

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
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
  """Saves the model and its tokenizer in `path`; `changes` go into its transformers.LlamaConfig."""
  settings = dict(
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
  torch.manual_seed(seed)
  transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings | changes)).save_pretrained(path)
  tokenizer().save_pretrained(path)
  return path
