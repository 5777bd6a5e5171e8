"""Text classification: does a short note meet the criteria of a urinary tract infection now?"""

from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.tasks import notes
from medjax.tasks.task import Rejection, Target, Task, register

LABELS = ("yes", "no")


def render(fields: Mapping) -> str:
  """The user's message: the note as it is."""
  return fields["note"]


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """The other label; nothing is drawn."""
  return [({"uti": LABELS[1 - LABELS.index(labels["uti"])]}, "wrong_label")]


def rows(split: str) -> list[Row]:
  """The frozen rows of a split (`train`, `validation` or `test`); any first n are a fair sample."""
  return [
    Row(
      id=f"note-{note.patient.index}-{note.number}",
      group=f"patient-{note.patient.index}",
      fields={"note": note.text},
      labels={"uti": LABELS[0] if notes.meets_criteria(note) else LABELS[1]},
    )
    for note in notes.notes(split)
  ]


TEXT_CLASSIFICATION = register(
  Task(
    name="text_classification",
    description="short clinical note -> criteria of a urinary tract infection met now, yes or no (simulated patients)",
    targets={"uti": Target(LABELS)},
    instruction="Does this note meet UTI criteria now: a present urinary symptom without other cause, and urine of "
    "this visit with bacteria from 100,000 CFU/ml or nitrite and 10 WBC/ul? Reply yes or no.",
    render=render,
    answer="{uti}",
    rejections=rejections,
    load=lambda: {split: rows(split) for split in ("train", "validation", "test")},
  )
)
