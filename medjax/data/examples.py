"""The typed objects at the edge between data and everything after it."""

import dataclasses
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
  """

  id: str
  group: str
  fields: Mapping[str, Any]
  labels: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and the answer to learn.

  Attributes:
    id: the row's.
    prompt: chat messages, or text that is used as it is; None where the completion is a text to learn all of.
    completion: the answer.
  """

  id: str
  prompt: tuple[Message, ...] | str | None
  completion: str


@dataclasses.dataclass(frozen=True)
class PreferencePair:
  """A prompt, the answer that is preferred, and one that is not; `how` says where the rejected one came from."""

  id: str
  prompt: tuple[Message, ...] | str
  chosen: str
  rejected: str
  how: str = "given"


@dataclasses.dataclass(frozen=True)
class Segments:
  """Token ids of one group: a prompt and the completions that continue it, BOS and EOS included where they belong."""

  id: str
  prompt: tuple[int, ...]
  completions: tuple[tuple[int, ...], ...]
