"""Names of columns that tell that a value is known only after the decision that a model is to learn."""

import re
from collections.abc import Iterable

# Each rule: words that stand one after another in a name (`*` ends a word's stem), why, and words that clear the name
# where they stand beside them.
_RULES: tuple[tuple[str, str, str], ...] = (
  ("disposition", "where the patient went afterwards", ""),
  ("outcome*", "an outcome", ""),
  (
    "discharg*",
    "written at discharge",
    "nasal vaginal wound eye ear nipple urethral penile purulent ocular aural bloody color colour odor odour",
  ),
  ("length of stay", "length of stay", ""),
  ("stay", "length of stay", ""),
  ("los", "length of stay", "angeles"),
  (
    "duration",
    "a duration, known once it has ended",
    "symptom symptoms pain illness disease onset fever cough complaint complaints headache diabetes seizure rash prior",
  ),
  ("mortality", "death or survival", ""),
  ("death", "death or survival", "family"),
  ("died", "death or survival", "family"),
  ("dead", "death or survival", ""),
  ("deceased", "death or survival", "family"),
  ("survi*", "death or survival", ""),
  ("expired", "death or survival", "air volume gas"),
  ("vital status", "death or survival", ""),
  ("readmi*", "a later admission", ""),
  ("admitted", "what was decided on the patient", ""),
  ("transferred", "what was decided on the patient", ""),
  (
    "diagnos*",
    "a diagnosis, made after the encounter began",
    "prior previous past history family known referral chronic preexisting",
  ),
  ("dx", "a diagnosis, made after the encounter began", "prior previous past history hx family known"),
  ("icd*", "a code given afterwards", "implantable"),
  ("cpt*", "a code given afterwards", ""),
  ("drg*", "a code given afterwards", ""),
  ("hcpcs", "a code given afterwards", ""),
  ("bill", "billing", ""),
  ("billing", "billing", ""),
  ("billed", "billing", ""),
  ("claim", "billing", ""),
  ("claims", "billing", ""),
  ("charges", "billing", ""),
  ("reimburse*", "billing", ""),
  ("error*", "says that a decision was wrong", "refractive"),
  ("mistriage*", "says that a decision was wrong", ""),
  ("correct", "says whether a decision was right", ""),
  ("follow up", "from a later contact", ""),
  ("followup", "from a later contact", ""),
  ("result of", "a result that came back later", ""),
  ("result", "a result that came back later", ""),
  ("results", "a result that came back later", ""),
  ("final", "a final value", ""),
  ("time to", "time to an event", ""),
  ("days to", "time to an event", ""),
  ("months to", "time to an event", ""),
)
# Words that make a status one of the present; any other status may be that of the case.
_PRESENT = set(
  "mental marital smoking smoker tobacco alcohol drinking functional performance ecog vaccination vaccine immunization "
  "pregnancy menopausal menopause fasting insurance employment code health socioeconomic education living nutritional "
  "neurological neuro hydration volume respiratory allergy hiv housing residential".split()
)


def names_to_review(names: Iterable[str]) -> dict[str, str]:
  """The names that sound like something known only later, each with why.

  Names are read word by word: `snake_case`, `camelCase`, spaces, other marks and digits separate words, so that `los`
  is found in `ED LOS` and `icuLos` and not in `blood loss`. A word that speaks of the present or of the past clears
  its name: `nasal discharge`, `prior diagnosis`, `symptom duration`, `mental status`.

  Args:
    names: of columns.

  Returns:
    name -> why, in the order given; a name that says nothing is absent.
  """
  found = {}
  for name in names:
    why = _why(_words(name))
    if why:
      found[name] = why
  return found


def _words(name: str) -> list[str]:
  """`EDLengthOfStay_min2` -> ed length of stay min."""
  spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
  return re.findall(r"[^\W\d_]+", spaced.casefold())


def _why(words: list[str]) -> str:
  for phrase, why, cleared in _RULES:
    if not set(cleared.split()) & set(words) and _holds(words, phrase.split()):
      return why
  if "status" in words and not _PRESENT & set(words):
    return "a status, which may be that of the closed case"
  return ""


def _holds(words: list[str], phrase: list[str]) -> bool:
  def same(word: str, wanted: str) -> bool:
    return word.startswith(wanted[:-1]) if wanted.endswith("*") else word == wanted

  places = range(len(words) - len(phrase) + 1)
  return any(all(map(same, words[place : place + len(phrase)], phrase)) for place in places)
