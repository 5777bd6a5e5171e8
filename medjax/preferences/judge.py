"""Preference pairs by a judge: which of two answers is better, asked in both orders."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from medjax import files
from medjax.data.examples import Row
from medjax.evaluation.answers import Answer
from medjax.evaluation.judge import SWAPPED, Judge, ask_in_both_orders
from medjax.preferences.candidates import Candidate, Found
from medjax.tasks.task import Task


@dataclasses.dataclass
class Agreement:
  """How a judge answered.

  Attributes:
    compared: pairs of answers it was asked about, each in both orders.
    consistent: pairs of which it said the same in both orders.
    ties: consistent ones of which it preferred neither.
    first: times that it preferred the answer that came first, of twice `compared`.
  """

  compared: int = 0
  consistent: int = 0
  ties: int = 0
  first: int = 0


def from_judge(
  task: Task,
  rows: Sequence[Row],
  answers: Sequence[Sequence[Answer]],
  judge: Judge,
  seed: int,
  advance: Callable[[int], None] = lambda questions: None,
) -> tuple[list[Found], Agreement]:
  """Candidates that a judge prefers, whichever of the two answers comes first.

  A row's different samples are compared two by two in random order, the one that is left over with the reference.
  Samples that are empty or that the model did not end are left out.

  Args:
    task: gives prompts and references.
    rows: the rows.
    answers: of each row, its samples.
    judge: asked twice about each two answers.
    seed: of the order.
    advance: told of each question that was answered.

  Returns:
    Candidates of each row, with `how` = `judge`; a row without has the reason `too_few_answers`, `tie` or
    `inconsistent`. And how the judge answered.

  Raises:
    RunError: the judge fails.
  """
  compared: list[tuple[int, str, str]] = []
  for index, (row, drawn) in enumerate(zip(rows, answers, strict=True)):
    reference = task.completion(row.labels)
    texts = sorted({answer.text.strip() for answer in drawn if answer.ended} - {"", reference})
    rng = np.random.default_rng([seed, int(files.fingerprint(row.id), 16)])
    texts = [texts[place] for place in rng.permutation(len(texts))]
    texts += [reference] * (len(texts) % 2)
    compared += [(index, *texts[first : first + 2]) for first in range(0, len(texts), 2)]
  questions = [
    {
      "id": rows[index].id,
      "prompt": list(map(dict, task.prompt(rows[index]))),
      "answer_a": one,
      "answer_b": other,
      "reference": task.completion(rows[index].labels),
    }
    for index, one, other in compared
  ]
  verdicts = ask_in_both_orders(judge, questions, advance)
  agreement = Agreement(len(compared), first=sum(pair.count("a") for pair in verdicts))
  candidates: list[list[Candidate]] = [[] for _ in rows]
  reasons = ["too_few_answers"] * len(rows)
  for (index, one, other), (first, second) in zip(compared, verdicts, strict=True):
    consistent = second == SWAPPED[first]
    agreement.consistent += consistent
    agreement.ties += consistent and first == "tie"
    if consistent and first != "tie":
      chosen, rejected = (one, other) if first == "a" else (other, one)
      candidates[index].append(Candidate(chosen, rejected, "judge", sampled=True))
    else:
      reasons[index] = "tie" if consistent else "inconsistent"
  return [
    Found(tuple(found), "" if found else reason) for found, reason in zip(candidates, reasons, strict=True)
  ], agreement
