"""Judged answers, which KTO learns from: out of pairs, and each with an answer that has nothing to do with it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging

from medjax import privacy
from medjax.data.examples import JudgedAnswer, PreferencePair
from medjax.errors import UserError


def answers_of_pairs(items: Sequence[PreferencePair | JudgedAnswer]) -> list[JudgedAnswer]:
  """Each pair as a desirable and an undesirable answer; judged answers as they are."""
  answers = []
  for item in items:
    if isinstance(item, PreferencePair):
      answers.append(JudgedAnswer(f"{item.id}/chosen", item.prompt, item.chosen, True))
      answers.append(JudgedAnswer(f"{item.id}/rejected", item.prompt, item.rejected, False))
    else:
      answers.append(item)
  return answers


def with_unrelated(answers: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
  """The same answers, each with `unrelated` set: the answer of the row that follows it in one fixed random order.

  Rows of the same prompt or with the same answer are skipped. So a batch's unrelated answers are like its own ones, but
  belong elsewhere; and as they depend on nothing but the split, their reference log-probabilities are computed once.

  Raises:
    UserError: there is no row to take one from.
  """
  count = len(answers)
  order = np.random.default_rng(0).permutation(count)
  found = list(answers)
  for place, index in enumerate(order):
    own = answers[index]
    following = (answers[order[(place + step) % count]] for step in range(1, count))
    unrelated = next((x.completion for x in following if x.prompt != own.prompt and x.completion != own.completion), "")
    if not unrelated:
      raise UserError(
        f"{privacy.row(own.id)}: no other row of its split has another prompt and another answer, which kto "
        "compares with; add rows, or use a loss on pairs"
      )
    found[index] = dataclasses.replace(own, unrelated=unrelated)
  desirable = sum(answer.desirable for answer in answers)
  if count and desirable in (0, count):
    kind = "desirable" if desirable else "undesirable"
    logging.warning("all %d judged answers are %s; kto is made for some of both kinds", count, kind)
  return found
