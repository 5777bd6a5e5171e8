"""A workload as files that every library reads: a model directory and rows of text, of known lengths in tokens.

Usage: python tests/peers/workload_files.py --workload=clinical --rows=400 --output=DIR

DIR gets `model` (random float32 weights of a small Llama with SmolLM2's tokenizer), `sft.jsonl` (prompt, completion),
`dpo.jsonl` (prompt, chosen, rejected) and `text.jsonl` (text). Words are tokens that the tokenizer keeps whole.
"""

import argparse
import json
import pathlib
import random
import re

import torch
import transformers

from medjax.hardware.workloads import WORKLOADS, lengths
from medjax.models.pretrained import load_config_and_tokenizer

# The model of the comparison: small enough for two cores, with a real vocabulary.
SHAPE = {
  "vocab_size": 49152,
  "hidden_size": 384,
  "num_hidden_layers": 8,
  "num_attention_heads": 6,
  "num_key_value_heads": 2,
  "intermediate_size": 1024,
  "max_position_embeddings": 2048,
  "tie_word_embeddings": True,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 2,
}


def write_model(path: pathlib.Path):
  """The model's directory; gives its tokenizer."""
  torch.manual_seed(0)
  transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(path)
  tokenizer = load_config_and_tokenizer("embedded:smollm2-135m").tokenizer
  tokenizer.save_pretrained(path)
  return tokenizer


def write_rows(folder: pathlib.Path, tokenizer, name: str, rows: int) -> None:
  """The three files of rows."""
  words = sorted(word for word in tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]{3,}", word))
  draw = random.Random(0)

  def text(tokens: int) -> str:
    return "".join(" " + draw.choice(words)[1:] for _ in range(tokens))

  workload = WORKLOADS[name]
  made = {
    "sft": [
      {"prompt": text(prompt), "completion": text(answer)} for prompt, (answer,) in lengths(workload, 1, rows, 0)
    ],
    "dpo": [
      {"prompt": text(prompt), "chosen": text(chosen), "rejected": text(rejected)}
      for prompt, (chosen, rejected) in lengths(workload, 2, rows, 0)
    ],
  }
  made["text"] = [{"text": row["prompt"] + row["completion"]} for row in made["sft"]]
  for kind, lines in made.items():
    (folder / f"{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert len(tokenizer(made["text"][0]["text"])["input_ids"]) == sum(
    len(tokenizer(made["sft"][0][key])["input_ids"]) for key in ("prompt", "completion")
  )


def labels_of(tokenizer) -> tuple[tuple[int, ...], ...]:
  """Eight labels of 1 to 4 tokens, as ids."""
  texts = [" low", " normal", " high", " critical", " not known", " very low", " very high", " to be seen again"]
  return tuple(tuple(tokenizer(text)["input_ids"]) for text in texts)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--workload", choices=WORKLOADS, default="clinical")
  parser.add_argument("--rows", type=int, default=400)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  arguments.output.mkdir(parents=True, exist_ok=True)
  write_rows(arguments.output, write_model(arguments.output / "model"), arguments.workload, arguments.rows)


if __name__ == "__main__":
  main()
