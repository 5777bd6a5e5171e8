"""Pairs out of a policy's own answers: what it gets right against what it gets wrong."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from medjax.data.examples import Row
from medjax.evaluation.answers import Answer
from medjax.evaluation.metrics import higher_is_better, score_texts
from medjax.preferences.candidates import Candidate, Found
from medjax.tasks.task import Target, Task, TextTarget

MARGIN = 0.1  # of the primary metric: texts closer than this are not told apart


@dataclasses.dataclass
class Tally:
  """What was found in the samples of all rows.

  Attributes:
    samples: answers that were drawn.
    right: whose labels are all those of the row.
    wrong: with another label.
    unparseable: in which a label or text cannot be read.
    unended: that the model did not end; they are never chosen.
  """

  samples: int = 0
  right: int = 0
  wrong: int = 0
  unparseable: int = 0
  unended: int = 0


def from_policy(
  task: Task, rows: Sequence[Row], answers: Sequence[Sequence[Answer]], use_unparseable: bool
) -> tuple[list[Found], Tally]:
  """Candidates from samples of a policy.

  Where the task has labels, a right answer (without one, or where the answer holds a text of its own to be judged, the
  reference) is chosen over wrong ones, the most frequent wrong labels first: these are what the policy is most inclined
  to say. Where all that is asked for are texts, the best (of samples and reference; the sample where they are equal) is
  chosen over those that the primary metric puts more than `MARGIN` below it, the worst first.

  Args:
    task: reads the answers.
    rows: the rows.
    answers: of each row, its samples.
    use_unparseable: whether answers that cannot be read are rejected, too, after all wrong ones.

  Returns:
    Candidates of each row, with `how` one of `policy_wrong`, `policy_worse`, `policy_unparseable`; a row without has
    the reason `too_easy` (all are right), `unparseable` or `within_margin`. And the tally.
  """
  tally = Tally()
  labelled = any(isinstance(target, Target) for target in task.targets.values())
  if not labelled:
    return [_ranked(task, row, drawn, tally) for row, drawn in zip(rows, answers, strict=True)], tally
  read = _reader(task)
  found = []
  for row, drawn in zip(rows, answers, strict=True):
    found.append(_sorted_out(task, row, drawn, [read(answer.text, row) for answer in drawn], tally, use_unparseable))
  return found, tally


def _reader(task: Task):
  """(text, row) -> (the label of each label target, the text as an answer would have it), or None."""
  targets = {name: target for name, target in task.targets.items() if isinstance(target, Target)}
  if task.generation is None:
    known = {_plain(task.completion(labels)): labels for labels in task.answers()}

    def read(text: str, row: Row) -> tuple[Mapping[str, str], str] | None:
      labels = known.get(_plain(text))
      return None if labels is None or not _may_be(task, row, labels) else (labels, task.completion(labels))

    return read

  def read(text: str, row: Row) -> tuple[Mapping[str, str], str] | None:
    said = task.generation.read(text, row.fields)
    labels = {name: said.get(name) for name in targets}
    return (labels, text.strip()) if text.strip() and _may_be(task, row, labels) else None

  return read


def _may_be(task: Task, row: Row, labels: Mapping[str, str | None]) -> bool:
  """Whether a row may have these labels."""
  return all(
    label in (task.targets[name].labels if task.allowed is None else task.allowed(row.fields, name))
    for name, label in labels.items()
  )


def _plain(text: str) -> str:
  return " ".join(text.casefold().strip(" \n.").split())


def _sorted_out(
  task: Task,
  row: Row,
  answers: Sequence[Answer],
  read: Sequence[tuple[Mapping[str, str], str] | None],
  tally: Tally,
  use_unparseable: bool,
) -> Found:
  truth = {name: row.labels[name] for name, target in task.targets.items() if isinstance(target, Target)}
  right: dict[str, None] = {}
  wrong: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
  times: collections.Counter = collections.Counter()
  unread: dict[str, None] = {}
  for answer, found in zip(answers, read, strict=True):
    tally.samples += 1
    tally.unended += not answer.ended
    if found is None:
      tally.unparseable += 1
      if answer.text.strip():
        unread[answer.text.strip()] = None
      continue
    labels, text = found
    if all(truth[name] == label for name, label in labels.items()):
      tally.right += 1
      if answer.ended:
        right[text] = None
    else:
      tally.wrong += 1
      times[tuple(labels.items())] += 1
      wrong.setdefault(tuple(labels.items()), {})[text] = None
  if len(truth) < len(task.targets) or not right:
    right = {} if task.separate else {task.completion(row.labels): None}
  # Equally frequent ones share a rank, so that their lengths decide between them.
  ranks = {count: rank for rank, count in enumerate(sorted(set(times.values()), reverse=True))}
  made = []
  for labels, texts in wrong.items():
    # Where targets are asked for one by one, a wrong answer has its opposite in the same target's label.
    chosen = [task.completion({name: truth[name] for name, _ in labels})] if task.separate else right
    pairs = itertools.product(chosen, texts)
    made += [Candidate(good, bad, "policy_wrong", ranks[times[labels]], True) for good, bad in pairs]
  if use_unparseable:
    made += [Candidate(good, bad, "policy_unparseable", len(ranks), True) for good in right for bad in unread]
  made = [candidate for candidate in made if candidate.chosen != candidate.rejected]
  return Found(tuple(made), "" if made else "too_easy" if all(read) else "unparseable")


def _ranked(task: Task, row: Row, answers: Sequence[Answer], tally: Tally) -> Found:
  """Candidates of a row that asks for texts alone."""
  read = [task.generation.read(answer.text, row.fields) for answer in answers]
  names = list(task.targets)
  texts: dict[str, bool] = {}
  values: dict[str, float] = {}
  for answer, said in zip(answers, read, strict=True):
    text = answer.text.strip()
    tally.samples += 1
    tally.unended += not answer.ended
    if not text or not all(said.get(name) for name in names):
      tally.unparseable += 1
    elif text not in texts:
      texts[text] = answer.ended
      values[text] = _value(task, row, said)
  if not texts:
    return Found((), "unparseable")
  reference = task.completion(row.labels)
  chosen, best = reference, _value(task, row, row.labels)
  for text, ended in texts.items():
    if ended and values[text] >= best and (values[text] > best or chosen == reference):
      chosen, best = text, values[text]
  worse = sorted((text for text in texts if best - values[text] > MARGIN), key=lambda text: (values[text], text))
  levels = {value: rank for rank, value in enumerate(sorted({values[text] for text in worse}))}
  made = [Candidate(chosen, text, "policy_worse", levels[values[text]], True) for text in worse if text != chosen]
  return Found(tuple(made), "" if made else "within_margin")


def _value(task: Task, row: Row, said: Mapping[str, str]) -> float:
  """Mean over the text targets of the primary metric, turned so that more is better."""
  values = []
  for name, target in task.targets.items():
    assert isinstance(target, TextTarget)
    (scores,) = score_texts(task, name, [row], [said[name]])
    values.append(scores[target.primary] * (1 if higher_is_better(target.primary) else -1))
  return sum(values) / len(values)
