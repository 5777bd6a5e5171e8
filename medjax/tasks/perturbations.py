"""Clinical texts with one mistake each: what is denied, which side, what dose, what was left out or made up.

Each rule changes one place, keeps case and punctuation, and passes over what it cannot be sure of; so it is better
trusted for what it changes than for finding all that could be changed. Its limits:

- A side is `left` or `right` before a part of the body (`_SITE`), before `side` or `sided`, or after `on the` where a
  clause ends. `right away`, `she left` and `on the right track` are none; `L` and `R` are not read.
- A dose is a number before a unit of amount. Concentrations (`mg/dL`), numbers in names (`B12`), the ends of ranges and
  numbers after a slash are none. Amounts that are no doses (a birth weight in g) are taken for one.
- A denial is turned only where it denies one thing: `No fever, cough or rash` stays as it is, and so do sayings such as
  `no known allergies`. What is present is denied after `reports`, `positive for` and `with` (of a person or behind a
  comma), and where a clause starts with a symptom of `_SYMPTOM`.
- A sentence is what a stop, a line's end or `;` ends; of a text of one sentence, what is behind a comma is left out.
- A made-up finding is one of `_FINDINGS`, of which neither the text nor the source says anything.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

MISTAKES = (
  *("omitted_fact", "invented_fact", "wrong_side", "wrong_dose", "wrong_unit"),
  *("denied_as_present", "present_as_denied"),
)

_SITE = (
  r"(?:abdom(?:en|inal)|adnexal?|ankles?|anterior|arms?|armpit|atri(?:al|um)|axillary?|axilla|basal|base|breast|bundle|"
  r"buttock|calf|carotid|cheek|chest|cheekbone|clavicle|collarbone|costal|cornea|ear|ears|elbow|eyes?|eyelid|face|"
  r"facial|femoral|femur|fibula|fingers?|flank|foot|feet|fossa|forearm|forefoot|groin|hands?|heart|heel|hemi\w+|hip|hilar|"
  r"humerus|iliac|inguinal|jaw|kidney|knees?|leg|lid|limb|lobe|loin|lungs?|nostril|ovar\w+|parietal|pelvis|pleural|"
  r"pupil|quadrant|radius|renal|ribs?|scapula|scrot\w+|shin|shoulder|temple|temporal|testi\w+|thigh|thumb|tibia|toes?|tonsil|"
  r"ulna|ureter\w*|ventric\w+|wrist)"
)
_NEARER = (
  r"(?:upper|lower|inner|outer|medial|lateral|anterior|posterior|proximal|distal|middle|mid|big|great|little|index|ring|"
  r"main|common|internal|external|superior|inferior)"
)
_SIDE = re.compile(
  rf"\b(left|right)(?:[- ](?:sided?|handed)\b|(?: {_NEARER}){{0,2}} {_SITE}\b|"
  r"(?:(?<=on the left)|(?<=on the right))(?=[.,;:!?)]|$))",
  re.IGNORECASE,
)
_SWAP = {"left": "right", "right": "left"}

# Slips of a unit, by the right one, as words and as abbreviations.
_UNITS = {
  **{"mg": ("mcg", "g"), "mcg": ("mg", "g"), "µg": ("mg", "g"), "μg": ("mg", "g"), "ug": ("mg", "g"), "g": ("mg",)},
  **{"ml": ("L",), "units": ("mL",), "unit": ("mL",), "iu": ("mg",)},
  **{"milligrams": ("micrograms", "grams"), "milligram": ("microgram", "gram")},
  **{"micrograms": ("milligrams",), "microgram": ("milligram",), "grams": ("milligrams",), "gram": ("milligram",)},
  **{name: () for name in ("tablet", "tablets", "puff", "puffs", "drop", "drops")},
}
_DOSE = re.compile(
  r"(?<![\w./,-])(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)([ -]?)"
  rf"({'|'.join(sorted(_UNITS, key=len, reverse=True))})\b(?! ?/ ?\d* ?(?:d?l|ml|mmol)\b)",
  re.IGNORECASE,
)
_FACTORS = (Decimal(10), Decimal("0.1"), Decimal(2), Decimal("0.5"))

_STOP = r"[.;:!?\n]"
_SYMPTOM = (
  r"(?:abdominal pain|back pain|bleeding|blurred vision|breathlessness|chest pain|chills|confusion|constipation|cough|"
  r"diarrh?o?ea|dizziness|dyspn(?:o?e)a|dysuria|fatigue|fever|haemoptysis|headache|hematuria|haematuria|hemoptysis|"
  r"itching|jaundice|nausea|neck stiffness|numbness|o?edema|palpitations|photophobia|rash|seizures?|"
  r"shortness of breath|sore throat|sweating|swelling|syncope|tenderness|tinnitus|tremor|vertigo|vomiting|weakness|"
  r"weight loss|wheez(?:e|ing)|pain)"
)
_QUALITY = (
  r"(?:acute|bilateral|chronic|constant|dull|intermittent|left|mild|moderate|new|night|occasional|persistent|"
  r"productive|recent|recurrent|right|severe|sharp|sudden|dry|worsening)"
)
_CLAUSE = re.compile(
  rf"((?:^|(?<=[.;:,!?])\s+|\n)(?:\d+[MF]: )?)((?:(?:{_QUALITY}|{_SITE}) ){{0,3}}{_SYMPTOM})\b", re.IGNORECASE
)
_SAYINGS = r"(?!(?:known|longer|more|one|further|change|need|other|doubt|acute distress|difference)\b)"
_OF_A_PERSON = r"(?<=man )|(?<=male )|(?<=patient )|(?<=girl )|(?<=boy )|(?<=child )|(?<=lady )|(?<=\d[MF] )|(?<=, )"
_AT_START = r"(?<=^)|(?<=\n)|(?<=[.;:,!?(] )"
_SOMEONE = rf"{_AT_START}|(?<=\bhe )|(?<=she )|(?<=patient )|(?<=pt )|(?<=man )|(?<=mother )|(?<=father )|(?<=and )"
_STATED = r"(?= (?!by|show|from|of|indicate|were|are|was|in|on\b)\w)"
# Word of denial or its opposite (group 1), what takes the place of the whole match, how that is wrong.
_TURNS = (
  (re.compile(r"\b(denies)(?: any)?(?= \w)", re.IGNORECASE), "reports", "denied_as_present"),
  (re.compile(r"\b(denied)(?: any)?(?= \w)", re.IGNORECASE), "reported", "denied_as_present"),
  (re.compile(r"\b(negative)(?= for \w)", re.IGNORECASE), "positive", "denied_as_present"),
  (re.compile(r"\b(without)(?: any)?(?= \w)", re.IGNORECASE), "with", "denied_as_present"),
  (
    re.compile(
      rf"(?:{_AT_START}|(?<=has )|(?<=had )|(?<=is )|(?<=was )|(?<=shows )|(?<=with )|(?<=and )|(?<=but ))"
      rf"(no)(?: evidence of)? {_SAYINGS}(?=\w)",
      re.IGNORECASE,
    ),
    "",
    "denied_as_present",
  ),
  (re.compile(rf"(?:{_SOMEONE})(reports){_STATED}", re.IGNORECASE), "denies", "present_as_denied"),
  (re.compile(rf"(?:{_SOMEONE})(reported){_STATED}", re.IGNORECASE), "denied", "present_as_denied"),
  (re.compile(r"\b(positive)(?= for \w)", re.IGNORECASE), "negative", "present_as_denied"),
  (re.compile(rf"(?:{_OF_A_PERSON})(with)(?= (?!(?:no|a known)\b)\w)", re.IGNORECASE), "without", "present_as_denied"),
)

# (sentence, what must be said nowhere for it to be made up)
_FINDINGS = (
  ("Has epilepsy", r"epilep|seizure|convuls"),
  ("Takes warfarin", r"warfarin|anticoag|\bINR\b"),
  ("Smoker", r"smok|tobacco|cigar|nicotine|pack.year"),
  ("Lives alone", r"\balone\b|lives with|wife|husband|partner"),
  ("Has dementia", r"dementia|alzheimer|memory|cognit"),
  ("Has cirrhosis", r"cirrho|liver"),
  ("Has asthma", r"asthma|inhaler|wheez|salbutamol|albuterol"),
  ("Has diabetes", r"diabet|hba1c|insulin|metformin|glargine|gluc"),
  ("Had a stroke last year", r"stroke|\bTIA\b|hemipar|cerebrovasc"),
  ("Has a pacemaker", r"pacemaker|\bICD\b|heart block"),
  ("Drinks heavily", r"drink|alcohol|ethanol|\bETOH\b"),
  ("Recent weight loss of 8 kg", r"weight|\bkg\b"),
)
_ABBREVIATION = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|vs|approx|e\.g|i\.e|No|b\.d|t\.d\.s|o\.d)\.|\b[A-Z]\.)$")


def perturbations(text: str, rng: np.random.Generator, source: str = "") -> list[tuple[str, str]]:
  """Copies of a clinical text that are wrong in one place each.

  Args:
    text: what is right.
    rng: draws the order: one mistake of each kind, then the second of each, and so on.
    source: what the text was made from; nothing that it mentions is made up.

  Returns:
    `(text, how)`, with `how` in `MISTAKES`, no text twice and none equal to the given one. Empty where no rule applies.
  """
  made: dict[str, str] = {}
  for rule in (_omitted, _sides, _doses, _units, _turned, _symptoms_denied):
    for wrong, how in rule(text):
      if wrong.strip() and wrong != text:
        made.setdefault(wrong, how)
  for wrong in _invented(text, source, rng):
    made.setdefault(wrong, "invented_fact")
  kinds: dict[str, list[str]] = {}
  for wrong, how in made.items():
    kinds.setdefault(how, []).append(wrong)
  names = list(rng.permutation(sorted(kinds)))
  of_kind = [[kinds[how][index] for index in rng.permutation(len(kinds[how]))] for how in names]
  most = max(map(len, of_kind), default=0)
  return [
    (wrong[turn], str(how))
    for turn in range(most)
    for how, wrong in zip(names, of_kind, strict=True)
    if turn < len(wrong)
  ]


def sentences(text: str) -> list[tuple[int, int]]:
  """Where the sentences of a text start and end, the blanks between them left out; `;` ends one, too."""
  spans, start = [], 0
  for gap in re.finditer(r"(?<=[.!?;])\s+(?=\S)|\s*\n\s*", text):
    if not _ABBREVIATION.search(text[start : gap.start()]) or "\n" in gap[0]:
      spans.append((start, gap.start()))
      start = gap.end()
  spans.append((start, len(text.rstrip())))
  return [(first, last) for first, last in spans if first < last]


def _omitted(text: str) -> Iterator[tuple[str, str]]:
  spans = sentences(text)
  if len(spans) == 1:
    for part in re.finditer(r", (?!(?:[^,;.]* )?(?:and|or) )[^,;.]*[^,;.\s](?=,|;|\.?\s*$)", text):
      yield text[: part.start()] + text[part.end() :], "omitted_fact"
    return
  for index, (start, end) in enumerate(spans):
    last = index + 1 == len(spans)
    before, after = (text[: spans[index - 1][1]], text[end:]) if last else (text[:start], text[spans[index + 1][0] :])
    if last and before.endswith(";"):
      before = before[:-1]
    yield before + after, "omitted_fact"


def _invented(text: str, source: str, rng: np.random.Generator) -> Iterator[str]:
  said = f"{text}\n{source}"
  spans = sentences(text)
  if not spans:
    return
  for finding, about in _FINDINGS:
    if not re.search(about, said, re.IGNORECASE):
      at = spans[int(rng.integers(len(spans)))][1]
      stop = "" if text[at - 1] in ".!?" else "."
      ends = "." if stop == "" or at < len(text.rstrip()) else ""
      if text[at - 1] == ";":
        yield f"{text[:at]} {finding[0].lower()}{finding[1:]};{text[at:]}"
      else:
        yield f"{text[:at]}{stop} {finding}{ends}{text[at:]}"


def _sides(text: str) -> Iterator[tuple[str, str]]:
  """All mentions of one side of one place at once: half of them would be a contradiction, not a mistake."""
  places: dict[str, list[re.Match]] = {}
  for match in _SIDE.finditer(text):
    places.setdefault(match[0].lower(), []).append(match)
  for matches in places.values():
    wrong = text
    for match in reversed(matches):
      wrong = wrong[: match.start(1)] + _cased(_SWAP[match[1].lower()], match[1]) + wrong[match.end(1) :]
    yield wrong, "wrong_side"


def _doses(text: str) -> Iterator[tuple[str, str]]:
  for match in _DOSE.finditer(text):
    number = Decimal(match[1].replace(",", ""))
    for factor in _FACTORS if number else ():
      value = (number * factor).normalize()
      shown = f"{value:,f}" if "," in match[1] else f"{value:f}"
      yield text[: match.start(1)] + shown + text[match.end(1) :], "wrong_dose"


def _units(text: str) -> Iterator[tuple[str, str]]:
  for match in _DOSE.finditer(text):
    for unit in _UNITS[match[3].lower()]:
      shown = unit.upper() if match[3].isupper() and len(match[3]) > 1 else unit
      yield text[: match.start(3)] + shown + text[match.end(3) :], "wrong_unit"


def _turned(text: str) -> Iterator[tuple[str, str]]:
  for pattern, other, how in _TURNS:
    for match in pattern.finditer(text):
      rest = text[match.end() :]
      if _says_one_thing(rest.lstrip()):
        if other:
          rest = _cased(other, match[1]) + rest
        elif match[1][0].isupper():
          rest = rest[:1].upper() + rest[1:]
        yield text[: match.start(1)] + rest, how


def _symptoms_denied(text: str) -> Iterator[tuple[str, str]]:
  for match in _CLAUSE.finditer(text):
    before = re.split(_STOP, text[: match.start(2)])[-1]
    denied = re.search(r"\b(?:no|not|den\w+|without|negative)\b", before, re.IGNORECASE)
    if not denied and _says_one_thing(text[match.end(2) :]):
      first = match[2][0]
      denial = "No " if first.isupper() else "no "
      yield text[: match.start(2)] + denial + first.lower() + match[2][1:] + text[match.end(2) :], "present_as_denied"


def _says_one_thing(rest: str) -> bool:
  """Whether what follows up to the end of its clause is no list, all of which a word of denial would change."""
  clause = re.split(rf"{_STOP}(?!\d)|,? \bbut\b|, (?=(?:no|not|denies|reports|without|with)\b)", rest, maxsplit=1)[0]
  return not re.search(r",(?!\d)(?! \d)|/(?!\d)|\b(?:or|nor|and)\b", clause, re.IGNORECASE)


def _cased(word: str, like: str) -> str:
  if like.isupper() and len(like) > 1:
    return word.upper()
  return word.capitalize() if like[0].isupper() else word
