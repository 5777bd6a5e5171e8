"""Kinds of tasks that a config defines whose answers are texts: clinical reasoning and summarization."""

import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from medjax.errors import UserError
from medjax.tasks import perturbations, shown, summarization
from medjax.tasks.clinical_reasoning import plain, said_last
from medjax.tasks.kind import Getter, Prompt, UnknownLabel, listed, spelled, wrong_labels
from medjax.tasks.task import Generation, Rejection, Target, Task, TextTarget

LETTERS = tuple(string.ascii_uppercase)


@dataclasses.dataclass(frozen=True)
class ClinicalReasoning(Prompt):
  """A question -> the letter of an option, one of fixed answers, or a short text, with reasons before it or without.

  The attributes are keys of `config.define`. With reasons the answer is generated and read after its last `Answer:`;
  an option or a fixed answer without reasons is had by likelihood.

  Attributes:
    answer: the column of the right answer; of options their letter, their text, or with `first` their number.
    options: the column of the options (a mapping, a list, or text with semicolons), or a column for each.
    first: the number of the first option where `answer` holds numbers.
    labels: the answers there are, where there are no options: `("yes", "no", "maybe")`; with options, their letters.
    reasons: the column of the reasons that the model is to write before its answer.
    other: what becomes of a row without a right answer: `refuse` | `drop`.
    max_new_tokens: most tokens of a generated answer.
  """

  answer: str = "answer"
  options: tuple[str, ...] | str = ()
  first: int = 0
  labels: tuple[str, ...] | str = ()
  reasons: str = ""
  other: str = "refuse"
  max_new_tokens: int = 256

  kind: ClassVar[str] = "clinical_reasoning"
  choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"other": ("refuse", "drop")}

  def missing_labels(self) -> bool:
    """Whether the number of options is to be found in the data."""
    return bool(self.options) and not self.labels

  def letters_of(self, rows: Sequence[Mapping]) -> tuple[str, ...]:
    """The letters of the options of the row that has most of them."""
    return LETTERS[: max(len(self._options(row)) for row in rows)]

  def task(self) -> Task:
    """The task; UserError where a key has a value that cannot be."""
    if self.answer in self.input_columns or self.reasons and self.reasons in self.input_columns:
      raise UserError("config.define shows the answer or its reasons in the prompt; take it out of the prompt")
    labels = tuple(str(label) for label in listed(self.labels, "labels"))
    free = not labels
    if free and self.options:
      raise UserError("config.define.labels is empty; list the letters of the options, or load the data first")
    target = TextTarget(None, "exact_match", exact=True) if free else Target(labels, primary="accuracy")
    generated = free or bool(self.reasons)
    as_letters = bool(self.options)

    def allowed(fields: Mapping, name: str) -> Sequence[str]:
      del name
      return LETTERS[: len(self._options(fields))]

    return Task(
      name=self.name or self.kind,
      description=self.description or "clinical reasoning from your data",
      targets={"answer": target},
      instruction=self.instruction or self._instruction(labels),
      render=self._renderer(),
      answer=("{reasons}\n" if self.reasons else "") + ("Answer: {answer}" if generated else "{answer}"),
      rejections=_no_rejections if free else wrong_labels({"answer": target}, allowed if as_letters else None),
      generation=Generation(self.max_new_tokens, self._read(labels)) if generated else None,
      label_columns=(self.answer, *((self.reasons,) if self.reasons else ())),
      after=listed(self.after, "after"),
      read_labels=self._read_labels(labels),
      allowed=allowed if as_letters else None,
    )

  def _instruction(self, labels: Sequence[str]) -> str:
    reply = f"the letter of the best option ({', '.join(labels)})" if self.options else ", ".join(labels)
    if not labels:
      reply = "a short final answer"
    if self.reasons:
      return f"Reason step by step, then give the answer after `Answer:`: {reply}."
    return f"Answer the question. Reply with {reply} only." if labels else f"Reply with `Answer:` and {reply}."

  def _renderer(self) -> shown.Render:
    question = super().renderer()
    if not self.options:
      return question

    def render(fields: Mapping) -> str:
      options = zip(LETTERS, self._options(fields), strict=False)
      return "\n".join([question(fields), *(f"{letter}) {option}" for letter, option in options)])

    return render

  def _options(self, fields: Mapping) -> list[str]:
    columns = listed(self.options, "options")
    if len(columns) > 1:
      found = [shown.known(fields[column]) for column in columns]
      while found and not found[-1]:
        found.pop()
      if len(found) < 2 or not all(found):
        raise UserError(f"the options in {', '.join(columns)} are not two or more without a gap; correct the row")
      return found
    cell = fields[columns[0]]
    if isinstance(cell, str):
      cell = [part for part in cell.split(";") if part.strip()]
    if isinstance(cell, Mapping):
      cell = [cell[letter] for letter in sorted(cell) if cell[letter] is not None]
    if not isinstance(cell, list | tuple) or not 2 <= len(cell) <= len(LETTERS):
      raise UserError(f"{columns[0]} holds no two to {len(LETTERS)} options; give a mapping, a list, or `a; b; c`")
    return [str(option).strip() for option in cell]

  def _read_labels(self, labels: Sequence[str]):
    def answer_of(get: Getter) -> str:
      cell = get(self.answer)
      text = shown.known(cell)
      if not labels:
        if not text:
          raise UnknownLabel(f"{self.answer} is empty; fill the row, or set define.other = 'drop'")
        return text
      if self.options:
        columns = listed(self.options, "options")
        options = self._options({column: get(column) for column in columns})
        by_text = [letter for letter, option in zip(LETTERS, options, strict=False) if plain(option) == plain(text)]
        if len(by_text) == 1:
          return by_text[0]
        number = int(text) - self.first if re.fullmatch(r"\d+", text) else -1
        return LETTERS[number] if 0 <= number < len(options) else spelled(cell, LETTERS[: len(options)], self.answer)
      return spelled(cell, labels, self.answer)

    def read(get: Getter) -> dict[str, str] | None:
      try:
        found = {"answer": answer_of(get)}
        if self.reasons:
          found["reasons"] = shown.known(get(self.reasons))
          if not found["reasons"]:
            raise UnknownLabel(f"{self.reasons} is empty; fill the row, or set define.other = 'drop'")
      except UnknownLabel:
        if self.other == "drop":
          return None
        raise
      return found

    return read

  def _read(self, labels: Sequence[str]):
    def read(text: str, fields: Mapping) -> dict[str, str]:
      said = said_last(text)
      if not labels:
        return {"answer": said.strip()} if said.strip() else {}
      if self.options:
        options = self._options(fields)
        found = [letter for letter, option in zip(LETTERS, options, strict=False) if plain(option) == plain(said)]
        letter = re.match(r"\W*([A-Za-z])\b", said)
        if len(found) != 1 and letter and letter[1].upper() in LETTERS[: len(options)]:
          found = [letter[1].upper()]
        return {"answer": found[0]} if len(found) == 1 else {}
      found = [label for label in labels if plain(label) == plain(said)]
      return {"answer": found[0]} if found else {}

    return read


@dataclasses.dataclass(frozen=True)
class Summarization(Prompt):
  """A text -> its summary, judged against the reference. The attributes are keys of `config.define`.

  Attributes:
    summary: the column of the reference.
    facts: whether the columns `must` and `must_not` hold facts, by which the summary is judged then (docs/data.md).
    primary: the metric that selects and reports; empty: `fact_f1` with facts, `rougeL` without.
    max_new_tokens: most tokens of a generated summary.
  """

  summary: str = "summary"
  facts: bool = False
  primary: str = ""
  max_new_tokens: int = 256

  kind: ClassVar[str] = "summarization"
  choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

  def missing_labels(self) -> bool:
    """Never: there are none."""
    return False

  def task(self) -> Task:
    """The task; UserError where a key has a value that cannot be."""
    if self.summary in self.input_columns:
      raise UserError("config.define shows the summary in the prompt; take it out of the prompt")

    def read_labels(get: Getter) -> dict[str, str]:
      text = shown.known(get(self.summary))
      if not text:
        raise UserError(f"{self.summary} is empty; give the reference, or remove the row")
      return {"summary": text}

    render = self.renderer()

    def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> list[Rejection]:
      wrong = perturbations.perturbations(labels["summary"], rng, render(fields))
      return [({"summary": text}, how) for text, how in wrong]

    facts = summarization.facts if self.facts else None
    return Task(
      name=self.name or self.kind,
      description=self.description or "summarization from your data",
      targets={"summary": TextTarget(facts, self.primary or ("fact_f1" if facts else "rougeL"))},
      instruction=self.instruction or "Summarize the text for the clinical record.",
      render=render,
      answer="{summary}",
      rejections=rejections,
      generation=Generation(self.max_new_tokens, summarization.read),
      label_columns=(self.summary,),
      after=listed(self.after, "after"),
      read_labels=read_labels,
    )


def _no_rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """None: of a free answer no wrong one is known; `medjax prefer` samples some."""
  del labels, fields, rng
  return []
