"""Chat messages and answers -> token segments, through a tokenizer's template; and what happens to long ones."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from medjax import files, privacy
from medjax.data.drafts import Draft, Part, segments_of
from medjax.data.examples import Conversation, Example, JudgedAnswer, Message, PreferencePair, Segments
from medjax.data.template_limits import BYTES, SECONDS, TemplateLimit, limited
from medjax.errors import UserError
from medjax.models.config import ModelConfig

Prompt = tuple[Message, ...] | str
Item = Example | Conversation | PreferencePair | JudgedAnswer | tuple[str, Prompt, Sequence[str]]  # id, prompt, answers
# Templates of Llama 3.x (`date_string`) and of SmolLM 3 (`strftime_now`) print a date; a fixed one keeps prompts equal
# from day to day.
_DATE = "26 Jul 2024"
_ENDLESS = (
  f"the chat template did not end within {SECONDS:g} s and {BYTES >> 30} GiB; use the template that the model was "
  "published with"
)
_CLOCK = "{% macro strftime_now(form) %}{{ '26 July 2024' if '%B' in form else '26 Jul 2024' }}{% endmacro %}{{ '' }}"
_PROBE = "medjax probe"


class Encoder:
  """Turns prompts and answers into token ids.

  A prompt and its answers are tokenised separately, once, and concatenated as ids. Messages go through the chat
  template; text is used as it is, with BOS in front where the tokenizer adds one. Every answer ends with the token
  that ends a turn (of a template that writes one; what it writes after that is left out) or with EOS. Where a template
  has no place for a system message, it is put before the first user message.

  These are the ids of the whole text as the tokenizer has them, except where it would join the end of a prompt and the
  start of an answer in one token (a prompt's last newline and a newline that an answer starts with, say). A model that
  answers does not see them joined, and they are not; they decode to the same text.

  A conversation is one group, of which the answers are scored and nothing else, where each of its prompts, as the model
  sees it when it is to answer, is what the conversation holds up to there. Some templates write an answer otherwise
  once another message follows (Qwen 3 without its thoughts; Mistral moves the system message to the last user message),
  or end no turn. Then it is one group for each answer, behind its own prompt.

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
    adds_space = bool(first) and tokenizer.convert_ids_to_tokens(list(first))[0].startswith("\u2581")
    self._line = "\n" if adds_space else ""  # what a continuation is tokenised behind

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
    return self._behind([self._line] * len(texts), texts)

  def segments(self, items: Iterable[Item]) -> list[Segments]:
    """Segments of examples, conversations, pairs (chosen, then rejected), judged answers or `(id, prompt, answers)`.

    Each item becomes one group, but for conversations that are learnt an answer at a time. Of an example without a
    prompt the whole text is scored, but for its first token, from which it is predicted: BOS, or for models that have
    none the text's own.

    Raises:
      UserError: an empty prompt or answer, a weight that is not above 0, a token that the model does not have, or a
        chat template under which an answer does not continue its prompt.
    """
    drafts = [
      draft
      for item in items
      for draft in (self._of_conversation(item) if isinstance(item, Conversation) else [self._of_answers(item)])
    ]
    prompts = [self._with_bos(ids) for ids in self._ids([draft.prompt for draft in drafts])]
    parts = [part for draft in drafts for completion in draft.completions for part in completion]
    found = iter(self._behind([part.behind for part in parts], [part.text for part in parts]))
    return [segments_of(draft, prompt, found, self.eos) for draft, prompt in zip(drafts, prompts, strict=True)]

  def _of_answers(self, item: Example | PreferencePair | JudgedAnswer | tuple[str, Prompt, Sequence[str]]) -> Draft:
    """A prompt and what may continue it."""
    if isinstance(item, tuple):
      (id_, prompt, answers), desirable, weight = item, True, 1.0
    else:
      id_, prompt, answers = item.id, item.prompt, item.answers
      desirable, weight = getattr(item, "desirable", True), getattr(item, "weight", 1.0)
    if prompt is not None and not prompt:
      raise UserError(f"{privacy.row(id_)}: the prompt is empty; remove the row or fill it")
    if not all(answers):
      raise UserError(f"{privacy.row(id_)}: an answer is empty; remove the row or fill it")
    if not 0 < weight < math.inf:
      raise UserError(f"{privacy.row(id_)}: its weight is {weight}; weights must be above 0 and finite")
    if prompt is None:
      return Draft(id_, answers[0], ((Part("", eos=True),),), weight=weight, throughout=True)
    if isinstance(prompt, str):
      text, parts = prompt, [Part(answer, self._line, eos=True) for answer in answers]
    else:
      text = self._render(prompt, True)
      parts = [self._answered(id_, prompt, text, answer) for answer in answers]
    return Draft(id_, text, tuple((part,) for part in parts), desirable, weight)

  def _of_conversation(self, item: Conversation) -> list[Draft]:
    """All answers behind the first prompt, with what is between them; or each behind its own prompt."""
    if not item.answers or not all(item.answers):
      raise UserError(f"{privacy.row(item.id)}: an answer is empty; remove the row or fill it")
    prompts = [self._render(item.messages[:at], True) for at in item.learnt]
    answers = [
      self._answered(item.id, item.messages[:at], prompt, answer)
      for at, prompt, answer in zip(item.learnt, prompts, item.answers, strict=True)
    ]
    held = [prompt + answer.text for prompt, answer in zip(prompts, answers, strict=True)]
    pairs = list(zip(held, prompts[1:], answers[1:], strict=False))
    if any(answer.eos for answer in answers) or not all(prompt.startswith(before) for before, prompt, _ in pairs):
      return [
        Draft(f"{item.id}/turn-{number}", prompt, ((answer,),))
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1)
      ]
    parts = [answers[0]]
    for before, prompt, answer in pairs:
      parts += [Part(prompt[len(before) :], self._end_of(before), learnt=False), answer]
    return [Draft(item.id, prompts[0], (tuple(parts),))]

  def _answered(self, id_: str, prompt: tuple[Message, ...], text: str, answer: str) -> Part:
    """What the template writes after the prompt's text for this answer, up to the end of the turn."""
    behind, message = self._end_of(text), {"role": "assistant", "content": answer}
    full = self._render((*prompt, message), False)
    if not full.startswith(text) and prompt[0]["role"] == "system" and prompt[1:]:
      # Mistral's templates write a system message with the last message alone: an answer behind that drops it.
      prompt = prompt[1:]
      text, full = self._render(prompt, True), self._render((*prompt, message), False)
    if not full.startswith(text):
      raise UserError(
        f"{privacy.row(id_)}: under this chat template the text with the answer does not start with the prompt's text; "
        "use a template that appends turns, or plain-text prompts"
      )
    rest = full[len(text) :]
    ended = rest.rstrip()
    end = self._special_at_end(ended)
    if self._special_at_end(answer.rstrip()) or self._special_at_end(ended.removesuffix(end).rstrip()):
      # Either the answer ends with special tokens, or the template writes several: Phi's end a turn, then the text.
      written = self._render((*prompt, {**message, "content": _PROBE}), False).rpartition(_PROBE)[2]
      if rest.endswith(written):
        end = self._turn_end(written)
        ended = rest.removesuffix(written) + end
    return Part(ended, behind) if self._special_at_end(end) else Part(rest, behind, eos=True)

  def _turn_end(self, written: str) -> str:
    """What a template writes behind an answer, up to the first special token, where the model stops."""
    end = written.rstrip()
    while self._special_at_end(shorter := end.removesuffix(self._special_at_end(end)).rstrip()):
      end = shorter
    return end

  @functools.cached_property
  def _special_texts(self) -> dict[int, set[str]]:
    """Special tokens by their length, the longest first: some tokenizers have thousands."""
    texts = sorted(self.tokenizer.convert_ids_to_tokens(sorted(self._special)), key=len, reverse=True)
    return {length: set(same) for length, same in itertools.groupby(texts, len)}

  def _special_at_end(self, text: str) -> str:
    """The special token that a text ends with, the longest that fits; nothing where it ends with none."""
    return next((text[-length:] for length, same in self._special_texts.items() if text[-length:] in same), "")

  def _end_of(self, text: str) -> str:
    """What must be in front of a continuation of this text for a tokenizer to see it as it does in the whole."""
    bare = text.rstrip()
    special = self._special_at_end(bare)  # it may swallow spaces behind it, or have one put there
    return text[len(bare) - len(special) :] if special else self._line

  @functools.cached_property
  def _takes_system(self) -> bool:
    """Whether the template prints a system message."""
    messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}]
    try:
      return _PROBE in self._apply(messages, True)
    except TemplateLimit as error:
      raise UserError(_ENDLESS) from error
    except Exception:  # noqa: BLE001 (a template is data, and raises what it likes)
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
    except TemplateLimit as error:
      raise UserError(_ENDLESS) from error
    except Exception as error:  # noqa: BLE001 (a template is data, and raises what it likes)
      roles, reason = ", ".join(message["role"] for message in messages), " ".join(str(error).split())
      # What stands in the template itself cannot be of a message.
      reason = f": {reason}" if reason and str(error) in self._template else privacy.shown(reason)
      raise UserError(f"the chat template refuses messages with roles {roles}{reason}") from error

  def _apply(self, messages: list[dict[str, str]], ask: bool) -> str:
    with limited():
      return self.tokenizer.apply_chat_template(
        messages, chat_template=self._template, tokenize=False, add_generation_prompt=ask, date_string=_DATE
      )

  @functools.cached_property
  def _template(self) -> str:
    template = self.tokenizer.get_chat_template()
    return _CLOCK + template if "strftime_now" in template else template

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

  def _behind(self, anchors: Sequence[str], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Ids of texts as they are behind other texts: without a space that SentencePiece puts before a text, for one.

    A text of which the start would be joined with the end of its anchor gets the ids that it has alone.
    """
    heads = dict(zip(dict.fromkeys(anchors), self._ids(list(dict.fromkeys(anchors))), strict=True))
    together = self._ids([anchor + text for anchor, text in zip(anchors, texts, strict=True)])
    return [
      ids[len(heads[anchor]) :] if ids[: len(heads[anchor])] == heads[anchor] else self._ids([text])[0]
      for anchor, text, ids in zip(anchors, texts, together, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Limits:
  """How long a group may be, in tokens; 0 is no limit.

  Attributes:
    max_length: a prompt and its longest completion (the model's context).
    max_prompt: a prompt.
    max_completion: an answer: a completion, or of a conversation each run of scored tokens.
    row_length: a group as it lies in a packed row: the prompt (twice where not all share it), and each completion but
      for its last token.
    too_long: `cut_prompt` cuts prompts on the left behind BOS, and drops groups whose answers leave no room;
      `drop` drops every group that is too long; `error` refuses it.
    bos: the id that a cut prompt keeps in front.
    turn: see `Segments`.
  """

  max_length: int = 0
  max_prompt: int = 0
  max_completion: int = 0
  row_length: int = 0
  too_long: str = "cut_prompt"
  bos: int | None = None
  turn: int | None = None


def cut(segments: Segments, limits: Limits) -> tuple[Segments | None, str]:
  """Fits one group into its limits. Answers are never cut.

  Of a conversation in one group the prompt is what comes before its first answer, and nothing else is cut: it is
  dropped where the rest leaves no room for that.

  Args:
    segments: a group.
    limits: what must hold.

  Returns:
    The group, cut or as it was, or None where it is dropped; and `""`, `"cut"` or `"dropped"`.

  Raises:
    UserError: it is too long and `limits.too_long` is `error`; names the row.
  """
  longest = max(map(len, segments.completions), default=0)
  answer = max((len(ids) for ids, scored in segments.runs if scored), default=0)
  beside = sum(len(completion) - 1 for completion in segments.completions)
  if limits.turn is not None:
    segments = dataclasses.replace(segments, turn=limits.turn)
  room = [
    limits.max_prompt or None,
    limits.max_length - longest if limits.max_length else None,
    limits.row_length - beside if limits.row_length else None,
  ]
  room = min((tokens for tokens in room if tokens is not None), default=len(segments.prompt))
  if segments.turn and limits.row_length:  # where it is to be cut anyway, it may come to lie on both sides of the turn
    copies = len(dataclasses.replace(segments, prompt=segments.prompt[: max(room, 0)]).sharing)
    room = min(room, (limits.row_length - beside) // copies)
  answers_fit = not limits.max_completion or answer <= limits.max_completion
  if answers_fit and len(segments.prompt) <= room:
    return segments, ""
  if limits.too_long == "error":
    raise UserError(
      f"{privacy.row(segments.id)}: {len(segments.prompt)} prompt tokens (room for {max(room, 0)}) and {answer} answer "
      f"tokens (limit {limits.max_completion or 'none'}); shorten it, raise the limits or set data.too_long to "
      "cut_prompt or drop"
    )
  head = segments.prompt[:1] if limits.bos is not None and segments.prompt[:1] == (limits.bos,) else ()
  if limits.too_long == "drop" or not answers_fit or room < len(head) + 1:
    return None, "dropped"
  tail = segments.prompt[len(segments.prompt) - (room - len(head)) :]
  return dataclasses.replace(segments, prompt=(*head, *tail)), "cut"


@dataclasses.dataclass(frozen=True)
class LengthReport:
  """What fitting did to a set of groups: how many came, the ids whose prompts were cut, the ids that were dropped.

  A conversation that is learnt an answer at a time counts as so many rows.
  """

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


def limits_of(config: Any, model: ModelConfig, row_length: int = 0) -> Limits:
  """The limits that a run's config sets.

  Args:
    config: a validated run config.
    model: gives its context length.
    row_length: length of a packed row, 0 where rows are not packed.

  Raises:
    UserError: model.max_length is longer than the context.
  """
  if config.model.max_length > model.max_positions:
    raise UserError(
      f"config.model.max_length is {config.model.max_length}; this model's context is {model.max_positions} tokens"
    )
  return Limits(
    config.model.max_length or model.max_positions,
    config.data.max_prompt,
    config.data.max_completion,
    row_length,
    config.data.too_long,
    turn=model.turn,
  )
