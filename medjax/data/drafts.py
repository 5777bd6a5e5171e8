"""Groups as texts, ahead of the tokenizer: which pieces a completion has, and which of them are learnt."""

import dataclasses
import itertools
from collections.abc import Iterator

from medjax.data.examples import Segments


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of a completion.

  Attributes:
    text: what it says.
    behind: the text that it is tokenised behind, see `Encoder._behind`.
    learnt: whether its tokens are scored.
    eos: whether EOS is put at its end.
  """

  text: str
  behind: str = ""
  learnt: bool = True
  eos: bool = False


@dataclasses.dataclass(frozen=True)
class Draft:
  """A group of segments before it is tokenised; `throughout` where the prompt is learnt too."""

  id: str
  prompt: str
  completions: tuple[tuple[Part, ...], ...]
  desirable: bool = True
  weight: float = 1.0
  throughout: bool = False


def segments_of(draft: Draft, prompt: tuple[int, ...], found: Iterator[tuple[int, ...]], eos: int) -> Segments:
  """A draft with its ids: those of its prompt, and of its parts as `found` has them next."""
  completions, weights = [], []
  for completion in draft.completions:
    pieces = [(*next(found), eos) if part.eos else next(found) for part in completion]
    completions.append(tuple(itertools.chain(*pieces)))
    counts = [draft.weight if part.learnt else 0.0 for part in completion]
    weights.append(tuple(count for count, ids in zip(counts, pieces, strict=True) for _ in ids))
  if draft.throughout:
    ids = prompt + completions[0]
    prompt, completions, weights = ids[:1], [ids[1:]], [(draft.weight,) * (len(ids) - 1)]
  weighted = any(weight != 1.0 for weight in itertools.chain(*weights))
  return Segments(draft.id, prompt, tuple(completions), draft.desirable, tuple(weights) if weighted else None)
