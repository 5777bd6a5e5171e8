"""Regular expressions for what a summary of an encounter states: aware of negation, the past and other people.

A clause ends at a stop that is no decimal point, at `; ! ?`, a line's end or `but`. What it denies, dates back or
gives to a relative is not stated of the patient now. Rules in the manner of NegEx (Chapman et al. 2001, A simple
algorithm for identifying negated findings and diseases in discharge summaries).
"""

_IN = r"(?:[^.;!?\n]|\.(?=\d))"
_START = r"(?:^|[;!?\n]|\.(?!\d)|\bbut\b)"
_DENIED = r"no|not|nor|none|never|without|den(?:y|ies|ied|ying)|negative for|any|if"
# A 3-week history and a 74-year-old are no past.
_ELSEWHERE = (
  r"(?<!(?:day|eek|nth)[ -])(?<!(?:ays|eks|ths) )history|(?<!year[ -])(?<!years )old|previous(?:ly)?|past|prior|"
  r"former(?:ly)?|ex|stop(?:s|ped)?|off|normal|rules? out|exclud\w*|unlikely|"
  r"family|sister|brother|mother|father|husband|wife|partner|son|daughter|friend|neighbou?r"
)
_AFTER = (
  r"\?|\b(?:19|20)\d\d\b|\b(?:ago|resolved|cleared|gone|healed|denied|absent|negative|excluded|stopped|normal|fine|none|"
  r"not present)\b"
)

UNITS = {"mg": r"(?:mg|milligrams?)", "mcg": r"(?:mcg|µg|ug|micrograms?)", "units": r"(?:units?|iu)"}
_ANY_UNIT = r"(?:mg|milligrams?|mcg|µg|ug|micrograms?|units?|iu|g|grams?|ml|millilit\w+)"
FREQUENCIES = {
  "once daily": r"\bonce (?:daily|a day)\b|(?<!twice )(?<!times )\b(?:daily|every day|each day)\b|\b(?:od|qd)\b",
  "twice daily": r"\b(?:twice|two times|2 times|2x) (?:daily|a day|per day)\b|\b(?:bd|bid)\b|every 12 hours",
  "three times daily": r"\b(?:three|3) ?(?:times|x) (?:daily|a day|per day)\b|\b(?:tds|tid)\b|every 8 hours",
  "four times daily": r"\b(?:four|4) ?(?:times|x) (?:daily|a day|per day)\b|\b(?:qds|qid)\b|every 6 hours",
  "five times daily": r"\b(?:five|5) ?(?:times|x) (?:daily|a day|per day)\b",
  "at night": r"\b(?:at night|nightly|at bedtime|nocte|every night|each night)\b",
}
_SMALL = "one two three four five six seven eight nine ten eleven twelve".split()


def present(term: str) -> str:
  """States `term` (an expression) of the patient, now."""
  before = rf"{_START}(?:(?!\b(?:{_DENIED}|{_ELSEWHERE})\b){_IN})*?"
  return rf"{before}(?<![A-Za-z\d])(?:{term})(?![A-Za-z])(?!{_IN}*?(?:{_AFTER}))"


def affirmed(term: str) -> str:
  """States `term` without a word of denial right before it."""
  return rf"(?<!\bno )(?<!\bnot )(?<!denies )(?<!without )(?:{term})"


def bounded(number: str) -> str:
  """The number, and not a part of another."""
  return rf"(?<![\d.]){number.replace('.', r'[.]')}(?!\d|\.\d)"


def valued(words: str, value: str) -> str:
  """The value close to what it is a value of."""
  return rf"(?:{words}){_IN}{{0,30}}?{bounded(value)}|{bounded(value)}{_IN}{{0,20}}?(?:{words})"


def who(age: int, sex: str) -> tuple[str, ...]:
  """Age and sex together."""
  words = {"F": r"(?:f|female|woman|lady)", "M": r"(?:m|male|man|gentleman)"}[sex]
  title = {"F": r"(?:Mrs|Ms|woman|female|lady)", "M": r"(?:Mr|man|male|gentleman)"}[sex]
  return (
    rf"\b{age}[\s-]*(?:y/?o|y|yrs?|years?)?[\s-]*(?:old)?[\s,-]*{words}\b",
    rf"\b{title}\b\.?(?: [A-Z]\b\.?)?,? (?:of |aged |is )?{age}\b",
    rf"\b{words}\W{{1,3}}{age}\b",
  )


def sided(side: str, site: str, words: str) -> tuple[str, ...]:
  """The complaint in the site of that side."""
  place = rf"\b(?:{side}|{side[0]})(?:-sided)? {site}\b"
  return (
    affirmed(rf"{place}{_IN}{{0,40}}?\b(?:{words})"),
    affirmed(rf"\b(?:{words}){_IN}{{0,30}}?{place}"),
  )


def lasting(count: int, unit: str) -> tuple[str, ...]:
  """A duration; `unit` is `days`, `weeks` or `months`."""
  return (rf"(?:{bounded(str(count))}|\b{_SMALL[count - 1]}\b)[ -]?{unit[:-1]}s?\b",)


def dosed(drug: str, dose: str, unit: str) -> tuple[str, ...]:
  """The drug, and after it that dose in that unit."""
  return (rf"\b{drug}\b{_IN}{{0,40}}?{bounded(dose)} ?{UNITS[unit]}\b",)


def misdosed(drug: str, dose: str, unit: str) -> dict[str, tuple[str, ...]]:
  """The drug with another dose, or with that number and another unit; doses it was raised `from` are neither."""
  between = rf"\b{drug}\b(?:(?!\b(?:from|was|instead|old|previous(?:ly)?|not|stop\w*|until)\b)(?!\d){_IN}){{0,30}}?"
  number = dose.replace(".", r"[.]")
  return {
    "wrong_dose": (rf"{between}(?!{number}(?!\d|\.\d))(?<![\d.])\d+(?:\.\d+)? ?{_ANY_UNIT}\b",),
    "wrong_unit": (rf"{between}{bounded(dose)} ?(?!{UNITS[unit]}\b){_ANY_UNIT}\b",),
  }


def allergic(expression: str) -> tuple[str, ...]:
  """An allergy of the patient to what the expression finds."""
  return (
    present(rf"(?:{expression}) (?:drug )?allerg\w*"),
    present(rf"allerg\w*[\s:(-]{{1,3}}(?:to |includes? |is )?(?:{expression})"),
    # A question, and its answer in the next clause.
    rf"\ballerg\w*\?\s(?:(?:Pt|Dr): )?(?:yes\W+)?(?:{expression})\b",
    present(rf"(?:{expression})\b{_IN}{{0,25}}?\b(?:rash|hives|swelling)"),
  )


NO_ALLERGY = (
  r"\bno (?:known )?(?:drug )?allerg",
  r"\bNKD?A\b",
  r"\ballerg\w*[\s:?(-]{1,3}(?:(?:Pt|Dr): )?(?:none|nil|no\b)",
  r"\bden(?:y|ies|ied) (?:any )?(?:drug )?allerg",
  r"\bnot allergic to any",
)


def open_test(expression: str) -> tuple[str, ...]:
  """A test or review that is still to come."""
  asked = r"pending|await\w*|ordered|booked|requested|arranged?"
  return (
    rf"(?:{expression}){_IN}*?\b(?:{asked}|outstanding|not back|to follow|due)",
    rf"\b(?:{asked}|chase|waiting (?:for|on))\W{_IN}{{0,25}}?(?:{expression})",
  )


def settled_test_open(expression: str) -> tuple[str, ...]:
  """Calls a test pending that is back."""
  return (
    rf"(?:{expression})[^.,;!?\n]{{0,25}}\b(?:pending|await\w*|outstanding|not back|to follow|due)",
    rf"\b(?:pending|awaiting|awaits)\W{{1,2}}(?:the |an? )?(?:{expression})",
  )
