"""Tokenizers built from a GGUF file's metadata split and merge as the published ones."""

import itertools

import pytest
import transformers
from gguf_files import write_gguf
from tokenizers import pre_tokenizers

from medjax.models.pretrained import load_config_and_tokenizer
from medjax.models.tokenizers import tokenizer_from_gguf


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


TRICKY = [
  "TSH 12.5 mIU/L, don't",
  "HbA1c=7.5%\n\n\tNa+ 118",
  "caf\u0065\u0301 na\u00efve \u6771\u4eac 3333",
  "  two  spaces \r\n we'LL SEE",
  "x/y//z\n// McDonald's ABCdef",
]


def byte_level_metadata(pre: str, merges: list[str]):
  """A byte-level vocabulary with those merges, and one control token."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = [*letters, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
  values = {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": merges, "eos_token_id": len(tokens) - 1}
  values["token_type"] = [1] * (len(tokens) - 1) + [3]
  return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def test_qwens_tokenizer_is_that_of_transformers():
  """The class of transformers, given the same vocabulary."""
  merges = ["1 2", "Ġ m", "Ġm I", "3 3", "' t", "Ġ Ġ", "S E", "o 'l"][:7]
  metadata = byte_level_metadata("qwen2", merges)
  tokens = metadata["tokenizer.ggml.tokens"]
  theirs = transformers.Qwen2Tokenizer(
    vocab={token: index for index, token in enumerate(tokens)}, merges=[tuple(merge.split()) for merge in merges]
  )
  ours = tokenizer_from_gguf(metadata, "model.gguf")
  for text in TRICKY:
    assert ours(text)["input_ids"] == theirs(text)["input_ids"], text


@pytest.mark.parametrize(
  ("pre", "pieces"),
  [
    ("llama-bpe", ["x", "/y", "//", "z", "\n", "//", " McDonald", "'s", " ABCdef", " ", "333", "3"]),
    ("qwen2", ["x", "/y", "//", "z", "\n", "//", " McDonald", "'s", " ABCdef", " ", "3", "3", "3", "3"]),
    ("gpt-4o", ["x", "/y", "//", "z", "\n", "//", " Mc", "Donald's", " ABCdef", " ", "333", "3"]),
    ("dbrx", ["x", "/y", "//", "z", "\n", "//", " McDonald", "'s", " ABCdef", " ", "333", "3"]),
  ],
)
def test_patterns_of_byte_level_tokenizers(pre, pieces):
  """Where texts are split before merges are looked at, as the patterns of the published tokenizer.json do."""
  backend = tokenizer_from_gguf(byte_level_metadata(pre, []), "model.gguf").backend_tokenizer
  text = "x/y//z\n// McDonald's ABCdef 3333"
  assert [text[slice(*span)] for _, span in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces


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


def test_gemmas_tokenizer_is_that_of_transformers():
  """No space in front, spaces in runs; the class of transformers, given the same vocabulary and merges."""
  metadata = sentencepiece_metadata() | {"tokenizer.ggml.add_space_prefix": False}
  tokens, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores"))
  vocabulary = {token: index for index, token in enumerate(tokens)}
  pieces = dict(zip(tokens[259:], scores[259:], strict=True))
  halves = [(joined[:i], joined[i:]) for joined in pieces for i in range(1, len(joined))]
  merges = [(a, b) for a, b in halves if a in pieces and b in pieces]
  theirs = transformers.GemmaTokenizer(
    vocab=vocabulary, merges=merges, bos_token="<s>", eos_token="</s>", pad_token="</s>", mask_token="<unk>"
  )
  ours = tokenizer_from_gguf(metadata, "model.gguf")
  for text in [*SENTENCES, " the  mg", "the\nthyroid"]:
    got = ours(text, add_special_tokens=False)["input_ids"]
    assert got == theirs(text, add_special_tokens=False)["input_ids"], text
    assert ours.decode(got) == text
