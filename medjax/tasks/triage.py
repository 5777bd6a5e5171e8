"""Triage: a patient's portal message -> who should answer first, and how soon."""

from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.tasks import simulator
from medjax.tasks.task import Rejection, Target, Task, register

PROVIDERS = ("physician", "nurse", "pharmacist", "clerk")
URGENCIES = ("routine", "urgent", "emergency")
# How often the wrong urgency comes before the wrong provider. With the labels' shares this gives two pairs against
# under-triage for one against over-triage, as their costs are; without the latter, preferences would only ever push up.
UNDER_TRIAGE_FIRST = 0.6
OVER_TRIAGE_FIRST = 0.35
ROWS = {"train": 1000, "validation": 200, "test": 400}

# Who a hurried colleague would wrongly send it to: by what the message is about, else by the right provider.
_MISTAKEN = {
  "allergy": {"pharmacist": "physician", "nurse": "pharmacist", "physician": "nurse"},
  "bleeding": {"pharmacist": "physician"},
  "booking": {"clerk": "nurse"},
  "childdose": {"pharmacist": "nurse"},
  "device": {"nurse": "physician"},
  "dose": {"physician": "pharmacist", "pharmacist": "nurse"},
  "eye": {"pharmacist": "physician", "physician": "nurse"},
  "lithium": {"physician": "pharmacist", "pharmacist": "physician"},
  "mixup": {"pharmacist": "clerk"},
  "prep": {"nurse": "clerk"},
  "records": {"clerk": "physician"},
  "refill": {"pharmacist": "clerk"},
  "result": {"physician": "nurse"},
  "sideeffect": {"pharmacist": "physician"},
  "supply": {"pharmacist": "clerk"},
  "wound": {"nurse": "physician", "physician": "nurse"},
}
_MISTAKEN_OTHERWISE = {"physician": "nurse", "nurse": "physician", "pharmacist": "physician", "clerk": "nurse"}


def render(fields: Mapping) -> str:
  """The user's message: the portal message as it is."""
  return fields["message"]


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """Two wrong answers: one in urgency with the right provider, one in provider with the right urgency.

  Args:
    labels: the true provider and urgency.
    fields: the row; `topic`, where there is one, names the likeliest wrong provider.
    rng: draws which comes first: the wrong urgency with probability `UNDER_TRIAGE_FIRST` (one level too low), or, in a
      routine message, which can only be over-triaged, with probability `OVER_TRIAGE_FIRST`.

  Returns:
    `(labels, how)`, with `how` in `under_triage`, `over_triage`, `wrong_provider`.
  """
  level = URGENCIES.index(labels["urgency"])
  under = level > 0
  shifted = {**labels, "urgency": URGENCIES[level - 1 if under else 1]}
  mistaken = (
    _MISTAKEN.get(fields.get("topic", ""), {}).get(labels["provider"]) or _MISTAKEN_OTHERWISE[labels["provider"]]
  )
  wrong = [
    (shifted, "under_triage" if under else "over_triage"),
    ({**labels, "provider": mistaken}, "wrong_provider"),
  ]
  urgency_first = rng.random() < (UNDER_TRIAGE_FIRST if under else OVER_TRIAGE_FIRST)
  return wrong if urgency_first else wrong[::-1]


def rows(split: str, count: int | None = None) -> list[Row]:
  """The frozen rows of a split; any first n are a fair sample.

  Args:
    split: `train`, `validation` or `test`.
    count: how many; None for as many as `ROWS` says. The simulator holds 2,000 for training.

  Returns:
    The rows.
  """
  return [
    Row(
      id=f"message-{message.patient.index}-{message.number}",
      group=f"patient-{message.patient.index}",
      fields={"message": message.text, "topic": message.topic},
      labels={"provider": message.provider, "urgency": message.urgency},
    )
    for message in simulator.messages(split)[: ROWS[split] if count is None else count]
  ]


TRIAGE = register(
  Task(
    name="triage",
    description="patient portal message -> provider who should answer first, and urgency (simulated patients)",
    targets={
      "provider": Target(PROVIDERS),
      "urgency": Target(URGENCIES, ordinal=True),
    },
    instruction="Triage this patient message: provider (physician, nurse, pharmacist, clerk), "
    "urgency (routine, urgent, emergency).",
    render=render,
    answer="{provider}, {urgency}",
    rejections=rejections,
    load=lambda: {split: rows(split) for split in ROWS},
  )
)
