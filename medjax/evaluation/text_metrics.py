"""Metrics of generated texts: ROUGE by rouge-score, facts stated, left out and invented."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from decimal import Decimal

from medjax.errors import UserError
from medjax.tasks.task import Facts, TextTarget

# Digits that are not part of a name (B12, SpO2), with a decimal point or commas between thousands.
_NUMBER = re.compile(r"(?<![A-Za-z\d])\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


@dataclasses.dataclass(frozen=True)
class TextMetric:
  """A scalar metric of texts: the mean of a value per item.

  Attributes:
    name: key in `TEXT_METRICS`.
    higher_is_better: the direction of improvement; None where neither is, and the metric only describes.
    per_item: whether the value of an item is 0 or 1, so that McNemar's test applies.
    bounded: whether the value of an item lies between 0 and 1.
  """

  name: str
  higher_is_better: bool | None = True
  per_item: bool = False
  bounded: bool = True


TEXT_METRICS: dict[str, TextMetric] = {
  metric.name: metric
  for metric in (
    TextMetric("fact_f1"),
    TextMetric("fact_recall"),
    TextMetric("invention_rate", higher_is_better=False, per_item=True),
    TextMetric("rouge1"),
    TextMetric("rouge2"),
    TextMetric("rougeL"),
    TextMetric("length_ratio", higher_is_better=None, bounded=False),
    TextMetric("exact_match", per_item=True),
  )
}


_OF_FACTS = ("fact_f1", "fact_recall", "invention_rate")


def text_metrics(target: TextTarget) -> tuple[str, ...]:
  """The metrics that a text target has: those of facts where it has some, `exact_match` of a short final answer."""
  unread = {*(() if target.facts else _OF_FACTS), *(() if target.exact else ("exact_match",))}
  return tuple(name for name in TEXT_METRICS if name not in unread)


def numbers(text: str) -> list[str]:
  """The numbers of a text in order: digits with an optional decimal part, without commas between thousands.

  `3.1`, `120/80` (two numbers), `50mg`, `2x` and `62-year-old` have numbers; digits that follow a letter belong to a
  name and are none (`B12`, `SpO2`). Signs are ignored; number words are no numbers.
  """
  return [match[0].replace(",", "") for match in _NUMBER.finditer(text)]


def unsupported_numbers(text: str, source: str) -> list[str]:
  """Numbers of the text whose value is nowhere in the source, each value once.

  Values are compared, so 7.50 is supported by 7.5; a number word in the source (zero to twelve) supports its digits.
  A number is supported wherever the source has it: whether it is put to the right use, patterns of facts must say.
  """
  words = set(re.findall(r"[a-z]+", source.lower()))
  known = {Decimal(number) for number in numbers(source)}
  known |= {Decimal(value) for value, word in enumerate(_WORDS) if word in words}
  found = {Decimal(number): number for number in reversed(numbers(text))}
  return [number for value, number in reversed(found.items()) if value not in known]


def stated(text: str, patterns: Mapping[str, tuple[str, ...]]) -> dict[str, list[tuple[int, int]]]:
  """Which facts a text states, and where.

  Args:
    text: the text.
    patterns: name of a fact -> regular expressions, case ignored, any of which states it.

  Returns:
    Stated fact -> the spans (start, end) of all that matched, in the order of `patterns`.

  Raises:
    UserError: a pattern that is no regular expression.
  """
  found = {}
  for name, choices in patterns.items():
    try:
      spans = [match.span() for choice in choices for match in _compiled(choice).finditer(text)]
    except re.error as error:
      raise UserError(f"fact {name!r}: {error.pattern!r} is no regular expression ({error}); correct it") from error
    if spans:
      found[name] = spans
  return found


def score_text(prediction: str, reference: str, source: str, facts: Facts | None) -> dict[str, float]:
  """Every metric of one text; without facts none of those about them.

  With `must` the number of facts of `facts.must`, `kept` how many of them the text states, and `invented` the facts of
  `facts.must_not` it states plus its unsupported numbers (those inside a stated must_not fact are not counted again):

  - `fact_recall` = kept / must, the recall of vital nuggets (Voorhees 2003, Overview of the TREC 2003 question
    answering track), with regular expressions in the assessors' place.
  - `fact_f1` = harmonic mean of that recall and the precision kept / (kept + invented).
  - `invention_rate` = 1 where invented > 0, else 0.
  - `rouge1`, `rouge2`, `rougeL`: F-measures (recall and precision weigh the same) of unigrams, bigrams and the
    longest common subsequence of the whole texts (Lin 2004, ROUGE: A package for automatic evaluation of summaries,
    sections 2 and 3.1), by the package rouge-score with Porter's stemmer (`use_stemmer=True`).
  - `length_ratio` = words of the text / words of the reference, words being what blanks separate.
  - `exact_match` = 1 where both texts have the same words: case, punctuation and articles aside, as for SQuAD
    (Rajpurkar 2016, section 6.1).

  Args:
    prediction: the text; an empty one has 0 in every metric.
    reference: the reference text.
    source: what the text was made from.
    facts: what it must and must not state; None where nobody has said.

  Returns:
    Metric -> value, in the order of `TEXT_METRICS`.

  Raises:
    UserError: an empty reference, no fact to state, or a pattern that is no regular expression.
  """
  if not reference.strip():
    raise UserError("the reference text is empty; give one")
  if facts is not None and not facts.must:
    raise UserError("facts.must is empty; name at least one fact that the text must state")
  found = {} if facts is None else _of_facts(prediction, source, facts)
  rouge = _rouge().score(reference, prediction)
  return {
    **found,
    **{name: float(rouge[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")},
    "length_ratio": len(prediction.split()) / len(reference.split()),
    "exact_match": float(bool(prediction.strip()) and _words(prediction) == _words(reference)),
  }


def _words(text: str) -> list[str]:
  return [word for word in re.findall(r"\w+", text.casefold()) if word not in ("a", "an", "the")]


def _of_facts(prediction: str, source: str, facts: Facts) -> dict[str, float]:
  if not prediction.strip():
    return dict.fromkeys(_OF_FACTS, 0.0)
  kept = len(stated(prediction, facts.must))
  wrong = stated(prediction, facts.must_not)
  rest = list(prediction)
  for start, end in (span for spans in wrong.values() for span in spans):
    rest[start:end] = " " * (end - start)
  invented = len(wrong) + len(unsupported_numbers("".join(rest), source))
  return {
    # 2 P R / (P + R) with P = kept / (kept + invented), R = kept / must.
    "fact_f1": 2 * kept / (kept + invented + len(facts.must)),
    "fact_recall": kept / len(facts.must),
    "invention_rate": float(invented > 0),
  }


@functools.lru_cache(4096)  # a row has its own patterns, and re keeps 512
def _compiled(pattern: str) -> re.Pattern:
  return re.compile(pattern, re.IGNORECASE)


@functools.cache
def _rouge():
  from rouge_score import rouge_scorer  # brings nltk along, which takes a second to import

  return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
