"""Seeded laboratory panels: sodium and transaminases among other values, in changing names, units, order and layout.

Classes are drawn first and values after them, often at a threshold or between the limits of the two sexes. Everything
is a function of the seed and the patient's number.
"""

import dataclasses
import functools

from medjax.tasks.simulator_draws import Draws, expand, one_or_two_each

SEED = 20270
SPLITS = {"test": (0, 400), "validation": (100_000, 200), "train": (200_000, 1000)}  # first patient, panels
SODIUM = ("low", "normal", "high")
TRANSAMINASES = ("normal", "raised", "markedly raised")
SODIUM_LIMITS = (135, 145)  # mmol/l, both still normal
LIMITS = {"M": 40, "F": 32}  # U/l, of ALT and AST alike, still normal
MARKED = 3  # times the limit, still raised
UKAT = 60  # U/l in one microkatal per litre

_NAMES = {
  "sodium": ("Na", "Na", "sodium", "Na+", "serum Na"),
  "alt": ("ALT", "ALT", "ALAT", "GPT", "SGPT"),
  "ast": ("AST", "AST", "ASAT", "GOT", "SGOT"),
}
# Other values: name, template, unit. Their numbers lie where those of sodium and the transaminases do.
_OTHERS = (
  ("K", "{3.3-5.4}", "mmol/l"),
  ("Cl", "{95-109}", "mmol/l"),
  ("creatinine", "{52-148}", "umol/l"),
  ("urea", "{2.6-9.8}", "mmol/l"),
  ("glucose", "{4.1-12.5}", "mmol/l"),
  ("Hb", "{98-168}", "g/l"),
  ("ALP", "{38-240}", "U/l"),
  ("GGT", "{9-310}", "U/l"),
  ("CK", "{31-520}", "U/l"),
  ("LDH", "{128-420}", "U/l"),
  ("bilirubin", "{5-48}", "umol/l"),
  ("albumin", "{29-48}", "g/l"),
  ("urine Na", "{12-160}", "mmol/l"),
)
_EARLIER = ("(was {v})", "(earlier {v})", "(last week {v})", "(previous {v})")
_OPENINGS = {
  "F": ("{a} F", "F {a}", "woman, {a}", "{a} year old woman", "{a}F"),
  "M": ("{a} M", "M {a}", "man, {a}", "{a} year old man", "{a}M"),
}
_LAYOUTS = (  # one entry, what stands between entries, whether units are written
  ("{n} {v} {u}", ", ", True),
  ("{n} {v} {u}", "; ", True),
  ("{n}: {v} {u}", "\n", True),
  ("{n} = {v} {u}", "\n", True),
  ("{n} | {v} | {u}", "\n", True),
  ("{n} {v}", ", ", False),
  ("{n} {v}", " / ", False),
)


@dataclasses.dataclass(frozen=True)
class Panel:
  """A written panel and its ground truth.

  Attributes:
    index: number of the patient.
    number: 0 for the patient's first panel.
    sex: `F` or `M`.
    age: years.
    sodium: mmol/l, with at most one decimal.
    alt: U/l; None where not measured.
    ast: U/l; None where not measured, never both.
    text: the panel.
  """

  index: int
  number: int
  sex: str
  age: int
  sodium: float
  alt: int | None
  ast: int | None
  text: str


def sodium_class(sodium: float) -> str:
  """`low` below 135 mmol/l, `high` above 145, `normal` from one to the other, both included."""
  low, high = SODIUM_LIMITS
  return SODIUM[0] if sodium < low else SODIUM[2] if sodium > high else SODIUM[1]


def transaminases_class(sex: str, alt: float | None, ast: float | None) -> str:
  """`normal` where neither is above the sex's limit, `markedly raised` where one is above three times it."""
  highest = max(value for value in (alt, ast) if value is not None)
  limit = LIMITS[sex]
  return TRANSAMINASES[0 if highest <= limit else 1 if highest <= MARKED * limit else 2]


def _sodium(draws: Draws, kind: str) -> float:
  """A sodium of this class in mmol/l, a quarter of them at a threshold, a third with a decimal."""
  decimal, edge = draws.chance(0.33), draws.chance(0.25)
  whole, tenths = {
    "low": ((134, 134), (1345, 1349)) if edge else ((112, 133), (1120, 1344)),
    "normal": draws.pick((((135, 135), (1350, 1353)), ((145, 145), (1447, 1450))))
    if edge
    else ((136, 144), (1354, 1446)),
    "high": ((146, 146), (1451, 1455)) if edge else ((147, 168), (1456, 1680)),
  }[kind]
  return draws.between(*tenths) / 10 if decimal else float(draws.between(*whole))


def _highest(draws: Draws, kind: str, sex: str) -> int:
  """A highest transaminase of this class in U/l: at a threshold, between the limits of the two sexes, or anywhere."""
  limit, marked = LIMITS[sex], MARKED * LIMITS[sex]
  men, women = LIMITS["M"], LIMITS["F"]
  where = draws.pick(("edge", "between", "any"), (0.25, 0.3, 0.45))
  if where == "edge":
    return draws.pick(
      {"normal": (limit - 1, limit), "raised": (limit + 1, marked), "markedly raised": (marked + 1,)}[kind]
    )
  if where == "between" and (kind, sex) in (("normal", "M"), ("raised", "F")):
    return draws.between(women + 1, men)
  if where == "between" and (kind, sex) in (("raised", "M"), ("markedly raised", "F")):
    return draws.between(MARKED * women + 1, MARKED * men)
  ranges = {
    "normal": ((14, limit),),
    "raised": ((limit + 1, marked),),
    "markedly raised": ((marked + 1, 250), (251, 900)),
  }
  return draws.between(*draws.pick(ranges[kind]))


def _transaminases(draws: Draws, kind: str, sex: str) -> tuple[int | None, int | None, bool]:
  """ALT and AST in U/l, one of them perhaps not measured, and whether to write them in microkatal per litre."""
  katal = draws.chance(0.12)
  highest = _highest(draws, kind, sex)
  while katal and min(abs(highest - limit * times) for limit in LIMITS.values() for times in (1, MARKED)) < 2:
    highest = _highest(draws, kind, sex)  # rounding must not decide
  lower = max(8, highest * draws.between(25, 95) // 100)
  if katal and min(abs(lower - limit * times) for limit in LIMITS.values() for times in (1, MARKED)) < 2:
    lower = 12
  values = [highest, None if draws.chance(0.15) else min(lower, highest)]
  alt, ast = draws.shuffled(values)
  return alt, ast, katal


def _enzyme(value: int, katal: bool) -> str:
  """The value in U/l, or in microkatal per litre with two decimals."""
  return f"{value / UKAT:.2f}" if katal else str(value)


def _entries(draws: Draws, panel: Panel, katal: bool) -> list[tuple[str, str, str, str]]:
  """Name, value, unit and earlier value of everything in the panel, in a drawn order."""
  earlier = ["", ""]
  if draws.chance(0.45):
    earlier[0] = draws.pick(_EARLIER).format(v=f"{_sodium(draws, draws.pick(SODIUM)):g}")
  if draws.chance(0.2):
    earlier[1] = draws.pick(_EARLIER).format(v=_enzyme(_highest(draws, draws.pick(TRANSAMINASES), panel.sex), katal))
  sodium_unit, enzyme_unit = draws.pick(("mmol/l", "mmol/L", "mEq/l")), draws.pick(("U/l", "U/L", "IU/l"))
  entries = [(draws.pick(_NAMES["sodium"]), f"{panel.sodium:g}", sodium_unit, earlier[0])]
  for name, value in (("alt", panel.alt), ("ast", panel.ast)):
    if value is not None:
      unit = "ukat/l" if katal else enzyme_unit
      entries.append((draws.pick(_NAMES[name]), _enzyme(value, katal), unit, earlier[1]))
      earlier[1] = ""
  for name, template, unit in draws.shuffled(_OTHERS)[: draws.between(2, 3)]:
    entries.append((name, expand(draws, template, str), unit, ""))
  return draws.shuffled(entries)


def _written(draws: Draws, panel: Panel, katal: bool) -> str:
  """The panel as a laboratory or a hurried clinician would write it."""
  layout, joint, units = draws.pick(_LAYOUTS)
  parts = []
  for name, value, unit, earlier in _entries(draws, panel, katal):
    entry = (layout if units or unit != "ukat/l" else layout + " {u}").format(n=name, v=value, u=unit)
    parts.append(f"{entry} {earlier}".strip())
  opening = draws.pick(_OPENINGS[panel.sex]).format(a=panel.age)
  return opening + ("\n" if joint == "\n" else ". ") + joint.join(parts)


def panel(seed: int, index: int, number: int) -> Panel:
  """One panel of a patient.

  Args:
    seed: seed of the population.
    index: number of the patient.
    number: 0 for the first panel, 1 for the second.

  Returns:
    The panel with its ground truth.
  """
  person = Draws(seed, index, 0)
  sex, age = person.pick("FM"), person.between(19, 88)
  draws = Draws(seed, index, 1 + number)
  sodium = _sodium(draws, draws.pick(SODIUM))
  alt, ast, katal = _transaminases(draws, draws.pick(TRANSAMINASES), sex)
  bare = Panel(index, number, sex, age, sodium, alt, ast, "")
  return dataclasses.replace(bare, text=_written(draws, bare, katal))


@functools.cache
def panels(split: str) -> tuple[Panel, ...]:
  """All panels of a split, in the order of its rows.

  Args:
    split: `train`, `validation` or `test`; they share no patient.

  Returns:
    1,000, 200 or 400 panels, one or two of each patient.
  """
  first, wanted = SPLITS[split]
  return one_or_two_each(SEED, first, wanted, (9, 10), lambda index, number, _: panel(SEED, index, number))
