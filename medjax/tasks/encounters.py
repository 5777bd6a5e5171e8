"""A seeded clinic: encounters as they are talked or jotted down, the handover summary, its facts, and wrong summaries.

An encounter has one complaint with a finding, a drug, allergies and a pending test, and around them what a summary
leaves out: denied symptoms, the past, the other side, relatives, normal findings and tests, standing drugs, chat.
Everything is a function of the seed and the patient's number.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

from medjax.tasks import encounters_facts as expressions
from medjax.tasks.encounters_cases import ALLERGENS, CASES, CONFLICTS, NEVER, NORMAL, STANDING, Case, Drug, Named
from medjax.tasks.encounters_text import MATTERS, NUMBER_WORDS, SAID_FREQUENCY, WRONG_UNITS
from medjax.tasks.simulator_draws import Draws, expand, one_or_two_each

SEED = 20260
SPLITS = {"test": (0, 200), "validation": (100_000, 150), "train": (200_000, 1600)}  # first patient, encounters
ORDER = ("problem", "finding", "drug", "allergy", "pending")  # of the summary's sentences, the first with age and sex
MOST_WORDS = 66  # of an encounter; then matters that a summary leaves out are left out here
_ASIDES = ("talk", "relative", "repeat", "normal", "standing", "settled", "past", "other_side")
_LASTING = {"days": (2, 9), "weeks": (2, 7), "months": (2, 8)}
_RELATIVES = ("sister", "brother", "mother", "father", "daughter", "son")
_RELATIVE_HAS = ("gout", "asthma", "diabetes", "arthritis", "glaucoma")


@dataclasses.dataclass(frozen=True)
class Person:
  """A patient: number, age in years, sex (`F` or `M`), and what they are allergic to, None where to nothing."""

  index: int
  age: int
  sex: str
  allergen: Named | None


@dataclasses.dataclass(frozen=True)
class Encounter:
  """An encounter and its ground truth.

  Attributes:
    person: the patient.
    number: 0 for the patient's first encounter.
    spoken: whether it is a dialogue; else a note.
    text: the encounter.
    summary: the handover summary.
    must: fact -> expressions of which the summary must have one.
    must_not: fact -> expressions of which it must have none.
    wrong: kind of mistake -> wrong summaries, each with one mistake.
    matters: what was put in, name -> as written, in the order of the text.
  """

  person: Person
  number: int
  spoken: bool
  text: str
  summary: str
  must: Mapping[str, tuple[str, ...]]
  must_not: Mapping[str, tuple[str, ...]]
  wrong: Mapping[str, tuple[str, ...]]
  matters: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Truth:
  """What is the case in an encounter, as drawn."""

  person: Person
  case: Case
  side: str
  count: int
  unit: str
  finding: Named
  drug: Drug
  dose: str
  old: str
  pending: Named
  settled: Named
  denied: Named
  past: Named
  year: str

  @property
  def other(self) -> str:
    return {"left": "right", "right": "left", "": ""}[self.side]

  @property
  def short(self) -> str:
    """The complaint in a word or three."""
    return f"{self.side} {self.case.site} {self.case.complaint}".strip()


def person(seed: int, index: int) -> Person:
  """The patient of that number."""
  draws = Draws(seed, index, 0)
  allergen = draws.pick(ALLERGENS) if draws.chance(0.5) else None
  return Person(index, draws.between(18, 90), draws.pick("FM"), allergen)


def _suits(drug: Drug, allergen: Named | None) -> bool:
  return allergen is None or drug.name not in CONFLICTS.get(allergen.name, ())


def _truth(draws: Draws, who: Person, used: tuple[Case, ...]) -> _Truth:
  case = draws.pick(
    [
      case
      for case in CASES
      if case.ages[0] <= who.age <= case.ages[1] and case.sex in ("", who.sex) and case not in used
    ]
  )
  finding = draws.pick(case.findings)
  if "{value}" in finding.name:
    words, bounds = finding.regex.split(" @")
    value = expand(draws, "{" + bounds + "}", str)
    finding = Named(finding.name.replace("{value}", value), expressions.valued(words, value))
  drug = draws.pick([drug for drug in case.drugs if _suits(drug, who.allergen)])
  raised = draws.chance(0.4)
  dose = draws.pick(drug.doses[1:] if raised else drug.doses)
  unit = draws.pick(tuple(_LASTING))
  pending, settled = draws.shuffled(case.tests)[:2]
  return _Truth(
    person=who,
    case=case,
    side=draws.pick(("left", "right")) if case.site else "",
    count=draws.between(*_LASTING[unit]),
    unit=unit,
    finding=finding,
    drug=drug,
    dose=dose,
    old=drug.doses[drug.doses.index(dose) - 1] if raised else "",
    pending=pending,
    settled=settled,
    denied=draws.pick(case.denied),
    past=draws.pick(case.past),
    year=str(draws.between(2008, 2021)),
  )


def _cap(text: str) -> str:
  return text[:1].upper() + text[1:]


def _sentences(truth: _Truth) -> dict[str, str]:
  """The sentences of the right summary, by name, in their order."""
  allergen = truth.person.allergen
  return {
    "problem": f"{truth.person.age}{truth.person.sex}: {truth.short} for {truth.count} {truth.unit}.",
    "finding": f"{_cap(truth.finding.name)}.",
    "drug": f"{_cap(truth.drug.name)} {truth.dose} {truth.drug.unit} {truth.drug.frequency}.",
    "allergy": f"{_cap(allergen.name)} allergy." if allergen else "No known allergies.",
    "pending": f"{_cap(truth.pending.name)} pending.",
  }


def _must(truth: _Truth) -> dict[str, tuple[str, ...]]:
  who, case, drug = truth.person, truth.case, truth.drug
  unsided = (expressions.affirmed(rf"\b(?:{case.words})"),)
  return {
    "who": expressions.who(who.age, who.sex),
    "problem": expressions.sided(truth.side, case.site, case.words) if truth.side else unsided,
    "duration": expressions.lasting(truth.count, truth.unit),
    "finding": (expressions.affirmed(truth.finding.regex),),
    "dose": expressions.dosed(drug.name, truth.dose, drug.unit),
    "frequency": (expressions.FREQUENCIES[drug.frequency],),
    "allergy": expressions.allergic(who.allergen.regex) if who.allergen else expressions.NO_ALLERGY,
    "pending": expressions.open_test(truth.pending.regex),
  }


def _must_not(truth: _Truth, text: str) -> dict[str, tuple[str, ...]]:
  """What a summary must not state; of `NEVER`, what the encounter's text does not have."""
  out = expressions.misdosed(truth.drug.name, truth.dose, truth.drug.unit)
  if truth.side:
    out["other_side"] = (expressions.present(rf"(?:{truth.other}|{truth.other[0]})(?:-sided)? {truth.case.site}"),)
  out["denied"] = (expressions.present(truth.denied.regex),)
  out["past"] = (expressions.present(truth.past.regex),)
  out["settled_test"] = expressions.settled_test_open(truth.settled.regex)
  own = truth.person.allergen
  others = "|".join(item.regex for item in ALLERGENS if item is not own)
  out["other_allergy"] = expressions.allergic(others)
  if own:
    out["allergy_denied"] = expressions.NO_ALLERGY
  for item in NEVER:
    if not re.search(item.regex, text, re.IGNORECASE):
      out[item.name.lower()] = (expressions.present(item.regex),)
  return out


def _wrong_doses(truth: _Truth) -> list[str]:
  """The dose before, or the other dose, and slips of the decimal point."""
  others = [dose for dose in truth.drug.doses if dose != truth.dose]
  tenfold = f"{float(truth.dose) * 10:g}"
  return [truth.old] if truth.old else [others[0], tenfold]


def _wrong(draws: Draws, truth: _Truth) -> dict[str, tuple[str, ...]]:
  right = _sentences(truth)
  drug, allergen = truth.drug, truth.person.allergen

  def having(**changed: str) -> str:
    return " ".join(sentence for sentence in (right | changed).values() if sentence)

  def drugged(dose: str, unit: str) -> str:
    return having(drug=f"{_cap(drug.name)} {dose} {unit} {drug.frequency}.")

  never = draws.shuffled(NEVER)
  omitted = [having(**{name: ""}) for name in ("finding", "drug", "pending")]
  omitted.append(having(drug=f"{_cap(drug.name)} {drug.frequency}."))
  invented = [
    having(allergy=f"{right['allergy']} {never[0].name}."),
    having(finding=f"{right['finding']} {never[1].name}."),
  ]
  if allergen:
    omitted += [having(allergy="")] * 2
  else:
    false = draws.pick([item for item in ALLERGENS if _suits(drug, item)])
    invented += [having(allergy=f"{_cap(false.name)} allergy.")] * 2
  wrong = {
    "omitted_fact": omitted,
    "invented_fact": invented,
    "wrong_dose": [drugged(dose, drug.unit) for dose in _wrong_doses(truth)],
    "wrong_unit": [drugged(truth.dose, unit) for unit in WRONG_UNITS[drug.unit]],
    "denied_as_present": [having(problem=f"{right['problem'][:-1]}, with {truth.denied.name}.")],
  }
  if truth.side:
    wrong["wrong_side"] = [re.sub(rf"\b{truth.side}\b", truth.other, having())]
  return {kind: tuple(texts) for kind, texts in wrong.items()}


def _slots(draws: Draws, truth: _Truth) -> dict[str, str]:
  who, case, drug = truth.person, truth.case, truth.drug
  usual = draws.pick(STANDING)
  relative = draws.pick(_RELATIVES)
  return {
    "age": str(who.age),
    "person": {"F": "woman", "M": "man"}[who.sex],
    "title": {"F": "Mrs", "M": "Mr"}[who.sex],
    "initial": draws.pick("ABCDGHKLMNPRSTW"),
    "told": case.told,
    "short": truth.short,
    "problem": truth.short,
    "count": str(truth.count),
    "count_word": NUMBER_WORDS[truth.count - 1],
    "unit": truth.unit,
    "site": case.site,
    "side": truth.side,
    "other": truth.other,
    "denied": truth.denied.name,
    "past": truth.past.name,
    "past_bare": re.sub("^an? ", "", truth.past.name),
    "year": truth.year,
    "finding": truth.finding.name,
    "normal": draws.pick(NORMAL),
    "pulse": str(draws.between(60, 88)),
    "bp": f"{draws.between(112, 136)}/{draws.between(66, 84)}",
    "drug": drug.name,
    "dose": truth.dose,
    "old": truth.old,
    "drug_unit": drug.unit,
    "frequency": drug.frequency,
    "said_frequency": SAID_FREQUENCY[drug.frequency],
    "other_drug": usual.name,
    "other_dose": f"{draws.pick(usual.doses)} {usual.unit}",
    "allergen": who.allergen.name if who.allergen else "",
    "test": truth.pending.name,
    "settled": truth.settled.name,
    "relative": relative,
    "relative_allergen": draws.pick([item.name for item in ALLERGENS if item is not who.allergen]),
    "relative_has": draws.pick([name for name in _RELATIVE_HAS if name != truth.past.name]),
  }


def _plan(draws: Draws, truth: _Truth, spoken: bool) -> list[str]:
  """Names of the matters in the order in which they come up; talk takes more words, so it has fewer of them."""
  # The other side comes up twice as readily.
  asides = draws.shuffled([*_ASIDES, "other_side"] if truth.side else _ASIDES[:-1])
  chosen = list(dict.fromkeys(asides))[: 2 if spoken else 4]
  first = ["talk"] if "talk" in chosen else []
  early = draws.shuffled(["denied", *(name for name in chosen if name in ("past", "other_side", "relative", "normal"))])
  allergy = "allergy" if truth.person.allergen else "no_allergy"
  late = ["finding", "raise" if truth.old else "start", allergy, "pending"]
  late += [name for name in chosen if name in ("settled", "standing", "repeat")]
  opening = draws.shuffled(["problem", *early[:1]])
  return first + opening + draws.shuffled(early[1:] + late)


def _written(draws: Draws, template: str, slots: Mapping[str, str]) -> str:
  """The template written out, sentences with a capital."""
  text = expand(draws, template, slots.__getitem__)
  return re.sub(r"(^|: |[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def _joined(parts: list[str], spoken: bool) -> str:
  """The matters as one text; a speaker who goes on is not named again."""
  if not spoken:
    return " ".join(parts)
  text, speaker = "", ""
  for turn in re.split(r"(?<=[.?!]) (?=(?:Dr|Pt): )", " ".join(parts)):
    name = turn[:4] if turn[:4] in ("Dr: ", "Pt: ") else ""
    text += (" " + turn.removeprefix(name)) if name == speaker and text else ("\n" if text else "") + turn
    speaker = name
  return text


def encounter(seed: int, index: int, number: int, used: tuple[Case, ...] = ()) -> tuple[Encounter, Case]:
  """One encounter of a patient, and the case it is of.

  Args:
    seed: seed of the population.
    index: number of the patient.
    number: 0 for the first encounter, 1 for the second.
    used: cases of earlier encounters, which this one avoids.
  """
  draws = Draws(seed, index, 1 + number)
  truth = _truth(draws, person(seed, index), used)
  spoken = draws.chance(0.5)
  slots = _slots(draws, truth)
  names = _plan(draws, truth, spoken)
  names.insert(0 if draws.chance(0.7) else len(names), "who")
  matters = {name: _written(draws, draws.pick(MATTERS[name][0 if spoken else 1]), slots) for name in names}
  for name in (name for name in _ASIDES if name in names):
    if len(" ".join(matters.values()).split()) > MOST_WORDS:
      del matters[name]
  text = _joined(list(matters.values()), spoken)
  written = Encounter(
    person=truth.person,
    number=number,
    spoken=spoken,
    text=text,
    summary=" ".join(_sentences(truth)[name] for name in ORDER),
    must=_must(truth),
    must_not=_must_not(truth, text),
    wrong=_wrong(draws, truth),
    matters=matters,
  )
  return written, truth.case


@functools.cache
def encounters(split: str) -> tuple[Encounter, ...]:
  """All encounters of a split, in the order of its rows; one or two of each patient, none in two splits."""
  first, wanted = SPLITS[split]

  def write(index, number, earlier):
    return encounter(SEED, index, number, tuple(case for _, case in earlier))

  return tuple(written for written, _ in one_or_two_each(SEED, first, wanted, (3, 4), write))
