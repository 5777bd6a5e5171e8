"""Chat messages and answers -> token segments, through a tokenizer's template; and what happens to long ones."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from medjax import files
from medjax.data.examples import Example, JudgedAnswer, Message, PreferencePair, Segments
from medjax.errors import UserError

Prompt = tuple[Message, ...] | str
Item = Example | PreferencePair | JudgedAnswer | tuple[str, Prompt, Sequence[str]]  # the tuple: id, prompt, answers
_DATE = "26 Jul 2024"  # Llama 3.x templates print a date; a fixed one keeps prompts equal from day to day
_PROBE = "medjax probe"


class Encoder:
  """Turns prompts and answers into token ids.

  A prompt and its answers are tokenised separately, once, and concatenated as ids. Messages go through the chat
  template; text is used as it is, with BOS in front where the tokenizer adds one. Every answer ends with the token
  that ends a turn (of a template that writes one) or with EOS. Where a template has no place for a system message,
  it is put before the first user message.

  Args:
    tokenizer: a fast Hugging Face tokenizer.
    vocab_size: tokens that the model has embeddings of, 0 where that is not known. A tokenizer may have more of them
      (Gemma 3 1B has one for images), and texts that need one are refused.

  Attributes:
    tokenizer: as given.
    bos: id that starts each prompt, None where the tokenizer adds none.
    eos: id that ends an answer to a plain prompt.
  """

  def __init__(self, tokenizer: Any, vocab_size: int = 0):
    if tokenizer is None:
      raise UserError(
        "the model has no tokenizer files; put tokenizer.json and tokenizer_config.json beside its weights"
      )
    if tokenizer.eos_token_id is None:
      raise UserError("the tokenizer has no EOS token; set eos_token in its tokenizer_config.json")
    self.tokenizer, self._vocab_size = tokenizer, vocab_size
    self.eos: int = tokenizer.eos_token_id
    bos, probe = tokenizer.bos_token_id, list(tokenizer("a")["input_ids"])
    self.bos: int | None = bos if bos is not None and probe[:1] == [bos] else None
    self._special = {*tokenizer.all_special_ids} | {
      token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    # SentencePiece tokenizers put a space before any text: wrong where the text continues another.
    first = self._ids(["a"])[0][:1]
    self._adds_space = bool(first) and tokenizer.convert_ids_to_tokens(list(first))[0].startswith("\u2581")

  @functools.cached_property
  def fingerprint(self) -> str:
    """Names the vocabulary, the special tokens and the template: equal segments follow from equal fingerprints."""
    tokenizer = self.tokenizer
    return files.fingerprint(
      [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, self.bos, self.eos, sorted(self._special)]
    )

  def prompts(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Ids of prompts, ready to be continued by an answer."""
    texts = [prompt if isinstance(prompt, str) else self._render(prompt, True) for prompt in prompts]
    return [self._with_bos(ids) for ids in self._ids(texts)]

  def completions(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Ids of texts that continue a plain prompt, without BOS or EOS; their leading spaces count."""
    return self._continuing(texts)

  def segments(self, items: Iterable[Item]) -> list[Segments]:
    """Segments of examples, pairs (chosen, then rejected), judged answers or `(id, prompt, answers)`, in batches.

    Of an example without a prompt the whole text is scored, but for its first token, from which it is predicted:
    BOS, or for models that have none the text's own.

    Raises:
      UserError: an empty prompt or answer, a token that the model does not have, or a chat template under which an
        answer does not continue its prompt.
    """
    items = [_parts(item) for item in items]
    prompt_texts, answer_texts, ends = [], [], []
    for id_, prompt, answers, _ in items:
      if prompt is not None and not prompt:
        raise UserError(f"row {id_}: the prompt is empty; remove the row or fill it")
      if prompt is None:
        (text,), answers = answers, ("",)
      else:
        text = prompt if isinstance(prompt, str) else self._render(prompt, True)
      prompt_texts.append(text)
      for answer in answers:
        if not answer and prompt is not None or not text:
          raise UserError(f"row {id_}: an answer is empty; remove the row or fill it")
        if isinstance(prompt, str | None):
          answer_texts.append(answer)
          ends.append(False)
        else:
          completed = self._completed(id_, prompt, text, answer)
          answer_texts.append(completed)
          ends.append(self._ends_turn(completed))
    prompts = [self._with_bos(ids) for ids in self._ids(prompt_texts)]
    completions = iter(
      ids if ended else (*ids, self.eos) for ids, ended in zip(self._continuing(answer_texts), ends, strict=True)
    )
    made = [
      Segments(id_, ids, tuple(next(completions) for _ in answers), desirable)
      for (id_, _, answers, desirable), ids in zip(items, prompts, strict=True)
    ]
    return [
      _scored_throughout(each) if prompt is None else each for each, (_, prompt, *_) in zip(made, items, strict=True)
    ]

  def _completed(self, id_: str, prompt: tuple[Message, ...], text: str, answer: str) -> str:
    """What the template writes after the prompt's text for this answer, up to the end of the turn."""
    full = self._render((*prompt, {"role": "assistant", "content": answer}), False)
    if not full.startswith(text):
      raise UserError(
        f"row {id_}: under this chat template the text with the answer does not start with the prompt's text; "
        "use a template that appends turns, or plain-text prompts"
      )
    rest = full[len(text) :]
    return rest.rstrip() if self._ends_turn(rest.rstrip()) else rest

  def _ends_turn(self, text: str) -> bool:
    """Whether `text` ends with a special token."""
    return any(text.endswith(end) for end in self._special_texts)

  @functools.cached_property
  def _special_texts(self) -> tuple[str, ...]:
    return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self._special)))

  @functools.cached_property
  def _takes_system(self) -> bool:
    """Whether the template prints a system message."""
    messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}]
    try:
      return _PROBE in self._apply(messages, True)
    except jinja2.TemplateError:
      return False

  def _render(self, messages: tuple[Message, ...], ask: bool) -> str:
    """The template's text; `ask` adds the start of the assistant's turn."""
    if not self.tokenizer.chat_template:
      raise UserError("the tokenizer has no chat template; use plain-text prompts or a chat model")
    messages = [dict(message) for message in messages]
    if messages[0]["role"] == "system" and len(messages) > 1 and not self._takes_system:
      system, messages = messages[0], messages[1:]
      messages[0] = {**messages[0], "content": f"{system['content']}\n\n{messages[0]['content']}"}
    try:
      return self._apply(messages, ask)
    except jinja2.TemplateError as error:
      roles = ", ".join(message["role"] for message in messages)
      raise UserError(f"the chat template refuses messages with roles {roles}: {error}") from error

  def _apply(self, messages: list[dict[str, str]], ask: bool) -> str:
    return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, date_string=_DATE)

  def _with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids if self.bos is None or ids[:1] == (self.bos,) else (self.bos, *ids)

  def _ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
    if not texts:
      return []
    found = [tuple(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
    highest = max((max(ids, default=0) for ids in found), default=0)
    if self._vocab_size and highest >= self._vocab_size:
      raise UserError(
        f"a text has the token {self.tokenizer.convert_ids_to_tokens(highest)!r} (id {highest}), and the model has "
        f"{self._vocab_size} tokens; remove it from the texts, or use the tokenizer that belongs to the model"
      )
    return found

  def _continuing(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Ids of texts as continuations: without the space that SentencePiece puts before a text."""
    if not self._adds_space:
      return self._ids(texts)
    anchor = self._ids(["\n"])[0]
    anchored = self._ids([f"\n{text}" for text in texts])
    alone = self._ids(texts)
    return [
      long[len(anchor) :] if long[: len(anchor)] == anchor else short
      for long, short in zip(anchored, alone, strict=True)
    ]


def _scored_throughout(text: Segments) -> Segments:
  ids = text.prompt + text.completions[0]
  return Segments(text.id, ids[:1], (ids[1:],))


def _parts(item: Item) -> tuple[str, Prompt | None, tuple[str, ...], bool]:
  """Id, prompt, answers, and whether the first of them is desirable."""
  if isinstance(item, tuple):
    id_, prompt, answers = item
    return id_, prompt, tuple(answers), True
  return item.id, item.prompt, item.answers, not isinstance(item, JudgedAnswer) or item.desirable


@dataclasses.dataclass(frozen=True)
class Limits:
  """How long a group may be, in tokens; 0 is no limit.

  Attributes:
    max_length: a prompt and its longest completion (the model's context).
    max_prompt: a prompt.
    max_completion: a completion.
    row_length: a group as it lies in a packed row: the prompt, and each completion but for its last token.
    too_long: `cut_prompt` cuts prompts on the left behind BOS, and drops groups whose answers leave no room;
      `drop` drops every group that is too long; `error` refuses it.
    bos: the id that a cut prompt keeps in front.
  """

  max_length: int = 0
  max_prompt: int = 0
  max_completion: int = 0
  row_length: int = 0
  too_long: str = "cut_prompt"
  bos: int | None = None


def cut(segments: Segments, limits: Limits) -> tuple[Segments | None, str]:
  """Fits one group into its limits. Answers are never cut.

  Args:
    segments: a group.
    limits: what must hold.

  Returns:
    The group, cut or as it was, or None where it is dropped; and `""`, `"cut"` or `"dropped"`.

  Raises:
    UserError: it is too long and `limits.too_long` is `error`; names the row.
  """
  longest = max(map(len, segments.completions), default=0)
  beside = sum(len(completion) - 1 for completion in segments.completions)
  room = [
    limits.max_prompt or None,
    limits.max_length - longest if limits.max_length else None,
    limits.row_length - beside if limits.row_length else None,
  ]
  room = min((tokens for tokens in room if tokens is not None), default=len(segments.prompt))
  answers_fit = not limits.max_completion or longest <= limits.max_completion
  if answers_fit and len(segments.prompt) <= room:
    return segments, ""
  if limits.too_long == "error":
    raise UserError(
      f"row {segments.id}: {len(segments.prompt)} prompt tokens (room for {max(room, 0)}) and {longest} answer tokens "
      f"(limit {limits.max_completion or 'none'}); shorten it, raise the limits or set data.too_long=cut_prompt or drop"
    )
  head = segments.prompt[:1] if limits.bos is not None and segments.prompt[:1] == (limits.bos,) else ()
  if limits.too_long == "drop" or not answers_fit or room < len(head) + 1:
    return None, "dropped"
  tail = segments.prompt[len(segments.prompt) - (room - len(head)) :]
  return dataclasses.replace(segments, prompt=(*head, *tail)), "cut"


@dataclasses.dataclass(frozen=True)
class LengthReport:
  """What fitting did to a set of groups: how many came, the ids whose prompts were cut, the ids that were dropped."""

  total: int
  cut: tuple[str, ...] = ()
  dropped: tuple[str, ...] = ()

  def __str__(self) -> str:
    return f"{self.total} rows: {len(self.cut)} prompts cut, {len(self.dropped)} rows dropped as too long"


def encode_all(items: Iterable[Item], encoder: Encoder, limits: Limits) -> tuple[list[Segments], LengthReport]:
  """Segments of all items that fit, in order, and the report of those that were cut or dropped.

  Raises:
    UserError: as `Encoder.segments` and `cut`; and where every row was dropped.
  """
  encoded = encoder.segments(items)
  limits = dataclasses.replace(limits, bos=limits.bos if limits.bos is not None else encoder.bos)
  fitted = [cut(segments, limits) for segments in encoded]
  report = LengthReport(
    len(encoded),
    tuple(segments.id for segments, (_, what) in zip(encoded, fitted, strict=True) if what == "cut"),
    tuple(segments.id for segments, (_, what) in zip(encoded, fitted, strict=True) if what == "dropped"),
  )
  if encoded and len(report.dropped) == len(encoded):
    raise UserError(f"all {len(encoded)} rows are too long; raise train.row_length, model.max_length or data.max_*")
  return [segments for segments, _ in fitted if segments is not None], report


def limits_of(config: Any, context: int, row_length: int = 0) -> Limits:
  """The limits that a run's config sets.

  Args:
    config: a validated run config.
    context: the model's context length in tokens.
    row_length: length of a packed row, 0 where rows are not packed.

  Raises:
    UserError: model.max_length is longer than the context.
  """
  if config.model.max_length > context:
    raise UserError(f"config.model.max_length is {config.model.max_length}; this model's context is {context} tokens")
  return Limits(
    config.model.max_length or context,
    config.data.max_prompt,
    config.data.max_completion,
    row_length,
    config.data.too_long,
  )
