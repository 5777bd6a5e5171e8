"""Summarization: an encounter -> a short handover summary, judged by the facts it states and invents."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.tasks import encounters
from medjax.tasks.task import Facts, Generation, Rejection, Task, TextTarget, register

MISTAKES = ("omitted_fact", "invented_fact", "wrong_side", "wrong_dose", "wrong_unit", "denied_as_present")
# How readily a kind of mistake comes first; half of the encounters have no side.
_WEIGHTS = {"wrong_side": 2.0}
ROWS = {"train": 800, "validation": 150, "test": 200}


def render(fields: Mapping) -> str:
  """The user's message: the encounter as it is."""
  return fields["encounter"]


def facts(fields: Mapping) -> Facts:
  """What the summary must state and must not: the fields `must` and `must_not`, fact -> regular expressions.

  Raises:
    UserError: a row without `must`, or facts of another form.
  """
  if not fields.get("must"):
    raise UserError("a row names no facts; give `must` (fact -> list of regular expressions), or it cannot be judged")
  return Facts(_patterns(fields, "must"), _patterns(fields, "must_not"))


def _patterns(fields: Mapping, kind: str) -> dict[str, tuple[str, ...]]:
  facts = fields.get(kind) or {}
  if not isinstance(facts, Mapping):
    raise UserError(f"{kind} is {type(facts).__name__}; it must map each fact to a list of regular expressions")
  found = {name: (choices,) if isinstance(choices, str) else tuple(choices) for name, choices in facts.items()}
  for name, choices in found.items():
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
      raise UserError(f"{kind}: fact {name!r} must have one or more regular expressions")
  return found


def read(text: str, fields: Mapping) -> Mapping[str, str]:
  """The generated text as the summary; an empty one is unparseable."""
  del fields
  return {"summary": text.strip()} if text.strip() else {}


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """Wrong summaries, one of each kind the row has: the reference with one mistake and nothing else changed.

  Args:
    labels: the reference summary.
    fields: the row; `wrong` holds wrong summaries by kind. Without it, a sentence of the reference is left out.
    rng: draws the order of the kinds (by weight, without replacement) and one summary of each.

  Returns:
    `(labels, how)`, with `how` in `MISTAKES` or as the row names it. Empty where the reference is a single sentence
    and the row has no wrong summaries.
  """
  wrong = fields.get("wrong")
  if not wrong:
    sentences = labels["summary"].split(". ")
    kept = [". ".join(sentences[:i] + sentences[i + 1 :]) for i in range(len(sentences)) if len(sentences) > 1]
    wrong = {"omitted_fact": kept} if kept else {}
  # The order of exponential waiting times with these rates.
  waits = {kind: -math.log1p(-rng.random()) / _WEIGHTS.get(kind, 1.0) for kind in wrong}
  return [
    ({"summary": wrong[kind][int(rng.random() * len(wrong[kind]))]}, kind) for kind in sorted(waits, key=waits.get)
  ]


def rows(split: str, count: int | None = None) -> list[Row]:
  """The frozen rows of a split; any first n are a fair sample.

  Args:
    split: `train`, `validation` or `test`.
    count: how many; None for as many as `ROWS` says. The simulator holds 1,600 for training.

  Returns:
    The rows. Fields: `encounter`, the facts as `must` and `must_not`, and `wrong` summaries by kind of mistake.
  """
  return [
    Row(
      id=f"encounter-{item.person.index}-{item.number}",
      group=f"patient-{item.person.index}",
      fields={
        "encounter": item.text,
        **{
          kind: {name: list(texts) for name, texts in getattr(item, kind).items()}
          for kind in ("must", "must_not", "wrong")
        },
      },
      labels={"summary": item.summary},
    )
    for item in encounters.encounters(split)[: ROWS[split] if count is None else count]
  ]


SUMMARIZATION = register(
  Task(
    name="summarization",
    description="encounter -> handover summary, judged by facts stated and invented (simulated patients)",
    targets={"summary": TextTarget(facts=facts, primary="fact_f1")},
    instruction="Handover summary: age and sex, problem, key finding, drug and dose, allergy, pending test.",
    render=render,
    answer="{summary}",
    rejections=rejections,
    load=lambda: {split: rows(split) for split in ROWS},
    generation=Generation(max_new_tokens=56, read=read),
  )
)
