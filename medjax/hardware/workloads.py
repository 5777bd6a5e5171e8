"""Lengths that benchmarks run on: clinical texts are long prompts with short answers."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from medjax.data.examples import Segments


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Token counts, lognormal: exp(N(ln median, sigma^2)), cut to [least, most]."""

  median: int
  sigma: float
  least: int
  most: int

  def draw(self, random: np.random.Generator, count: int) -> list[int]:
    """So many lengths."""
    drawn = np.exp(random.normal(math.log(self.median), self.sigma, count))
    return np.clip(np.round(drawn), self.least, self.most).astype(int).tolist()


@dataclasses.dataclass(frozen=True)
class Workload:
  """What is trained on.

  Attributes:
    about: one line.
    prompt: lengths of prompts.
    answer: lengths of answers, the token that ends them not counted.
    everything: whether each token of a text is scored (SFT only), not the answer alone.
  """

  about: str
  prompt: Lengths
  answer: Lengths
  everything: bool = False


WORKLOADS = {
  "clinical": Workload("long notes, short answers", Lengths(200, 0.5, 32, 411), Lengths(20, 0.6, 2, 100)),
  "long_answers": Workload("short questions, long answers", Lengths(40, 0.5, 8, 120), Lengths(120, 0.5, 30, 300)),
  "texts": Workload("texts of which all is scored", Lengths(54, 0.6, 10, 154), Lengths(36, 0.6, 6, 102), True),
  "full": Workload(
    "rows of 256 tokens of which all is scored", Lengths(160, 0, 160, 160), Lengths(95, 0, 95, 95), True
  ),
}


def lengths(workload: Workload, answers: int, count: int, seed: int) -> Iterator[tuple[int, tuple[int, ...]]]:
  """(tokens of the prompt, tokens of each answer) of so many examples."""
  random = np.random.default_rng(seed)
  prompts = workload.prompt.draw(random, count)
  drawn = workload.answer.draw(random, count * answers)
  for index, prompt in enumerate(prompts):
    yield prompt, tuple(drawn[index * answers : (index + 1) * answers])


def random_groups(
  workload: Workload, answers: int, count: int, seed: int, vocabulary: int, most: int
) -> list[Segments]:
  """Groups of random token ids in a workload's lengths; all shorter in proportion where one would exceed `most`.

  Args:
    workload: the lengths.
    answers: completions of each prompt; each has one token more, for what ends it. With `everything` all of a text
      but its first token is the completion.
    count: groups.
    seed: of lengths and ids.
    vocabulary: ids are below.
    most: tokens of a group.
  """
  random = np.random.default_rng(seed)
  found = list(lengths(workload, answers, count, seed))
  if workload.everything:
    found = [(1, tuple(prompt + answer - 1 for answer in of_answers)) for prompt, of_answers in found]
  shrink = min(1.0, most / max(prompt + sum(of_answers) + answers for prompt, of_answers in found))

  def ids(size: int) -> tuple[int, ...]:
    return tuple(random.integers(0, vocabulary, max(1, int(size * shrink))).tolist())

  return [
    Segments(f"random-{number}", ids(prompt), tuple(ids(answer + 1) for answer in of_answers))
    for number, (prompt, of_answers) in enumerate(found)
  ]
