"""Seeded short notes of outpatient and emergency visits, with the ground truth on urinary tract infection behind each.

A note states symptoms and urine results, each with a status: the patient's and present, denied, past, a relative's,
or explained by another cause. `meets_criteria` reads the label off that ground truth (docs/tasks.md has the rule).
Everything is a function of the seed and the patient's number.
"""

import dataclasses
import functools
import itertools
import re

from medjax.tasks import notes_text
from medjax.tasks.simulator_draws import Draws, expand, one_or_two_each

SEED = 20260
SPLITS = {"test": (0, 400), "validation": (100_000, 200), "train": (200_000, 1000)}  # first patient, notes
SIGNIFICANT = 100_000  # CFU/ml, of a bacterium, of at most two species
PYURIA = 10  # leukocytes/ul, with nitrite
_PIECES = (45, 68)  # fewest and most words, digits and signs of a note

# What a note is: whether a urinary symptom is live (or live but explained), whether the present urine is positive.
_KINDS = {
  ("live", True): 0.47,
  ("live", False): 0.18,
  ("absent", True): 0.16,
  ("absent", False): 0.12,
  ("explained", True): 0.07,
}


@dataclasses.dataclass(frozen=True)
class NotePatient:
  """Who the note is about: number, age in years, sex (`F` or `M`), a standing condition or drug."""

  index: int
  age: int
  sex: str
  background: str


@dataclasses.dataclass(frozen=True)
class Symptom:
  """One symptom as one statement has it.

  Attributes:
    name: key of `notes_text.URINARY` or `notes_text.OTHER`.
    status: `live`, `explained` (live, with another recognized cause), `denied`, `past`, `family`.
    text: the statement, which may name several symptoms.
  """

  name: str
  status: str
  text: str


@dataclasses.dataclass(frozen=True)
class Urine:
  """One urine result.

  Attributes:
    status: `now`, `past`, `family`.
    test: `culture` or `urinalysis`.
    text: the statement.
    count: of a culture, CFU/ml of the commonest organism; 0 for no growth and where the result is pending.
    species: of a culture, how many were grown.
    bacterium: of a culture, whether the commonest organism is one (and not a yeast).
    nitrite: of a urinalysis.
    leukocytes: of a urinalysis, per microlitre.
  """

  status: str
  test: str
  text: str
  count: int = 0
  species: int = 0
  bacterium: bool = False
  nitrite: bool = False
  leukocytes: int = 0


@dataclasses.dataclass(frozen=True)
class Note:
  """A note and its ground truth; `number` is 0 for the patient's first."""

  patient: NotePatient
  number: int
  text: str
  symptoms: tuple[Symptom, ...]
  urines: tuple[Urine, ...]


def significant(urine: Urine) -> bool:
  """Whether the result is positive: a bacterium at 10^5 CFU/ml or more, of at most two species; nitrite and pyuria."""
  if urine.test == "culture":
    return urine.bacterium and urine.species <= 2 and urine.count >= SIGNIFICANT
  return urine.nitrite and urine.leukocytes >= PYURIA


def meets_criteria(note: Note) -> bool:
  """Whether the patient has a live, unexplained urinary symptom and a positive urine result of this visit."""
  symptom = any(item.status == "live" and item.name in notes_text.URINARY for item in note.symptoms)
  return symptom and any(item.status == "now" and significant(item) for item in note.urines)


def patient(seed: int, index: int) -> NotePatient:
  """The patient of that number, the same for the same seed and index on every machine."""
  draws = Draws(seed, index, 0)
  sex = draws.pick("FM", (0.62, 0.38))
  return NotePatient(index, draws.between(19, 88), sex, draws.pick(notes_text.BACKGROUNDS))


def _slot(person: NotePatient, **more: str):
  """What fills a frame's slots for this patient."""
  family = notes_text.FAMILY[person.sex] + ("|mother" if person.age < 60 else "|daughter")
  return {"ago": notes_text.AGO, "family": f"[{family}]", "age": str(person.age), **more}.__getitem__


def _listed(draws: Draws, names: list[str], status: str) -> str:
  """A template that names these symptoms in a drawn order."""
  words = [draws.pick(notes_text.URINARY[name]) if name in notes_text.URINARY else name for name in names]
  words = draws.shuffled(words)
  return ", ".join(words[:-1]) + draws.pick(notes_text.JOINTS[status]) + words[-1] if len(words) > 1 else words[0]


def _statement(draws: Draws, person: NotePatient, status: str, names: list[str]) -> list[Symptom]:
  """One statement on these symptoms, a Symptom for each."""
  text = expand(draws, draws.pick(notes_text.FRAMES[status]), _slot(person, s=_listed(draws, names, status)))
  return [Symptom(name, status, text) for name in names]


def _explained(draws: Draws, person: NotePatient, name: str, cause: str) -> list[Symptom]:
  """One statement on a live symptom with its cause."""
  live = draws.pick([frame for frame in notes_text.FRAMES["live"] if frame.startswith("{s}")])
  template = draws.pick(notes_text.EXPLAINED)
  text = expand(draws, template, _slot(person, live=live, s=_listed(draws, [name], "live"), cause=cause))
  return [Symptom(name, "explained", text)]


def _cause(draws: Draws, person: NotePatient, name: str) -> str:
  """A cause of the urinary symptom that this patient can have."""
  options = [cause for cause in notes_text.CAUSES[name] if person.sex == "F" or not cause.startswith("F:")]
  return draws.pick(options).removeprefix("F:")


def _symptoms(draws: Draws, person: NotePatient, kind: str) -> list[list[Symptom]]:
  """Statements on symptoms: urinary and other complaints change places between notes that have a live one and not."""
  urinary, other = draws.shuffled(notes_text.URINARY), draws.shuffled(notes_text.OTHER)
  ours, theirs = (urinary, other) if kind == "live" else (other, urinary)
  mixed = [other.pop()] if kind == "live" and draws.chance(0.35) else []
  live = [ours.pop() for _ in range(draws.pick((1, 2)))] + mixed
  absent = [theirs.pop() for _ in range(draws.pick((1, 2), (0.7, 0.3)))]
  if kind == "absent" and draws.chance(0.5):
    absent = [other.pop()]
  if kind == "live" and draws.chance(0.2):
    absent.append(urinary.pop())
  statuses = draws.shuffled(("denied", "denied", "past", "family"))
  out = [_statement(draws, person, statuses[0], absent)]
  if kind == "explained":
    name = urinary.pop()
    out.append(_explained(draws, person, name, _cause(draws, person, name)))
    if draws.chance(0.5):
      out.append(_statement(draws, person, "live", live[:1]))
  elif kind == "live" and not mixed and draws.chance(0.3):
    name = other.pop()
    out += [_statement(draws, person, "live", live), _explained(draws, person, name, notes_text.OTHER[name])]
  else:
    out.append(_statement(draws, person, "live", live))
  if draws.chance(0.2) and statuses[1] != statuses[0]:
    out.append(_statement(draws, person, statuses[1], [draws.pick((urinary, other)).pop()]))
  return out


def _count_words(draws: Draws, count: int) -> str:
  """A colony count, as laboratories write it."""
  forms = [f"{count:,} CFU/ml", f"{count:,} CFU/ml"]
  if count < 10**6:
    forms.append(f"{count // 1000}k CFU/ml")
  if str(count).strip("0") == "1":
    forms.append(f"10^{len(str(count)) - 1} CFU/ml")
  return (">" if count == SIGNIFICANT and draws.chance(0.4) else "") + draws.pick(forms)


def _culture(draws: Draws, positive: bool, pending: bool) -> tuple[str, dict]:
  """Words and ground truth of a culture, positive or one of the five ways in which it is not."""
  high = draws.pick((100_000, 100_000, 200_000, 1_000_000))
  low = draws.pick((1_000, 10_000, 10_000, 20_000))
  if positive:
    first, second = draws.shuffled(sorted(set(notes_text.BACTERIA)))[:2]
    first = draws.pick((first, "E. coli"))
    two = draws.chance(0.15) and first != second
    words = f"{first} {_count_words(draws, high)}" + (f" and {second} {low:,}" if two else "")
    return words, {"count": high, "species": 1 + two, "bacterium": True}
  match draws.pick(("low", "none", "mixed", "yeast", "pending"), (0.35, 0.35, 0.1, 0.1, 0.1 if pending else 0.0)):
    case "low":
      words = f"{draws.pick(notes_text.BACTERIA)} {_count_words(draws, low)}"
      return words, {"count": low, "species": 1, "bacterium": True}
    case "none":
      return draws.pick(("no growth", "sterile", "negative")), {}
    case "mixed":
      species = draws.between(3, 5)
      return f"mixed flora of {species} species, {_count_words(draws, high)}", {
        "count": high,
        "species": species,
        "bacterium": True,
      }
    case "yeast":
      return f"Candida {_count_words(draws, high)}", {"count": high, "species": 1}
  return "pending", {}


def _urinalysis(draws: Draws, positive: bool) -> tuple[str, dict]:
  """Words and ground truth of a urinalysis: nitrite and leukocytes, or one of them, or neither."""
  nitrite, many = (
    (True, True) if positive else draws.pick(((False, False), (False, True), (True, False)), (0.6, 0.25, 0.15))
  )
  leukocytes = draws.between(12, 90) if many else draws.between(0, 6)
  words = [f"nitrite {'positive' if nitrite else 'negative'}", f"{leukocytes} WBC/ul"]
  return ", ".join(draws.shuffled(words)), {"nitrite": nitrite, "leukocytes": leukocytes}


def _urine(draws: Draws, person: NotePatient, status: str, positive: bool) -> Urine:
  """One statement on a urine result."""
  test = draws.pick(("culture", "urinalysis"), (0.7, 0.3))
  words, truth = _culture(draws, positive, status == "now") if test == "culture" else _urinalysis(draws, positive)
  slot = _slot(person, r=words, t=notes_text.TESTS[test])
  return Urine(status, test, expand(draws, draws.pick(notes_text.RESULTS[status]), slot), **truth)


def _padding(draws: Draws, person: NotePatient, taken: str) -> list[str]:
  """Statements that say nothing on the label, in a drawn order."""
  causes = [cause for name in notes_text.CAUSES for cause in [_cause(draws, person, name)] if cause not in taken]
  out = [
    draws.pick(notes_text.NOT_THE_CAUSE).replace("{cause}", draws.pick(causes)),
    draws.pick(notes_text.OPINIONS),
    draws.pick(notes_text.HISTORIES),
    person.background,
    draws.pick(notes_text.VITALS),
  ]
  return [expand(draws, words, _slot(person)) for words in draws.shuffled(out)]


def _pieces(parts: list[str]) -> int:
  """Words, digits and signs: nearly what a tokenizer makes of it."""
  return len(re.findall(r"\d|[^\W\d]+|[^\w\s]", " ".join(parts))) + len(parts)


def _written(draws: Draws, parts: list[str]) -> str:
  """The parts as one hurried clinician would type them."""
  lower, shorten = draws.chance(0.3), draws.chance(0.4)
  joint = draws.pick((". ", ". ", "; ", " / ", "\n"))
  text = joint.join(part[0].upper() + part[1:] if joint in (". ", "\n") else part for part in parts)
  text += "." if joint == ". " else ""
  for old, new in notes_text.ABBREVIATIONS if shorten else ():
    text = re.sub(rf"\b{old}\b", new, text)
  return text.lower() if lower else text


def _drawn(draws: Draws, person: NotePatient, number: int) -> tuple[Note, int]:
  """A note and how many pieces it has."""
  kind, positive = draws.pick(list(_KINDS), list(_KINDS.values()))
  symptoms = _symptoms(draws, person, kind)
  urines = [_urine(draws, person, "now", positive)]
  if draws.chance(0.35):
    other = draws.pick((not positive, positive), (0.65, 0.35))
    urines.append(_urine(draws, person, draws.pick(("past", "past", "family")), other))
  parts = draws.shuffled([statement[0].text for statement in symptoms] + [urine.text for urine in urines])
  opening = expand(draws, notes_text.OPENINGS[person.sex], _slot(person))
  wanted = draws.between(*_PIECES)
  for words in _padding(draws, person, " ".join(parts)):
    if _pieces([opening, *parts, words]) <= wanted:
      parts.insert(draws.below(len(parts) + 1), words)
  flat = tuple(symptom for statement in symptoms for symptom in statement)
  written = Note(person, number, _written(draws, [opening, *parts]), flat, tuple(urines))
  return written, _pieces([opening, *parts])


def note(seed: int, index: int, number: int) -> Note:
  """One note of a patient; one that comes out too short or too long is drawn again.

  Args:
    seed: seed of the population.
    index: number of the patient.
    number: 0 for the first note, 1 for the second.

  Returns:
    The note with its ground truth.
  """
  person = patient(seed, index)
  for attempt in itertools.count():
    written, pieces = _drawn(Draws(seed, index, 1 + number, attempt), person, number)
    if _PIECES[0] <= pieces <= _PIECES[1]:
      return written


@functools.cache
def notes(split: str) -> tuple[Note, ...]:
  """All notes of a split, in the order of its rows.

  Args:
    split: `train`, `validation` or `test`; they share no patient.

  Returns:
    1,000, 200 or 400 notes, one or two of each patient.
  """
  first, wanted = SPLITS[split]
  return one_or_two_each(SEED, first, wanted, (9, 10), lambda index, number, _: note(SEED, index, number))
