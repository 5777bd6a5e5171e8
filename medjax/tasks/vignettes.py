"""Seeded short vignettes: a complaint, what was found, what was not, and the one diagnosis that fits.

A vignette names two findings of the true diagnosis as present, and findings of other options as absent, normal, past
or a relative's, in the same words. So the findings that are mentioned do not tell the diagnosis; their status does.
Everything is a function of the seed and the vignette's number.
"""

import dataclasses
import functools

from medjax.tasks.simulator_draws import Draws, expand
from medjax.tasks.vignettes_diagnoses import CLUSTERS, DIAGNOSES, Cluster, Diagnosis, Sign

SEED = 20251
SPLITS = {"test": (0, 300), "validation": (100_000, 200), "train": (200_000, 1000)}  # first number, vignettes
OPTIONS = 4
_NEAREST = (4, 2, 1)  # how often the first, second and third of a diagnosis's `near` is the alternative
_TWO_AGAINST_NEAREST = 0.9  # how often two findings of the nearest alternative are ruled out, not one
_AGAINST_SECOND = 0.6  # how often a finding of another option is ruled out too
_CONTRAST = 0.35  # how often something absent and something present share a sentence
_CLOSED = {"absent": 5, "past": 3, "relative": 2}  # how often a finding is ruled out which way

_OPENINGS = (
  "{a} {age}-year-old {who} with {complaint} {since}",
  "{age}-year-old {who}, {complaint} {since}",
  "{complaint} {since} in a {who} of {age}",
)
_SINCE = ("since [this morning|last night|yesterday]", "for [two|three] days", "[getting|growing] worse since Monday")
_PRESENT = ("Now {a}", "{a}", "Found: {a}", "{He} had {a} this time", "This time {a}", "{a} found")
_PRESENT_TWO = ("Now {a} and {b}", "This time {a}; also {b}", "{He} had {a} and {b} this time", "Found: {a}; {b}")
_CONTRASTS = ("No {b}, but {a}", "{a}, but no {b}", "{b} ruled out, but {a}", "{He} had {a} but no {b} this time")
_STATUS = {
  "absent": ("No {a}", "{a}: absent", "{a} looked for, not found", "Not found: {a}", "{a} ruled out"),
  "normal": ("{a}", "{a} found", "This time {a}", "Found: {a}"),
  "past": ("{a} in {year}, [not since|settled]", "In {year} {a}, [treated|settled]", "{a} {4-9} years ago, gone since"),
  "relative": ("{his} {relative} had {a} in {year}", "{a} in {his} {relative} in {year}"),
}
_ABSENT_TWO = ("Neither {a} nor {b}", "No {a} or {b}", "Not found: {a}; {b}", "{a} and {b} both ruled out")
_DISTRACTORS = (
  "[Works as a teacher|Retired teacher|Drives a bus]",
  "Takes [cetirizine|omeprazole|vitamin D]",
  "Allergic to penicillin",
  "Lives [alone|on the third floor]",
  "Tonsils out in {1996-2006}",
  "[Wears a hearing aid|Wears glasses]",
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """A finding as a vignette has it.

  Attributes:
    diagnosis: what it would speak for.
    text: its words.
    status: `present`, or else `absent`, `normal` (a measured value), `past` or `relative`.
    sign: the template of the sign it is.
  """

  diagnosis: str
  text: str
  status: str
  sign: str


@dataclasses.dataclass(frozen=True)
class Vignette:
  """A vignette and its ground truth.

  Attributes:
    number: its number; with the seed it determines everything else.
    text: the vignette.
    options: the diagnoses to choose from, in drawn order.
    diagnosis: the true one.
    nearest: the option that it is most easily mistaken for here.
    findings: what tells the options apart: first two that are present, then those against `nearest`, then others.
  """

  number: int
  text: str
  options: tuple[str, ...]
  diagnosis: str
  nearest: str
  findings: tuple[Finding, ...]


def phrase(draws: Draws, template: str) -> str:
  """The template of a finding written out."""
  return expand(draws, template, {}.__getitem__)


def _two(draws: Draws, diagnosis: Diagnosis) -> list[Sign]:
  """Two findings of a diagnosis, at least one of them strong."""
  first = draws.pick([sign for sign in diagnosis.signs if sign.strong])
  return draws.shuffled((first, draws.pick([sign for sign in diagnosis.signs if sign is not first])))


def _present(draws: Draws, diagnosis: Diagnosis) -> list[Finding]:
  """Findings of the true diagnosis, drawn in the same way as those of the others."""
  return [Finding(diagnosis.name, phrase(draws, sign.text), "present", sign.text) for sign in _two(draws, diagnosis)]


def _closed(draws: Draws, diagnosis: Diagnosis, count: int) -> list[Finding]:
  """Findings of a diagnosis that is not the true one."""

  def close(sign: Sign) -> Finding:
    if sign.normal:
      return Finding(diagnosis.name, phrase(draws, sign.normal), "normal", sign.text)
    kinds = [kind for kind in _CLOSED if not (sign.lasting and kind == "past")]
    status = draws.pick(kinds, [_CLOSED[kind] for kind in kinds])
    return Finding(diagnosis.name, phrase(draws, sign.text), status, sign.text)

  return [close(sign) for sign in _two(draws, diagnosis)[:count]]


def _sentences(draws: Draws, findings: list[Finding], female: bool) -> list[str]:
  """The findings in drawn sentences and order."""

  def write(template: str, *used: Finding) -> str:
    words = {
      **dict(zip("ab", (finding.text for finding in used), strict=False)),
      "He": "She" if female else "He",
      "his": "her" if female else "his",
      "year": "{2012-2021}",
      "relative": "[brother|sister|mother|father|cousin]",
    }
    text = expand(draws, template, words.__getitem__)
    return text[0].upper() + text[1:]

  present = [finding for finding in findings if finding.status == "present"]
  absent = [finding for finding in findings if finding.status == "absent"]
  rest = [finding for finding in findings if finding.status not in ("present", "absent")]
  out = []
  if absent and draws.chance(_CONTRAST):
    out.append(write(draws.pick(_CONTRASTS), present.pop(draws.below(2)), absent.pop(draws.below(len(absent)))))
  if len(present) == 2 and draws.chance(0.5):
    out.append(write(draws.pick(_PRESENT_TWO), *present))
    present = []
  if len(absent) > 1 and draws.chance(0.5):
    out.append(write(draws.pick(_ABSENT_TWO), *absent[:2]))
    absent = absent[2:]
  out += [write(draws.pick(_PRESENT), finding) for finding in present]
  out += [write(draws.pick(_STATUS[finding.status]), finding) for finding in absent + rest]
  return draws.shuffled(out)


def vignette(seed: int, number: int, cluster: Cluster, diagnosis: Diagnosis) -> Vignette:
  """One vignette.

  Args:
    seed: seed of the series.
    number: number of the vignette.
    cluster: the cluster of the diagnosis.
    diagnosis: the true diagnosis.

  Returns:
    The vignette with its ground truth.
  """
  draws = Draws(seed, number, 0)
  near = draws.pick(diagnosis.near, _NEAREST[: len(diagnosis.near)])
  by_name = {other.name: other for other in cluster.diagnoses}
  others = draws.shuffled([name for name in by_name if name not in (diagnosis.name, near)])[: OPTIONS - 2]
  findings = _present(draws, diagnosis)
  findings += _closed(draws, by_name[near], 1 + draws.chance(_TWO_AGAINST_NEAREST))
  if draws.chance(_AGAINST_SECOND):
    findings += _closed(draws, by_name[others[0]], 1)

  female = draws.chance(0.5)
  sentences = _sentences(draws, findings, female)
  sentences.insert(draws.below(len(sentences) + 1), phrase(draws, "[Also |]" + draws.pick(cluster.shared)))
  if len(findings) < 5 and draws.chance(0.5):
    sentences.insert(draws.below(len(sentences) + 1), phrase(draws, draws.pick(_DISTRACTORS)))
  age = draws.between(*diagnosis.ages)
  words = {
    "a": "an" if age == 18 or 80 <= age < 90 else "a",
    "age": str(age),
    "who": "woman" if female else "man",
    "complaint": cluster.complaint,
    "since": draws.pick(_SINCE),
  }
  sentences.insert(0, expand(draws, draws.pick(_OPENINGS), words.__getitem__))
  return Vignette(
    number=number,
    text=" ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences),
    options=tuple(draws.shuffled((diagnosis.name, near, *others))),
    diagnosis=diagnosis.name,
    nearest=near,
    findings=tuple(findings),
  )


@functools.cache
def vignettes(split: str) -> tuple[Vignette, ...]:
  """All vignettes of a split, in the order of its rows: every diagnosis once in each run of as many as there are.

  Args:
    split: `train`, `validation` or `test`.

  Returns:
    1,000, 200 or 300 vignettes.
  """
  first, wanted = SPLITS[split]
  home = {diagnosis.name: cluster for cluster in CLUSTERS for diagnosis in cluster.diagnoses}
  out = []
  while len(out) < wanted:
    for diagnosis in Draws(SEED, first + len(out), 1).shuffled(DIAGNOSES):
      out.append(vignette(SEED, first + len(out), home[diagnosis.name], diagnosis))
  return tuple(out[:wanted])
