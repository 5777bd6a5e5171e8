"""Tokenizers: of a Hugging Face directory, and built from a GGUF file's metadata. No torch in either."""

import pathlib
from collections.abc import Mapping
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.tokenization_utils_base import generate_merges

from medjax.errors import UserError

_DIRECTORY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "tekken.json")

# Kinds of token in `tokenizer.ggml.token_type` (llama.cpp, enum llama_token_type).
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4

# Patterns of tokenizer.json by `tokenizer.ggml.pre`: words, digits in threes or one by one, punctuation, spaces.
_ENDINGS, _REST = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
  rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
  rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
)
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
_PATTERNS = {
  **dict.fromkeys((*_LLAMA3_NAMES, "dbrx"), _LLAMA3),  # Llama 3, SmolLM3; Phi-4
  **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
  "gpt-4o": _GPT4O,  # Phi-4-mini
}


def tokenizer_from_directory(path: pathlib.Path) -> Any | None:
  """The tokenizer of a Hugging Face directory, None where it holds none; nothing is fetched, no code of it runs.

  Raises:
    UserError: tokenizer files that transformers cannot read.
  """
  if not any((path / name).exists() for name in _DIRECTORY_FILES):
    return None
  try:
    return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
  except Exception as error:  # transformers and tokenizers raise every kind, bare Exception among them
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"{path}: its tokenizer cannot be read ({reason}); copy the model's tokenizer.json there"
    ) from error


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str) -> transformers.PreTrainedTokenizerFast:
  """The tokenizer that a GGUF file describes: byte-level BPE (`gpt2`) or SentencePiece's BPE (`llama`).

  Control tokens are special tokens, user-defined ones are kept whole, `pad` is EOS where the file names none, and the
  file's chat template comes along.

  Raises:
    UserError: a kind of tokenizer or of pre-tokenizer that medjax does not have, or missing metadata.
  """

  def get(key, default=None):
    return metadata.get(f"tokenizer.ggml.{key}", default)

  tokens = get("tokens")
  if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
    raise UserError(f"{where}: tokenizer.ggml.tokens is missing; use the model's Hugging Face directory")
  kind = get("model")
  if kind not in ("gpt2", "llama"):
    raise UserError(
      f"{where}: tokenizer.ggml.model = {kind!r} is not supported; use the model's Hugging Face directory"
    )
  backend, add_bos = (_byte_level if kind == "gpt2" else _sentencepiece)(get, tokens, where)
  kinds = _kinds(get, tokens, where)
  for number, special in ((_CONTROL, True), (_USER_DEFINED, False)):
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == number]
    added = [AddedToken(token, normalized=False, special=special) for token in whole]
    (backend.add_special_tokens if special else backend.add_tokens)(added)

  def named(key, default=None):
    index = get(key, default)
    if index is None:
      return None
    if not isinstance(index, int) or not 0 <= index < len(tokens):
      raise UserError(f"{where}: tokenizer.ggml.{key} = {index} is not among its {len(tokens)} tokens")
    return tokens[index]

  eos = named("eos_token_id")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    bos_token=named("bos_token_id"),
    eos_token=eos,
    unk_token=named("unknown_token_id"),
    pad_token=named("padding_token_id") or eos,
    add_bos_token=get("add_bos_token", add_bos),
    add_eos_token=get("add_eos_token", False),
    chat_template=metadata.get("tokenizer.chat_template"),
    clean_up_tokenization_spaces=False,
  )


def _kinds(get, tokens: list[str], where: str) -> list[int]:
  kinds = get("token_type") or [1] * len(tokens)
  if len(kinds) != len(tokens):
    raise UserError(f"{where}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
  return kinds


def _byte_level(get, tokens: list[str], where: str) -> tuple[Tokenizer, bool]:
  """Byte-level BPE with the splits that its merges were learned on."""
  if not isinstance(get("merges"), list):
    raise UserError(f"{where}: tokenizer.ggml.merges is missing; use the model's Hugging Face directory")
  merges = [tuple(str(merge).split(" ", 1)) for merge in get("merges")]
  name = get("pre", "default")
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  is_llama3 = name in _LLAMA3_NAMES
  if name in _PATTERNS:
    steps = [pre_tokenizers.Split(Regex(_PATTERNS[name]), behavior="isolated"), byte_level]
  elif name == "smollm":
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  elif name in ("gpt-2", "default"):
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
  else:
    raise UserError(f"{where}: tokenizer.ggml.pre = {name!r} is not supported; use the model's Hugging Face directory")
  vocabulary = {token: index for index, token in enumerate(tokens)}
  backend = _bpe(where, vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=is_llama3)
  backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
  backend.decoder = decoders.ByteLevel()
  if _PATTERNS.get(name) is _QWEN2:
    backend.normalizer = normalizers.NFC()
  return backend, is_llama3


def _sentencepiece(get, tokens: list[str], where: str) -> tuple[Tokenizer, bool]:
  """SentencePiece BPE with byte fallback, set up as in Llama 2's tokenizer.json; a higher score merges first."""
  scores = get("scores")
  if not isinstance(scores, list) or len(scores) != len(tokens):
    raise UserError(f"{where}: tokenizer.ggml.scores does not fit the tokens; use the model's Hugging Face directory")
  vocabulary = {token: index for index, token in enumerate(tokens)}
  kinds = _kinds(get, tokens, where)
  skipped = {token for token, kind in zip(tokens, kinds, strict=True) if kind != 1}
  merges = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)), skipped)
  unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
  backend = _bpe(where, vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
  prefix = [normalizers.Prepend("▁")] if get("add_space_prefix", True) else []
  backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
  strip = [decoders.Strip(" ", 1, 0)] if prefix else []
  backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
  return backend, True


def _bpe(where: str, **parts: Any) -> Tokenizer:
  try:
    return Tokenizer(models.BPE(**parts))
  except Exception as error:  # tokenizers raises bare Exception
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{where}: tokenizer.ggml.tokens and .merges do not fit ({reason}); download it again") from error
