"""Identifiers of persons that patterns can find in texts, by the kinds of the HIPAA Safe Harbor list.

The list (45 CFR 164.514(b)(2)(i)) names 18 kinds. Patterns know what has a form of its own (dates, telephone numbers,
addresses of mail, web and network, social security numbers) or a word that announces it (`MRN:`, `account no.`, `Dr.`).
**They do not show that a text is free of identifiers.** Out of reach are names without a title or a label, places
without a street number or ZIP code, employers, biometric data and photographs, anything in words other than English,
and numbers in the style of one hospital. Dates without a year are seen where the month is a word, and behind a word
in `on 3/12`, `until 7/93`, `in April`; ages above 89 as `92-year-old`, `92 y/o`, `aged 92`, `92M`. Providers' names
count too, single capitals (`Dr. X`) do not. Formats are those of the United States, with day-first dates and
international telephone numbers beside them.
"""

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterable

LISTED = 10  # rows named for a kind

_MONTH = (
  "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
  "Nov(?:ember)?|Dec(?:ember)?)"
)
_YEAR = r"(?:19|20)\d\d"
_M, _D = r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_ORDINAL = r"(?:st|nd|rd|th)?"
# What may follow a number that is an amount, so that `May 10 mg` and `on 1/2 tablet` are no dates.
_AMOUNT = (
  r"(?!\d|[.,/:%]\d|\s*(?:%|mg|mcg|µg|g\b|kg|ml|l\b|cc|cm|mm|units?|iu\b|u\b|tab|pill|caps?|dose|puff|drop|times?|x\b|"
  r"hours?|hrs?|days?|weeks?|wks?|months?|mos?\b|years?|yrs?|minutes?|mins?|out of|of\b|on\b|strength|scale|pain|"
  r"patients|cfu|cells|systolic|murmur|beats|bpm|breaths|degrees))"
)
_STATES = (
  "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|"
  "PA|PR|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_NANP = r"(?:\+?1[-. ]?)?(?:\([2-9]\d\d\) ?\d{3}[-. ]\d{4}|[2-9]\d\d([-.])\d{3}\1\d{4})"
_ABROAD = r"\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}"
_LOCAL = r"(?:(?:\+?1[-. ]?)?\(?\d{3}\)?[-. ]?)?\d{3}[-. ]?\d{4}"  # only after a word that announces it
_MARK = r"(?:\s*(?:number|num|no\.?|nr\.?|id|#)\s*(?:is\s*)?[:#=]?|\s*[:#=])\s*"  # `number`, `no.:`, `#`
_TOKEN = r"(?=[A-Z-]*\d)[A-Z0-9][A-Z0-9-]{3,}\b"  # four or more characters, a digit among them


def _announced(words: str) -> str:
  """A number (or the like) behind one of the words and a mark."""
  return rf"\b(?:{words}){_MARK}{_TOKEN}"


def _is_address(text: str) -> bool:
  try:
    ipaddress.ip_address(text)
  except ValueError:
    return False
  return True


# What follows a title or a label and is no name.
_NO_NAME = set(
  "the this that these those when what where why how have has had are was were will would can could should did does "
  "not and but for yes well okay thank thanks hello please your you our his her their its there here unknown none "
  "redacted name patient doctor nurse practitioner manager station contin".split()
)
_TITLE = r"(?:Mr|Mrs|Ms|Mx|Dr|Prof|Rev)\.? |(?:MR|MRS|MS|DR)\. |(?:Doctor|Nurse|Professor|Miss) "
_LABEL = r"(?:(?P<of>\w+)[ _])?name(?: is|['’]s)?\s*[:=]\s*|\bmy name(?: is|['’]s) "
_NO_PERSON = set(
  "drug medication brand generic trade test product file hospital study device procedure column lab".split()
)


def _is_name(match: re.Match) -> bool:
  found = match.groupdict()
  return found["name"].casefold() not in _NO_NAME and (found.get("of") or "").casefold() not in _NO_PERSON


@dataclasses.dataclass(frozen=True)
class _Pattern:
  kind: str
  expression: re.Pattern
  accepts: Callable[[re.Match], bool] = lambda match: True


def _any_case(*alternatives: str) -> re.Pattern:
  return re.compile("|".join(alternatives), re.IGNORECASE)


# In this order, each on what the ones before it have left.
_PATTERNS = (
  _Pattern("email", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+\b")),
  _Pattern(
    "url",
    _any_case(
      r"\bhttps?://[^\s<>\"]+",
      r"\bwww\.[\w-]+\.[^\s<>\"]+",
      r"(?<![\w.-])(?:[a-z][\w-]+\.){1,5}(?:com|org|net|edu|gov)\b",
    ),
  ),
  _Pattern(
    "ip_address",
    re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"),
    lambda match: _is_address(match[0]) and any(character.isdigit() for character in match[0]),
  ),
  _Pattern(
    "ssn",
    _any_case(
      r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])",
      r"\b(?:ssn|social security)\b\D{0,30}(?:\d{3}[- ]?\d\d[- ]?\d{4}|\d{4})\b",
    ),
  ),
  _Pattern("fax", _any_case(rf"\bfax\b\D{{0,15}}(?:{_LOCAL}|{_ABROAD})(?!\d)")),
  _Pattern(
    "phone",
    _any_case(
      rf"(?<![\w.+-]){_NANP}(?![\w-])",
      rf"(?<![\w.]){_ABROAD}(?!\d)",
      r"\b(?:phone|telephone|tel|cell|mobile|pager|call(?: \w+)? (?:at|on)|contact|reached at)\b[^\d\n]{0,15}"
      rf"{_LOCAL}(?!\d)",
    ),
    lambda match: not match[0].startswith("+") or sum(map(str.isdigit, match[0])) >= 9,
  ),
  _Pattern(
    "record_number",
    _any_case(
      rf"\b(?:mrn|mr ?#|medical record(?: (?:number|no\.?))?)\s*(?:is\s*)?[:#=]?\s*{_TOKEN}",
      _announced("hospital|patient|chart|case|encounter|visit|accession|specimen"),
    ),
  ),
  _Pattern(
    "health_plan_number",
    _any_case(
      _announced("health plan|insurance|policy|member(?:ship)?|subscriber|beneficiary|medicare|medicaid|group")
    ),
  ),
  _Pattern("account_number", _any_case(_announced("account|acct|invoice|iban|credit card|bank card"))),
  _Pattern(
    "licence_number",
    _any_case(
      _announced(r"(?:driver['’]?s?['’]? )?licen[cs]e|certificate|registration|passport|dea"),
      r"\bnpi\s*(?:number|no\.?|#)?\s*[:#=]?\s*\d{10}\b",
    ),
  ),
  _Pattern(
    "vehicle",
    _any_case(
      r"\bvin\b\W{0,3}(?=[A-Z]*\d)[A-HJ-NPR-Z0-9]{17}\b",
      _announced("vehicle(?: identification)?|licen[cs]e plate"),
    ),
  ),
  _Pattern(
    "device",
    re.compile(
      rf"{_announced('device|implant|pacemaker|pump|serial|udi')}|\b[Ss]/[Nn]\s*[:#]?\s*{_TOKEN}", re.IGNORECASE
    ),
  ),
  _Pattern(
    "date",
    re.compile(
      rf"(?<![\d./-])(?:{_YEAR}([-/.]){_M}\1{_D}|(?:{_M}([-/.]){_D}|{_D}([-/.]){_M})(?:\2|\3){_YEAR}"
      rf"|(?:{_M}/{_D}|{_D}/{_M})/\d\d)(?![\d/]|-\d|\.\d)"
    ),
  ),
  _Pattern(
    "date",
    _any_case(
      rf"\b{_MONTH}\.?,? {_D}{_ORDINAL},? {_YEAR}\b",
      rf"(?<![\d./-])\b{_D}{_ORDINAL}(?: of)?[ -]{_MONTH}\.?,?[ -](?:{_YEAR}|\d\d)\b",
      rf"\b{_MONTH}\.?,?(?: of)? {_YEAR}\b",
      rf"(?<![\d./-])(?:0[1-9]|1[0-2])/{_YEAR}(?![\d/])(?!\s*dilut)",
    ),
  ),
  _Pattern(
    "date",
    re.compile(
      rf"\b{_MONTH}\.? {_D}{_ORDINAL}\b{_AMOUNT}"
      rf"|(?<![\d./-])\b{_D}{_ORDINAL}(?: of)?[ -]{_MONTH}\b(?! ?\d)(?<!\bMay)"
      rf"|\b(?:[Oo]n|[Ss]ince|[Dd]ated?:?|DOB:?) {_M}/{_D}\b{_AMOUNT}"
      rf"|\b(?:[Ii]n|[Ss]ince|[Uu]ntil|[Tt]hrough|[Ll]ast|[Bb]y) (?:{_MONTH}\b|{_M}/(?:3[2-9]|[4-9]\d)\b{_AMOUNT})"
    ),
  ),
  _Pattern(
    "age_over_89",
    _any_case(
      r"(?<![\d.])(?:9\d|1[01]\d)[ -]?(?:years?|yrs?|yr\.?)[ -](?:old|of age)\b",
      r"(?<![\d.])(?:9\d|1[01]\d)[ -]?(?:y/?o\b|y\.o\.)",
      r"\b(?:aged?|age is)(?: of)?\s*[:=]?\s*(?:9\d|1[01]\d)\b(?![.%/]\d|\s*(?:days?|weeks?|months?|hours?|mo\b))",
      r"(?<![\d.])(?:9\d|1[01]\d)m\b(?! ?[/(])",
      r"(?<![\d.])(?:9\d|1[01]\d) (?:male|female|man|woman)\b",
      r"\A\s*(?:9\d|1[01]\d) ?[mf]\b",
    ),
  ),
  _Pattern(
    "address",
    re.compile(
      r"(?<![\d./])\b\d{1,5} (?!Minute|Hour|Mile|Block|Day|Week)(?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}"
      r"(?:Street|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Terrace|Highway|Hwy|Parkway|Pkwy|Square"
      r"|(?:St|Dr|Pl|Ct)(?=\.?(?:,|$|\n)))\b"
      rf"|\b[Pp]\.?[Oo]\.? ?[Bb]ox \d+|(?:,|\b[A-Z][a-z]+) (?:{_STATES}),? \d{{5}}(?:-\d{{4}})?\b"
      r"(?!\s*(?:units|iu|mg|cfu|/))"
      r"|\b(?i:zip)(?: ?code)?\W{0,3}\d{5}(?:-\d{4})?\b"
    ),
  ),
  _Pattern(
    "name",
    re.compile(
      rf"\b(?:{_TITLE})(?:[A-Z]\. )?"
      r"(?P<name>[A-Z][a-z]+(?:['’-][A-Z]?[a-z]+)*|[A-Z]['’][A-Z][a-z]+|(?<=\. )[A-Z]{3,}\b)"
    ),
    _is_name,
  ),
  _Pattern("name", re.compile(rf"(?i:\b(?:{_LABEL}))(?P<name>[A-Z][A-Za-z]+)\b"), _is_name),
)

KINDS = tuple(dict.fromkeys(pattern.kind for pattern in _PATTERNS))


@dataclasses.dataclass(frozen=True)
class Found:
  """What was found of one kind.

  Attributes:
    kind: one of `KINDS`.
    rows: texts with at least one.
    total: how many in all.
    ids: of at most `LISTED` of these rows.
  """

  kind: str
  rows: int
  total: int
  ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class IdentifierReport:
  """Counts of possible identifiers; never the text.

  Attributes:
    rows: texts that were read.
    rows_with_any: texts with at least one.
    found: one entry a kind that was found, the most rows first.
  """

  rows: int
  rows_with_any: int
  found: tuple[Found, ...]


def identifiers(texts: Iterable[tuple[str, str]], advance: Callable[[int], None] | None = None) -> IdentifierReport:
  """Counts what looks like an identifier of a person.

  Args:
    texts: (id, text) of each row.
    advance: called with 1 after each row, for a progress bar.

  Returns:
    Counts by kind, with ids of some rows.
  """
  rows = with_any = 0
  ids: dict[str, list[str]] = {kind: [] for kind in KINDS}
  found_rows, totals = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
  for id_, text in texts:
    counts = counted(text)
    rows += 1
    with_any += bool(counts)
    for kind, count in counts.items():
      found_rows[kind] += 1
      totals[kind] += count
      if len(ids[kind]) < LISTED:
        ids[kind].append(id_)
    if advance:
      advance(1)
  found = [Found(kind, found_rows[kind], totals[kind], tuple(ids[kind])) for kind in KINDS if totals[kind]]
  return IdentifierReport(rows, with_any, tuple(sorted(found, key=lambda entry: -entry.rows)))


def counted(text: str) -> dict[str, int]:
  """Kind -> how often it is found in one text; what one pattern has taken no later one counts again."""
  counts: dict[str, int] = {}
  for pattern in _PATTERNS:

    def take(match: re.Match, pattern: _Pattern = pattern) -> str:
      if not pattern.accepts(match):
        return match[0]
      counts[pattern.kind] = counts.get(pattern.kind, 0) + 1
      return "\n"

    text = pattern.expression.sub(take, text)
  return counts
