"""Laboratory thresholds: is the sodium low, normal or high, and are the transaminases raised?"""

from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.tasks import panels
from medjax.tasks.task import Rejection, Target, Task, register


def render(fields: Mapping) -> str:
  """The user's message: the panel as it is."""
  return fields["panel"]


def _neighbour(label: str, labels: Sequence[str], share: float) -> str:
  """The neighbouring class; of the middle one, the lower where `share`, the place in its range, is below a half."""
  return labels[1] if label != labels[1] else labels[0 if share < 0.5 else 2]


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """Two wrong answers: one in sodium, one in the transaminases, each a neighbouring class with the other target right.

  Args:
    labels: the true classes.
    fields: the row; where it has the values (`sodium` in mmol/l, `alt` and `ast` in U/l, `sex`), the middle class is
      mistaken for the nearer neighbour, else for a drawn one.
    rng: draws which comes first.

  Returns:
    `(labels, how)`, with `how` in `neighbouring_sodium`, `neighbouring_transaminases`.
  """
  shares = rng.random(2)
  if "sodium" in fields:
    low, high = panels.SODIUM_LIMITS
    shares[0] = (fields["sodium"] - low) / (high - low)
  if "alt" in fields:
    limit = panels.LIMITS[fields["sex"]]
    highest = max(fields[name] for name in ("alt", "ast") if fields[name] is not None)
    shares[1] = (highest - limit) / (limit * (panels.MARKED - 1))
  wrong = []
  for name, order, share in zip(
    ("sodium", "transaminases"), (panels.SODIUM, panels.TRANSAMINASES), shares, strict=True
  ):
    wrong.append(({**labels, name: _neighbour(labels[name], order, share)}, f"neighbouring_{name}"))
  return wrong if rng.random() < 0.5 else wrong[::-1]


def rows(split: str) -> list[Row]:
  """The frozen rows of a split (`train`, `validation` or `test`); any first n are a fair sample."""
  return [
    Row(
      id=f"panel-{panel.index}-{panel.number}",
      group=f"patient-{panel.index}",
      fields={"panel": panel.text, "sex": panel.sex, "sodium": panel.sodium, "alt": panel.alt, "ast": panel.ast},
      labels={
        "sodium": panels.sodium_class(panel.sodium),
        "transaminases": panels.transaminases_class(panel.sex, panel.alt, panel.ast),
      },
    )
    for panel in panels.panels(split)
  ]


LABORATORY_THRESHOLDS = register(
  Task(
    name="laboratory_thresholds",
    description="laboratory panel -> class of the sodium and of the transaminases (simulated patients)",
    targets={"sodium": Target(panels.SODIUM), "transaminases": Target(panels.TRANSAMINASES)},
    instruction="Sodium: low below 135, high above 145 mmol/l. Transaminases (the higher of ALT and AST): raised above "
    "40 U/l (women 32), markedly raised above 3 times that. 1 ukat/l = 60 U/l.",
    render=render,
    answer="{sodium}, {transaminases}",
    rejections=rejections,
    load=lambda: {split: rows(split) for split in ("train", "validation", "test")},
  )
)
