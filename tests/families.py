"""Chat templates of the families that medjax reads, each with a small tokenizer that splits texts as the family's does.

Templates as they are published come with TRL, which compares with them; those that it lacks are in fixtures/templates,
written anew to write the same text (compared with the published ones on random conversations).
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

_OURS = pathlib.Path(__file__).parent / "fixtures" / "templates"
_TRL = pathlib.Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
_CHATML = "<|im_start|> <|im_end|> <|endoftext|>"
_HEADERS = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
_PHI = "<s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>"
DATE = "26 Jul 2024"


@dataclasses.dataclass(frozen=True)
class Family:
  """A family's template and what is known of it.

  Attributes:
    template: file name of the template, of TRL's where there is none of ours.
    split: how the tokenizer splits: `bytes`; `legacy` puts a space in front of every piece between special tokens,
      `first` in front of the text, `plain` nowhere.
    specials: special tokens.
    bos: the one that the tokenizer puts in front, if any.
    end: the one that ends the assistant's turn.
    printed: what the template writes of an answer behind the prompt, up to the end of the turn.
    system: whether it has a place for a system message.
    keeps: whether what it wrote of a turn stays when another one follows: `always`, `without system` or `never`.
    swallows: whether special tokens take the white space behind them.
  """

  template: str
  split: str
  specials: str
  bos: str | None
  end: str
  printed: Callable[[str], str] = str
  system: bool = True
  keeps: str = "always"
  swallows: bool = False

  @functools.cached_property
  def text(self) -> str:
    """The template."""
    home = _OURS if (_OURS / f"{self.template}.jinja").exists() else _TRL
    return (home / f"{self.template}.jinja").read_text(encoding="utf-8")

  @functools.cached_property
  def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
    """A token a byte or a letter, and the special tokens."""
    return _tokenizer(self)

  def spelled(self, ids) -> str:
    """The text of ids, special tokens and leading spaces too."""
    return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

  def rendered(self, messages, ask: bool, template: str = ""):
    """The template's text by transformers, on a fixed date, as a tokenizer's arguments."""
    dated = (template or self.text).replace("strftime_now('%d %B %Y')", "'26 July 2024'")
    return functools.partial(
      self.tokenizer.apply_chat_template,
      [dict(message) for message in messages],
      chat_template=dated,
      add_generation_prompt=ask,
      date_string=DATE,
    )


def _tokenizer(family: Family) -> transformers.PreTrainedTokenizerFast:
  specials = family.specials.split()
  if family.split == "bytes":
    backend = tokenizers.Tokenizer(
      models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
  else:
    letters = ["\u2581", *(chr(code) for code in range(33, 127))]
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    backend = tokenizers.Tokenizer(
      models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", "\u2581")
    if family.split == "legacy":
      backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
    elif family.split == "plain":
      backend.normalizer = spaces
    else:
      backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
  backend.add_special_tokens(
    [tokenizers.AddedToken(token, special=True, normalized=False, rstrip=family.swallows) for token in specials]
  )
  if family.bos:
    backend.post_processor = processors.TemplateProcessing(
      f"{family.bos} $A", special_tokens=[(family.bos, backend.token_to_id(family.bos))]
    )
  eos = next(token for token in ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>") if token in specials)
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, bos_token=family.bos, eos_token=eos, chat_template=family.text
  )


def _behind_a_space(text: str) -> str:
  return f" {text}"


FAMILIES = {
  "llama 2": Family("llama_2", "legacy", "<s> </s>", "<s>", "</s>", lambda text: f" {text.strip()} "),
  "llama 3": Family("llama3", "bytes", _HEADERS, "<|begin_of_text|>", "<|eot_id|>", str.strip),
  "llama 3.1": Family("llama3_1", "bytes", _HEADERS, "<|begin_of_text|>", "<|eot_id|>", str.strip),
  "llama 3.2": Family("llama3_2", "bytes", _HEADERS, "<|begin_of_text|>", "<|eot_id|>", str.strip),
  "mistral v0.1": Family("mistral_7b_v0_1", "legacy", "<s> </s>", "<s>", "</s>", system=False),
  "mistral v0.2": Family("mistral_7b_v0_2", "legacy", "<s> </s>", "<s>", "</s>", _behind_a_space),
  "mistral v0.3": Family(
    *("mistral_7b_v0_3", "first", "<s> </s> [INST] [/INST]", "<s>", "</s>", lambda text: f" {text.strip()}"),
    keeps="without system",
  ),
  "mistral nemo": Family("mistral_nemo", "bytes", "<s> </s> [INST] [/INST]", "<s>", "</s>", keeps="without system"),
  "qwen 2": Family("qwen_2", "bytes", _CHATML, None, "<|im_end|>"),
  "qwen 2.5": Family("qwen2_5", "bytes", _CHATML, None, "<|im_end|>"),
  "qwen 3": Family(
    *("qwen3", "bytes", _CHATML, None, "<|im_end|>", lambda text: "<think>\n\n</think>\n\n" + text.lstrip("\n")),
    keeps="never",
  ),
  "qwen 3 2507": Family("qwen3_instruct_2507", "bytes", _CHATML, None, "<|im_end|>"),
  "gemma 2": Family(
    *("gemma", "plain", "<bos> <eos> <start_of_turn> <end_of_turn>", "<bos>", "<end_of_turn>", str.strip), system=False
  ),
  "gemma 3": Family(
    "gemma3", "plain", "<bos> <eos> <start_of_turn> <end_of_turn>", "<bos>", "<end_of_turn>", str.strip
  ),
  # The tokenizer of Phi 3 drops what white space an answer starts with, and puts a space there.
  "phi 3": Family("phi3", "legacy", _PHI, None, "<|end|>", lambda text: f" {text.lstrip()}", swallows=True),
  "phi 3.5": Family("phi3_5", "legacy", _PHI, None, "<|end|>", lambda text: f" {text.lstrip()}", swallows=True),
  "phi 4": Family("phi_4", "bytes", f"{_CHATML} <|im_sep|>", None, "<|im_end|>"),
  "phi 4 mini": Family("phi_4_mini", "bytes", _PHI, None, "<|end|>", str.lstrip, swallows=True),
  "smollm 3": Family("smollm_3", "bytes", _CHATML, None, "<|im_end|>", lambda text: text.lstrip("\n")),
}
