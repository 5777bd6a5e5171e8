"""Lengths of chosen and rejected answers: whether they tell the two apart, and the candidates that keep them from it.

A loss on pairs learns whatever tells chosen from rejected, and length is the classic one: where chosen answers are
mostly the longer ones, a policy learns to write more (Singhal et al. 2023, arXiv 2310.03716; Park et al. 2024, arXiv
2403.19159).
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medjax.preferences.candidates import Candidate, Found

TOLD_APART = 0.65  # an AUROC further from a half than this is warned of, on either side
_AIM = 3  # words by which a pair may make up for those before it


@dataclasses.dataclass
class Kept:
  """The pairs of all rows.

  Attributes:
    candidates: kept ones of each row, in the order of the ways.
    without: way -> reason -> rows of which it gave no pair.
    dropped: way -> candidates whose lengths differ by too much.
  """

  candidates: list[list[Candidate]]
  without: dict[str, collections.Counter]
  dropped: dict[str, int]


def keep(found: dict[str, Sequence[Found]], per_row: int, max_gap: int) -> Kept:
  """Takes the best candidates of each row, up to `per_row` of each way.

  Rank comes first. Among candidates of one rank that is taken whose gap in words is closest to a target: none as long
  as the longer answer is chosen as often as the shorter, else up to `_AIM` words on the other side.

  Args:
    found: way -> the candidates of each row, in the same order of rows.
    per_row: most pairs of a row and way.
    max_gap: most words by which a pair's answers may differ; 0 for no limit.
  """
  kept = Kept([], {way: collections.Counter() for way in found}, dict.fromkeys(found, 0))
  ahead = 0  # pairs whose chosen answer is longer, less those whose chosen answer is shorter
  for of_row in zip(*found.values(), strict=True):
    taken: list[Candidate] = []
    for way, row in zip(found, of_row, strict=True):
      fitting = [each for each in row.candidates if not max_gap or abs(each.gap) <= max_gap]
      kept.dropped[way] += len(row.candidates) - len(fitting)
      known = {(each.chosen, each.rejected) for each in taken}
      left = [each for each in fitting if (each.chosen, each.rejected) not in known]
      reason = row.reason or ("" if left else "in_another_way" if fitting else "length_gap")
      if reason:
        kept.without[way][reason] += 1
      for _ in range(min(per_row, len(left))):
        aim = -int(np.clip(ahead, -_AIM, _AIM))
        best = min(left, key=lambda each: (each.rank, abs(each.gap - aim)))
        # Another pair of the same rejected answer teaches little: one of each, as long as there are others.
        left = [each for each in left if each.rejected != best.rejected]
        taken.append(best)
        ahead += int(np.sign(best.gap))
        if not left:
          break
    kept.candidates.append(taken)
  return kept


def report(
  pairs: Sequence[tuple[str, str]], unit: str, lengths: Callable[[Sequence[str]], list[int]]
) -> dict[str, Any]:
  """How the lengths of chosen and rejected answers compare.

  Args:
    pairs: (chosen, rejected) texts.
    unit: what `lengths` counts.
    lengths: texts -> the length of each.

  Returns:
    `unit`; `chosen` and `rejected`, each with `mean` and `median`; the shares `chosen_longer`, `chosen_shorter` and
    `equal`; `auroc`, the probability that a chosen answer of any pair is longer than a rejected one of any, ties
    counting half (Mann-Whitney); `auroc_within`, the same of the two answers of a pair, which is what a loss on pairs
    sees; and `warning`, empty unless one of these is further from a half than `TOLD_APART`. Numbers are null where
    there are no pairs.
  """
  if not pairs:
    empty = {"mean": None, "median": None}
    numbers = dict.fromkeys(("chosen_longer", "chosen_shorter", "equal", "auroc", "auroc_within"))
    return {"unit": unit, "chosen": empty, "rejected": empty, **numbers, "warning": ""}
  chosen, rejected = (np.array(lengths([pair[side] for pair in pairs])) for side in (0, 1))
  longer, equal = float(np.mean(chosen > rejected)), float(np.mean(chosen == rejected))
  # Rejected answers that are shorter than each chosen one, and half of those that are as long.
  ordered = np.sort(rejected)
  below, up_to = (np.searchsorted(ordered, chosen, side) for side in ("left", "right"))
  auroc, within = float(np.mean(below + up_to) / 2 / len(rejected)), longer + equal / 2
  furthest = max((auroc, within), key=lambda value: abs(value - 0.5))
  warning = ""
  if abs(furthest - 0.5) > TOLD_APART - 0.5:
    warning = (
      f"length alone tells chosen from rejected: chosen answers are {'longer' if furthest > 0.5 else 'shorter'} "
      f"(AUROC {furthest:.2f}); --max_length_gap drops the pairs that differ most"
    )
  return {
    "unit": unit,
    "chosen": {"mean": float(chosen.mean()), "median": float(np.median(chosen))},
    "rejected": {"mean": float(rejected.mean()), "median": float(np.median(rejected))},
    "chosen_longer": longer,
    "chosen_shorter": 1 - longer - equal,
    "equal": equal,
    "auroc": auroc,
    "auroc_within": within,
    "warning": warning,
  }


def words(texts: Sequence[str]) -> list[int]:
  """Words of each text, words being what blanks separate."""
  return [len(text.split()) for text in texts]
