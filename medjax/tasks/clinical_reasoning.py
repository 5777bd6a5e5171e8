"""Clinical reasoning: a vignette and four options -> the reasons, and the diagnosis that fits best."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from medjax.data.examples import Row
from medjax.errors import UserError
from medjax.tasks import vignettes
from medjax.tasks.simulator_draws import Draws
from medjax.tasks.task import Generation, Rejection, Target, Task, register
from medjax.tasks.vignettes_diagnoses import DIAGNOSES

LABELS = tuple(diagnosis.name for diagnosis in DIAGNOSES)
# How often the nearest wrong option comes before the right one with an invented reason. The former is what costs; the
# latter keeps preferences from being about the last line alone.
WRONG_OPTION_FIRST = 0.75
_BY_NAME = {diagnosis.name: diagnosis for diagnosis in DIAGNOSES}
_AGAINST = {
  "absent": "no {text}",
  "normal": "{text}",
  "past": "{text} only in the past",
  "relative": "{text} only in a relative",
}


def options(fields: Mapping) -> list[str]:
  """The options of a row, from `fields["options"]`: `a; b; c; d` or a list; UserError where fewer than two."""
  given = fields["options"]
  found = [option.strip() for option in (given.split(";") if isinstance(given, str) else given) if option.strip()]
  if len(found) < 2:
    raise UserError(f"options is {fields['options']!r}; list at least two, separated by semicolons")
  return found


def render(fields: Mapping) -> str:
  """The user's message: the vignette, and the options in a line of their own."""
  return f"{fields['vignette']}\nOptions: {'; '.join(options(fields))}"


def reasons(decisive: Sequence[str], unlikely: str, against: str) -> str:
  """Two sentences: what settles the diagnosis, and what speaks against its nearest alternative.

  Args:
    decisive: the two findings that settle the diagnosis.
    unlikely: the alternative that is ruled out.
    against: what speaks against it.
  """
  first, second = f"{decisive[0]} and {decisive[1]} are decisive.", f"{unlikely} is unlikely: {against}."
  return " ".join(sentence[0].upper() + sentence[1:] for sentence in (first, second))


def _against(finding: Mapping) -> str:
  return _AGAINST[finding["status"]].format(text=finding["text"])


def _not_mentioned(findings: Sequence[Mapping], diagnosis: str, rng: np.random.Generator) -> str:
  """Words of a finding of the diagnosis of which the vignette says nothing."""
  draws = Draws(int(rng.integers(2**32)))
  said = {finding["sign"] for finding in findings}
  return vignettes.phrase(draws, draws.pick([s.text for s in _BY_NAME[diagnosis].signs if s.text not in said]))


def rejections(labels: Mapping[str, str], fields: Mapping, rng: np.random.Generator) -> Sequence[Rejection]:
  """Two wrong answers: the nearest wrong option by misread findings, and the right one by an invented finding.

  The wrong option takes what the vignette says is absent, normal, past or a relative's for present (where it says so of
  one finding only, the other is invented) and denies a finding of the truth. The invented finding is one of the true
  diagnosis of which the vignette says nothing, in the place of one that is there.

  Args:
    labels: the true diagnosis and the reasons for it.
    fields: the row; `findings` are the vignette's, the present ones first, then those of the nearest option. Without
      them (a user's row) there is one wrong answer: another option under the same reasons.
    rng: draws which comes first, the wrong option with probability `WRONG_OPTION_FIRST`, and what is invented.

  Returns:
    `(labels, how)`, with `how` in `wrong_option`, `right_option_invented_finding`.
  """
  truth, findings = labels["diagnosis"], fields.get("findings")
  if not findings:
    other = [option for option in options(fields) if option != truth]
    return [({**labels, "diagnosis": other[int(rng.integers(len(other)))]}, "wrong_option")]
  present = [finding for finding in findings if finding["status"] == "present"]
  nearest = findings[len(present)]["diagnosis"]
  closed = [finding for finding in findings if finding["diagnosis"] == nearest]
  misread = [finding["text"] for finding in closed]
  if len(misread) == 1:
    misread.append(_not_mentioned(findings, nearest, rng))
  denied = next(finding["text"] for finding in present if not any(char.isdigit() for char in finding["text"]))
  invented = [present[int(rng.integers(2))]["text"], _not_mentioned(findings, truth, rng)]
  wrong = [
    ({"diagnosis": nearest, "reasons": reasons(misread, truth, f"no {denied}")}, "wrong_option"),
    (
      {"diagnosis": truth, "reasons": reasons(invented, nearest, _against(closed[0]))},
      "right_option_invented_finding",
    ),
  ]
  return wrong if rng.random() < WRONG_OPTION_FIRST else wrong[::-1]


def plain(words: str) -> str:
  """A text without case, full stops and blanks at its ends or doubled: what two answers are compared by."""
  return " ".join(words.lower().replace(".", " ").split())


def said_last(text: str) -> str:
  """What follows the last `Answer:` of a generated text, up to the end of its line; empty where there is none."""
  _, marker, rest = re.sub(r"answer\s*:", "Answer:", text, flags=re.IGNORECASE).rpartition("Answer:")
  return rest.strip().partition("\n")[0] if marker else ""


def read(text: str, fields: Mapping) -> dict[str, str]:
  """The diagnosis of a generated answer, in what follows the last `Answer:`.

  Args:
    text: the generated text.
    fields: the row, for its options.

  Returns:
    The diagnosis where the line is one of the row's options and nothing else (case, full stops and blanks aside), else
    nothing.
  """
  found = [option for option in options(fields) if plain(option) == plain(said_last(text))]
  return {"diagnosis": found[0]} if found else {}


def rows(split: str) -> list[Row]:
  """The frozen rows of a split; any first n are a fair sample.

  Args:
    split: `train`, `validation` or `test`.

  Returns:
    The rows.
  """
  out = []
  for item in vignettes.vignettes(split):
    findings = [dataclasses.asdict(finding) for finding in item.findings]
    present = [finding["text"] for finding in findings if finding["status"] == "present"]
    out.append(
      Row(
        id=f"vignette-{item.number}",
        group=f"patient-{item.number}",
        fields={"vignette": item.text, "options": "; ".join(item.options), "findings": findings},
        labels={
          "diagnosis": item.diagnosis,
          "reasons": reasons(present, item.nearest, _against(findings[len(present)])),
        },
      )
    )
  return out


CLINICAL_REASONING = register(
  Task(
    name="clinical_reasoning",
    description="vignette -> best diagnosis among four options, with reasons (simulated patients)",
    targets={"diagnosis": Target(LABELS, primary="accuracy")},
    instruction="Which option is the best diagnosis? Reply with two short sentences of reasons, then `Answer: ` "
    "and the option.",
    render=render,
    answer="{reasons}\nAnswer: {diagnosis}",
    rejections=rejections,
    load=lambda: {split: rows(split) for split in vignettes.SPLITS},
    generation=Generation(max_new_tokens=56, read=read),
  )
)
