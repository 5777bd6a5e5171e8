"""A seeded clinic: patients, and the portal messages they write, with the triage that is right for each.

A message is one live concern, sometimes a second and less urgent one, the patient's background, matters that are over,
absent or someone else's, and phrases that say nothing. Its labels follow from the live concern alone (docs/tasks.md
has the rules). Everything is a function of the seed and the patient's number.
"""

import dataclasses
import functools
import re

from medjax.tasks import simulator_requests, simulator_symptoms, simulator_text
from medjax.tasks.simulator_concerns import Concern
from medjax.tasks.simulator_draws import Draws, expand, one_or_two_each
from medjax.tasks.simulator_patients import PROFILES, Patient, patient

SEED = 20250
SPLITS = {"test": (0, 400), "validation": (100_000, 200), "train": (200_000, 2000)}  # first patient, messages
CONCERNS = simulator_symptoms.SYMPTOMS + simulator_requests.REQUESTS
_URGENCIES = ("routine", "urgent", "emergency")

# Shares of provider and urgency that messages are drawn with, before a patient's circumstances rule some out.
_CELLS = {
  ("physician", "emergency"): 0.19,
  ("physician", "urgent"): 0.12,
  ("physician", "routine"): 0.10,
  ("nurse", "urgent"): 0.11,
  ("nurse", "routine"): 0.12,
  ("pharmacist", "urgent"): 0.10,
  ("pharmacist", "routine"): 0.10,
  ("clerk", "urgent"): 0.06,
  ("clerk", "routine"): 0.10,
}
_NOT_QUOTED = ("infant", "child", "early_pregnancy", "late_pregnancy")

_RELATIVES = re.compile(r"\b(brother|sister|cousin|neighbour|father|mother|uncle|aunt|niece)\b")
_BRANDS = {
  "warfarin": "[warfarin|Coumadin]",
  "apixaban": "[apixaban|Eliquis]",
  "rivaroxaban": "[rivaroxaban|Xarelto]",
  "levetiracetam": "[levetiracetam|Keppra]",
  "tacrolimus": "[tacrolimus|Prograf]",
  "lamotrigine": "[lamotrigine|Lamictal]",
}
_CRITICAL = ("warfarin", "apixaban", "rivaroxaban", "insulin", "tacrolimus", "levetiracetam", "lamotrigine")
_RISKY_DOUBLED = (
  "warfarin",
  "apixaban",
  "rivaroxaban",
  "tacrolimus",
  "levetiracetam",
  "lamotrigine",
  "metoprolol",
  "digoxin",
)
_FILLERS = {
  "long_ago": "[in {2016-2021}|years ago|{3-6} years ago|last year]",
  "since_long": "for [weeks|months]",
  "pregnant_relative": "[cousin|neighbour|niece]",
  "paracetamol": "[paracetamol|acetaminophen|Tylenol]",
  "minor": "[vitamin D|cetirizine|omeprazole|multivitamin]",
  "fever": "[{38.3-39.4}|{38.3-39.4} C|{101.1-102.9}|{101.1-102.9} F]",
  "raised": "[{37.6-37.9}|{37.6-37.9} C|{99.7-100.2}|{99.7-100.2} F]",
  "normal": "[{36.5-37.1}|{36.5-37.1} C|{97.8-98.7}|{97.8-98.7} F]",
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One matter of a message.

  Attributes:
    topic: e.g. `chest`.
    status: `live` (decides the labels), `lesser` (live too, but less urgent) or `closed` (over, absent or another's).
    text: as written, before abbreviations and misspellings.
  """

  topic: str
  status: str
  text: str


@dataclasses.dataclass(frozen=True)
class PortalMessage:
  """A rendered message and its ground truth.

  Attributes:
    patient: who writes, or whose parent does.
    number: 0 for the patient's first message.
    text: the message.
    provider: who should answer first.
    urgency: how soon.
    topic: topic of the live concern.
    drivers: what decides the urgency; empty where routine.
    background: the patient's background as the message states it; empty where it does not.
    findings: all matters of the message, the live one first.
  """

  patient: Patient
  number: int
  text: str
  provider: str
  urgency: str
  topic: str
  drivers: tuple[str, ...]
  background: str
  findings: tuple[Finding, ...]


def _slot(person: Patient):
  """What fills a template's slots for this patient."""
  female = person.sex == "F"
  tenths = {name: f"{person.labs[name] // 10}.{person.labs[name] % 10}" for name in ("potassium", "haemoglobin")}

  def drug(names: tuple[str, ...]) -> str:
    found = [name for name in person.drugs if name in names]
    return _BRANDS.get(found[0], found[0])

  def fill(name: str) -> str:
    match name:
      case "age":
        return str(person.age)
      case "weeks_pregnant":
        return str(person.weeks_pregnant)
      case "relative":
        return "[brother|sister|cousin|neighbour" + ("]" if person.age > 58 else "|father|mother|uncle|aunt]")
      case "child":
        return "[daughter|girl]" if female else "[son|boy]"
      case "he" | "him" | "his":
        return {"he": "she", "him": "her", "his": "her"}[name] if female else name
      case "drug" | "refill_drug":
        return "|".join(["[" + (person.drugs[0] if person.drugs else "eczema cream"), *person.drugs[1:]]) + "]"
      case "critical":
        return drug(_CRITICAL)
      case "anticoagulant":
        return drug(_CRITICAL[:3])
      case "double":
        return drug(_RISKY_DOUBLED)
      case "ace":
        return drug(("ramipril", "lisinopril"))
      case "lab_potassium":
        return tenths["potassium"]
      case "lab_haemoglobin":
        return tenths["haemoglobin"]
      case "lab_sodium":
        return str(person.labs["sodium"])
    return _FILLERS[name]

  return fill


def _tags(person: Patient) -> frozenset[str]:
  return person.profile.tags | frozenset(person.drugs)


@functools.cache
def _share(needs: frozenset[str]) -> float:
  """The share of patients who can have a concern; what few can have is drawn the more often with those few."""
  share = 0.0
  for profile in PROFILES:
    without = 0.0 if needs & profile.tags else 1.0
    for choice in profile.drugs:
      without *= sum(name.replace("_", " ") not in needs for name in choice) / len(choice)
    share += profile.weight * (1.0 - without)
  return share / sum(profile.weight for profile in PROFILES)


def _choose(draws: Draws, person: Patient, used: set[str], quoted: bool = False) -> Concern:
  """A concern this patient may have, its provider and urgency drawn first so that labels stay balanced."""
  tags = _tags(person)
  cells = {}
  for item in CONCERNS:
    if item.needs & tags and item.topic not in used and not (quoted and item.tell):
      cells.setdefault((item.provider, item.urgency), []).append(item)
  keys = [key for key in _CELLS if key in cells]
  options = cells[draws.pick(keys, [_CELLS[key] for key in keys])]
  return draws.pick(options, [1.0 / _share(item.needs) for item in options])


def _background(draws: Draws, person: Patient, item: Concern, slot) -> str:
  """The patient's background, where the label needs it or by chance; may be empty."""
  young = person.profile.name in ("infant", "child")
  if not (item.tell or young or draws.chance(0.4)):
    return ""
  words = expand(draws, draws.pick(person.profile.context), slot)
  if not young and draws.chance(0.35):
    words = f"{person.age}{draws.pick((person.sex, person.sex.lower(), ' yo', ' y/o'))}, {words}"
  return words


def _closed(draws: Draws, person: Patient, count: int, taken: str, slot) -> list[Finding]:
  """Matters that are over, absent or another's, none of which touches what is live."""
  out = []
  young = person.profile.name in ("infant", "child")
  for keys, template in draws.shuffled(simulator_text.CLOSED):
    if len(out) == count:
      break
    if "relative}" in template and _RELATIVES.search(taken):
      continue
    if young and not ("{relative}" in template or keys.split()[0] in ("last", "visit", "bill", "form")):
      continue
    if not any(key.lower() in taken.lower() for key in keys.split()):
      words = expand(draws, template, slot)
      out.append(Finding(keys.split()[0], "closed", words))
      taken += " " + words + " " + keys
  return out


def _lesser(draws: Draws, person: Patient, item: Concern) -> Concern | None:
  """A second, routine matter of paperwork or medicines, beside a more urgent one."""
  if item.urgency == "routine" or not draws.chance(0.25):
    return None
  options = [
    other
    for other in CONCERNS
    if other.needs & _tags(person)
    and other.urgency == "routine"
    and other.topic in ("refill", "booking", "billing", "forms", "records")
    and other.topic != item.topic
    and not (
      other.topic == "refill" and item.topic in ("supply", "dose", "missed", "mixing", "mixup", "storage", "lithium")
    )
    and not (other.topic in ("booking", "forms") and item.topic in ("booking", "forms", "prep"))
  ]
  return draws.pick(options) if options else None


def _quoted(draws: Draws, seed: int, person: Patient, item: Concern) -> Finding:
  """A whole concern of the patient's past, or of somebody else: worded as if live, and settled."""
  other = draws.chance(0.6) or person.profile.name in _NOT_QUOTED
  author = person
  while other and (author is person or author.profile.name in _NOT_QUOTED):
    author = patient(seed, 10**6 + draws.below(10**6))
  past = _choose(draws, author, {"mood"} if other else {"mood", item.topic}, quoted=True)
  words = expand(draws, draws.pick(past.texts), _slot(author))
  frame = draws.pick(simulator_text.QUOTED_OTHER if other else simulator_text.QUOTED_OWN)
  if past.provider == "physician" and past.urgency != "routine":
    ended = "[already seen|in the ER by now|being seen to]"
  else:
    ended = "[answered|already sorted|their own clinic has it]"
  slot = _slot(person)
  return Finding(
    past.topic, "closed", expand(draws, frame, lambda name: {"quote": words, "ended": ended}.get(name) or slot(name))
  )


def _written(draws: Draws, parts: list[str]) -> str:
  """The parts as one sender would type them."""
  lower, shorten, slips = draws.chance(0.4), draws.chance(0.35), draws.chance(0.45)
  joint = draws.pick((". ", ". ", ". ", " - ", "; ", ", "))
  text = ""
  for part in parts:
    part = part if joint == ", " else part[0].upper() + part[1:]
    text += part if not text else (" " if text[-1] in "?.!" else joint) + part
  if draws.chance(0.5) and text[-1] not in "?.!":
    text += "."
  for table, wanted, most in ((simulator_text.ABBREVIATIONS, shorten, 3), (simulator_text.MISSPELLINGS, slips, 2)):
    hits = [pair for pair in table if re.search(rf"\b{pair[0]}\b", text)] if wanted else []
    for old, new in draws.shuffled(hits)[:most]:
      text = re.sub(rf"\b{old}\b", new, text, count=1)
  return text.lower() if lower else text


def message(seed: int, index: int, number: int, used: tuple[str, ...] = ()) -> PortalMessage:
  """One message of a patient.

  Args:
    seed: seed of the population.
    index: number of the patient.
    number: 0 for the first message, 1 for the second.
    used: topics of earlier messages, which this one avoids.

  Returns:
    The message with its ground truth.
  """
  person = patient(seed, index)
  draws = Draws(seed, index, 1 + number)
  slot = _slot(person)
  item = _choose(draws, person, set(used))
  live = Finding(item.topic, "live", expand(draws, draws.pick(item.texts), slot))
  background = _background(draws, person, item, slot)
  findings = [live]
  if (second := _lesser(draws, person, item)) is not None:
    findings.append(Finding(second.topic, "lesser", expand(draws, draws.pick(second.texts), slot)))
  quoted = second is None and draws.chance(0.7)
  if quoted:
    findings.append(_quoted(draws, seed, person, item))
  count = draws.pick((0, 1), (0.7, 0.3)) if quoted or second else draws.pick((1, 2), (0.5, 0.5))
  taken = " ".join([background, *(f"{finding.topic} {finding.text}" for finding in findings)])
  findings += _closed(draws, person, count, taken, slot)

  if draws.chance(0.35):
    findings[0] = dataclasses.replace(live, text=f"{draws.pick(simulator_text.NOW)}: {live.text}")
  parts = draws.shuffled([finding.text for finding in findings] + ([background] if background else []))
  if background and person.profile.name in ("infant", "child"):
    parts = [background] + [part for part in parts if part != background]
  if draws.chance(0.3):
    parts.insert(0, draws.pick(simulator_text.OPENINGS))
  if draws.chance(0.45):
    parts.append(draws.pick(simulator_text.ENDINGS))
  return PortalMessage(
    patient=person,
    number=number,
    text=_written(draws, parts),
    provider=item.provider,
    urgency=item.urgency,
    topic=item.topic,
    drivers=item.drivers,
    background=background,
    findings=tuple(findings),
  )


@functools.cache
def messages(split: str) -> tuple[PortalMessage, ...]:
  """All messages of a split, in the order of its rows.

  Args:
    split: `train`, `validation` or `test`; they share no patient.

  Returns:
    2,000, 200 or 400 messages, one or two of each patient.
  """
  first, wanted = SPLITS[split]

  def write(index, number, earlier):
    return message(SEED, index, number, tuple(written.topic for written in earlier))

  return one_or_two_each(SEED, first, wanted, (3, 4), write)
