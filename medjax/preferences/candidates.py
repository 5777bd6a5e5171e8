"""What a way of making pairs hands on: candidates for each row, of which the best balanced are kept."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from medjax import files
from medjax.data.examples import Row
from medjax.tasks.perturbations import perturbations
from medjax.tasks.task import Target, Task, TextTarget


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Two answers to one prompt, the first of which is better.

  Attributes:
    chosen: the better answer.
    rejected: the other.
    how: where the rejected one came from.
    rank: from 0, the most instructive first; among candidates of one rank their lengths decide.
    sampled: whether one of the two is a policy's sample.
  """

  chosen: str
  rejected: str
  how: str
  rank: int = 0
  sampled: bool = False

  @property
  def gap(self) -> int:
    """Words of the chosen answer less words of the rejected one."""
    return len(self.chosen.split()) - len(self.rejected.split())


@dataclasses.dataclass(frozen=True)
class Found:
  """The candidates of one row, and why there are none, where there are none."""

  candidates: tuple[Candidate, ...]
  reason: str = ""


def from_labels(task: Task, rows: Sequence[Row], seed: int) -> list[Found]:
  """The pairs that training makes of the rows by itself (`Task.pairs`), all that the task's policy rejects."""
  of_row: dict[str, list[Candidate]] = {row.id: [] for row in rows}
  for pair in task.pairs(rows, seed, per_row=10**6):
    of_this = of_row[pair.id.rpartition("#")[0]]
    of_this.append(Candidate(pair.chosen, pair.rejected, pair.how, len(of_this)))
  return [Found(tuple(found), "" if found else "nothing_to_reject") for found in of_row.values()]


def from_perturbations(task: Task, rows: Sequence[Row], seed: int) -> list[Found]:
  """The true answer against copies of it with one mistake each.

  Texts of an answer (those of text targets, and what else it is written with, such as reasons) are changed as
  `perturbations` says; of a label that is ordinal the next lower one is under-triage. What is drawn depends on seed and
  the row's id alone. Kinds of mistake come in random order, and within a kind lengths decide.
  """
  return [_perturbed(task, row, seed) for row in rows]


def _perturbed(task: Task, row: Row, seed: int) -> Found:
  rng = np.random.default_rng([seed, int(files.fingerprint(row.id), 16)])
  wrong: list[tuple[Mapping[str, str], str]] = []
  for name, label in row.labels.items():
    target = task.targets.get(name)
    if isinstance(target, Target):
      level = target.labels.index(label)
      if target.ordinal and level:
        wrong.append(({name: target.labels[level - 1]}, "under_triage"))
    elif isinstance(target, TextTarget) or f"{{{name}}}" in task.answer:
      wrong += [({name: text}, how) for text, how in perturbations(label, rng, task.render(row.fields))]
  kinds = list(dict.fromkeys(how for _, how in wrong))
  ranks = dict(zip(kinds, rng.permutation(len(kinds)).tolist(), strict=True))
  found = []
  for labels, how in wrong:
    truth = {name: row.labels[name] for name in labels} if task.separate else row.labels
    found.append(Candidate(task.completion(truth), task.completion({**truth, **labels}), how, ranks[how]))
  return Found(tuple(found), "" if found else "nothing_to_change")
