"""The typed objects at the edge between data and everything after it."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a source, as a task sees it.

  Attributes:
    id: unique within the source.
    group: what must not be split between train and test (a patient); the id where the data names none.
    fields: what the task's prompt may use.
    labels: target name -> label or reference text, and what else the task's answer holds; empty for rows to predict.
    weight: how much SFT makes of it.
  """

  id: str
  group: str
  fields: Mapping[str, Any]
  labels: Mapping[str, str]
  weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and the answer to learn.

  Attributes:
    id: the row's.
    prompt: chat messages, or text that is used as it is; None where the completion is a text to learn all of.
    completion: the answer.
    more: further answers to the same prompt, each learnt as if it were the only one.
    weight: of each of the answers' tokens in the loss, above 0.
  """

  id: str
  prompt: tuple[Message, ...] | str | None
  completion: str
  more: tuple[str, ...] = ()
  weight: float = 1.0

  @property
  def answers(self) -> tuple[str, ...]:
    """What continues the prompt in its group."""
    return (self.completion, *self.more)


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Chat messages of which every answer of the assistant is learnt, but for one that nothing precedes.

  Attributes:
    id: the row's.
    messages: the whole conversation; the last message is an answer.
  """

  id: str
  messages: tuple[Message, ...]

  @property
  def learnt(self) -> tuple[int, ...]:
    """Places of the messages that are learnt."""
    return tuple(at for at, message in enumerate(self.messages) if at and message["role"] == "assistant")

  @property
  def prompt(self) -> tuple[Message, ...]:
    """What comes before the first answer that is learnt."""
    return self.messages[: self.learnt[0]]

  @property
  def answers(self) -> tuple[str, ...]:
    """The answers that are learnt."""
    return tuple(self.messages[at]["content"] for at in self.learnt)


@dataclasses.dataclass(frozen=True)
class PreferencePair:
  """A prompt, the answer that is preferred, and one that is not; `how` says where the rejected one came from."""

  id: str
  prompt: tuple[Message, ...] | str
  chosen: str
  rejected: str
  how: str = "given"

  @property
  def answers(self) -> tuple[str, ...]:
    """What continues the prompt in its group."""
    return self.chosen, self.rejected


@dataclasses.dataclass(frozen=True)
class JudgedAnswer:
  """A prompt, an answer, and whether it is a desirable one.

  Attributes:
    id: the row's, or of an answer of a pair the pair's with `/chosen` or `/rejected` behind it.
    prompt: chat messages, or text that is used as it is.
    completion: the answer.
    desirable: whether answers like it are wanted.
    unrelated: an answer to another prompt, on which KTO measures how far the policy has moved at large.
  """

  id: str
  prompt: tuple[Message, ...] | str
  completion: str
  desirable: bool
  unrelated: str = ""

  @property
  def answers(self) -> tuple[str, ...]:
    """What continues the prompt in its group."""
    return self.completion, self.unrelated


@dataclasses.dataclass(frozen=True)
class Segments:
  """Token ids of one group: a prompt and the completions that continue it, BOS and EOS included where they belong.

  Attributes:
    id: the row's, or of a conversation that is learnt an answer at a time the row's with `/turn-1` and so on behind it.
    prompt: ids of what comes before the first scored token.
    completions: ids of each completion.
    desirable: that of a judged answer, the first completion; it says nothing of other groups.
    weights: how much each token of each completion counts, 0 for one that is not scored; None where all count 1, as
      they must where answers are compared (pairs, judged answers, labels).
    turn: None, or how many tokens a text may have before the model reads all of it with other rotary frequencies
      (LongRoPE): completions on either side of it do not share their prompt.
  """

  id: str
  prompt: tuple[int, ...]
  completions: tuple[tuple[int, ...], ...]
  desirable: bool = True
  weights: tuple[tuple[float, ...], ...] | None = None
  turn: int | None = None

  def __post_init__(self):
    if self.weights is not None and list(map(len, self.weights)) != list(map(len, self.completions)):
      raise ValueError(f"group {self.id}: a token of its completions has no weight, or a weight no token")

  @property
  def sharing(self) -> list[tuple[int, ...]]:
    """Completions, by index, that share a copy of the prompt: all, or the short ones and the long ones."""
    whole = tuple(range(len(self.completions)))
    if self.turn is None:
      return [whole]
    is_long = [len(self.prompt) + len(completion) > self.turn for completion in self.completions]
    return [tuple(i for i in whole if is_long[i] == side) for side in dict.fromkeys(is_long)]

  @property
  def runs(self) -> list[tuple[tuple[int, ...], bool]]:
    """The completions in pieces, each of tokens that are scored or of tokens that are not: ids, and which it is."""
    if self.weights is None:
      return [(ids, True) for ids in self.completions]
    pieces = []
    for ids, weights in zip(self.completions, self.weights, strict=True):
      for scored, run in itertools.groupby(zip(ids, weights, strict=True), lambda pair: pair[1] != 0):
        pieces.append((tuple(token for token, _ in run), scored))
    return pieces
