"""Prompts that occur twice: within a split, across splits, and with different labels.

Two texts are **exact** duplicates where they are equal once folded (`folded`): Unicode compatibility forms, case,
spaces and punctuation do not count; the sign and the decimal marks of numbers, `<`, `>`, `=`, `+` and accents do.

They are **near** duplicates where the Jaccard similarity of their sets of shingles is at least `SIMILAR`. Shingles are
runs of five words, or of five characters where texts have few words (or no spaces between them): in twenty words one
changed word already changes a quarter of the word shingles. Candidates come from MinHash signatures in bands (Broder
1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3) and are compared exactly, so that every
pair reported is one.
"""

import collections
import dataclasses
import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

SIMILAR = {"words": 0.8, "characters": 0.85}  # least Jaccard similarity of near duplicates, by kind of shingle
SHINGLE = 5
SHORT = 60  # words; below it characters are compared, from 0.8 of it on words: a near pair is of one kind at least
BANDS, BAND = 20, 6  # signatures of 120 values; two texts of similarity 0.8 share a band with probability 0.998
MARGIN = 0.15  # how far below SIMILAR a signature's estimate may be: 3.7 standard errors or more at 0.8
NEIGHBOURS = 10  # most texts of one band, and of one split, that a text is compared with
LISTED = 20  # pairs listed for a split, or for two

_TOKEN = re.compile(r"(?:(?<![\w.)])-)?\d+(?:[.,]\d+)*|[^\W\d_]+|[<>≤≥=+]")


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two rows with the same prompt, or nearly.

  Attributes:
    first: the row's id, in the overlap's first split.
    second: the other's, in the overlap's second split.
    similarity: Jaccard similarity of their shingles; 1 where they are equal once folded.
    same_group: whether both are of one group (patient).
  """

  first: str
  second: str
  similarity: float
  same_group: bool


@dataclasses.dataclass(frozen=True)
class Overlap:
  """What two splits share, or a split with itself (`first` == `second`).

  Attributes:
    first: name of a split.
    second: name of the same split or of a later one.
    exact_rows: rows of `second` whose prompt stands in `first` too; within one split, rows beyond the first of each
      prompt (what would go if duplicates were removed).
    exact_pairs: pairs of rows.
    near_rows: other rows of `second` that have a near duplicate in `first` (within a split, both of a pair count).
    near_pairs: pairs of rows; a lower bound where the report's `crowded` is not 0.
    pairs: at most `LISTED` of them, exact ones first, then the most similar.
  """

  first: str
  second: str
  exact_rows: int
  exact_pairs: int
  near_rows: int
  near_pairs: int
  pairs: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class DuplicateReport:
  """Duplicates among prompts.

  Attributes:
    rows: rows of each split.
    overlaps: each split with itself and with each later one, in the order of the splits.
    conflicts: prompts (equal once folded) that stand with more than one label.
    conflict_rows: rows with these prompts.
    conflict_ids: for at most `LISTED` of these prompts, the ids of two rows that differ in label.
    crowded: distinct texts that have more lookalikes than are compared: of these, pairs are counted in part.
  """

  rows: Mapping[str, int]
  overlaps: tuple[Overlap, ...]
  conflicts: int
  conflict_rows: int
  conflict_ids: tuple[tuple[str, str], ...]
  crowded: int

  def between(self, first: str, second: str) -> Overlap:
    """The overlap of two splits, in either order, or of one with itself; KeyError where there is no such split."""
    for overlap in self.overlaps:
      if {overlap.first, overlap.second} == {first, second}:
        return overlap
    raise KeyError((first, second))


@dataclasses.dataclass(frozen=True)
class _Entry:
  split: int
  id: str
  group: str


def folded(text: str) -> str:
  """The text as it is compared: NFKC, case folded, words, numbers and comparison signs with one space between."""
  return " ".join(_TOKEN.findall(unicodedata.normalize("NFKC", text).casefold().replace("−", "-")))


def duplicates(
  splits: Mapping[str, Sequence[tuple[str, str, str]]],
  labels: Mapping[str, str] | None = None,
  advance: Callable[[int], None] | None = None,
) -> DuplicateReport:
  """Finds prompts that occur more than once, exactly or nearly.

  Time and memory grow with the number of texts: a text is compared with at most `NEIGHBOURS` others a band, so a
  collection where everything resembles everything does not cost its square. The same input gives the same report.

  Args:
    splits: split -> (id, group, text) of each row. A template that all prompts share should not be part of the text.
    labels: id -> label, as far as rows have one, to find equal prompts with different labels.
    advance: called with a number of rows each time so many more have been read (all rows once), for a progress bar.

  Returns:
    Counts and a bounded list of ids; no text.
  """
  names = list(splits)
  rows_of: dict[str, list[_Entry]] = {}
  for index, name in enumerate(names):
    for id_, group, text in splits[name]:
      rows_of.setdefault(folded(text), []).append(_Entry(index, id_, group))
  advance = advance or (lambda number: None)
  advance(len(rows_of.pop("", ())))
  texts, entries = list(rows_of), list(rows_of.values())
  counts = np.zeros((len(texts), len(names)), np.int64)
  for text, members in enumerate(entries):
    for member in members:
      counts[text, member.split] += 1
  near, crowded = _near_pairs(texts, counts, advance)
  overlaps = tuple(
    _overlap(names, first, second, entries, counts, near)
    for first, second in itertools.combinations_with_replacement(range(len(names)), 2)
  )
  return DuplicateReport(
    {name: len(splits[name]) for name in names}, overlaps, *_conflicts(entries, labels or {}), crowded
  )


def _conflicts(
  entries: Sequence[Sequence[_Entry]], labels: Mapping[str, str]
) -> tuple[int, int, tuple[tuple[str, str], ...]]:
  """The number of prompts with several labels, of their rows, and two ids of some."""
  prompts, rows, ids = 0, 0, []
  for members in entries:
    known = [(labels[member.id], member.id) for member in members if member.id in labels]
    other = next((id_ for label, id_ in known if label != known[0][0]), None)
    if other is not None:
      prompts, rows = prompts + 1, rows + len(known)
      ids.append((known[0][1], other))
  return prompts, rows, tuple(ids[:LISTED])


def _overlap(
  names: Sequence[str],
  first: int,
  second: int,
  entries: Sequence[Sequence[_Entry]],
  counts: np.ndarray,
  near: "_Near",
) -> Overlap:
  in_first, in_second = counts[:, first], counts[:, second]
  a, b = near.texts.T
  if first == second:
    exact_rows = np.maximum(in_first - 1, 0).sum()
    exact_pairs = (in_first * (in_first - 1) // 2).sum()
    near_pairs = in_first[a] * in_first[b]
    twinned = in_first > 1
  else:
    exact_rows = in_second[in_first > 0].sum()
    exact_pairs = (in_first * in_second).sum()
    near_pairs = in_first[a] * in_second[b] + in_first[b] * in_second[a]
    twinned = in_first > 0
  has_near = np.zeros(len(counts), bool)
  has_near[b[in_first[a] > 0]] = True
  has_near[a[in_first[b] > 0]] = True
  near_rows = in_second[has_near & ~twinned].sum()
  listed = itertools.islice(_listed(first, second, entries, counts, near), LISTED)
  return Overlap(
    names[first], names[second], int(exact_rows), int(exact_pairs), int(near_rows), int(near_pairs.sum()), tuple(listed)
  )


def _listed(
  first: int, second: int, entries: Sequence[Sequence[_Entry]], counts: np.ndarray, near: "_Near"
) -> Iterable[Pair]:
  """One pair of rows for each pair of texts, exact duplicates first, then the most similar."""
  in_first, in_second = counts[:, first], counts[:, second]
  exact = np.flatnonzero(in_first > 1 if first == second else (in_first > 0) & (in_second > 0))
  for text in exact:
    left = next(member for member in entries[text] if member.split == first)
    right = next(member for member in entries[text] if member.split == second and member is not left)
    yield Pair(left.id, right.id, 1.0, left.group == right.group)
  for row in np.argsort(-near.similarity, kind="stable"):
    for one, other in (near.texts[row], near.texts[row][::-1]):
      if in_first[one] and in_second[other]:
        left = next(member for member in entries[one] if member.split == first)
        right = next(member for member in entries[other] if member.split == second)
        yield Pair(left.id, right.id, float(near.similarity[row]), left.group == right.group)
        break


# --- near duplicates among distinct texts ---


@dataclasses.dataclass(frozen=True)
class _Near:
  texts: np.ndarray  # [P, 2] indices, the smaller first
  similarity: np.ndarray  # [P]


def _near_pairs(texts: Sequence[str], counts: np.ndarray, advance: Callable[[int], None]) -> tuple[_Near, int]:
  """All near pairs among distinct texts, as far as they are compared, and the number of crowded texts."""
  words = np.array([text.count(" ") + 1 for text in texts], np.int64)
  numbers: dict[str, int] = collections.defaultdict(lambda: len(numbers))  # a number for each word
  found: dict[tuple[int, int], float] = {}
  crowded = np.zeros(len(texts), bool)
  rows = counts.sum(axis=1)
  home = counts.astype(bool) @ (1 << np.arange(counts.shape[1], dtype=np.int64))  # the set of splits a text is in
  for kind, chosen in (("characters", words < SHORT), ("words", words >= SIMILAR["words"] * SHORT)):
    members = np.flatnonzero(chosen)

    @functools.lru_cache(maxsize=1 << 14)
    def shingles(text: int, kind: str = kind) -> np.ndarray:
      return _shingles(texts[text], kind, numbers)

    def signatures_of(member: int, kind: str = kind) -> np.ndarray:
      if kind == "words" or words[member] < SIMILAR["words"] * SHORT:  # the last time that the text is read
        advance(int(rows[member]))
      return _shingles(texts[member], kind, numbers)

    signatures = _signatures(map(signatures_of, members), len(members))
    pairs, crowd = _candidates(signatures, home[members], SIMILAR[kind] - MARGIN)
    crowded[members[crowd]] = True
    for a, b in members[pairs].tolist():
      similarity = _jaccard(shingles(a), shingles(b))
      if similarity >= SIMILAR[kind]:
        found[a, b] = max(similarity, found.get((a, b), 0.0))
  ordered = sorted(found)
  near = _Near(np.array(ordered, np.int64).reshape(-1, 2), np.array([found[pair] for pair in ordered], np.float64))
  return near, int(crowded.sum())


def _shingles(text: str, kind: str, numbers: Mapping[str, int]) -> np.ndarray:
  """The set of a folded text's shingles, as sorted 64-bit hashes; a text shorter than one shingle is one."""
  if kind == "words":
    units = np.array([numbers[word] for word in text.split(" ")], np.uint64)
  else:
    units = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
  count = max(1, len(units) - SHINGLE + 1)
  hashes = np.zeros(count, np.uint64)
  for offset in range(min(SHINGLE, len(units))):
    hashes = _mixed(hashes + units[offset : offset + count] + np.uint64(1))
  return np.unique(hashes)


def _mixed(values: np.ndarray) -> np.ndarray:
  """A bijection of 64-bit values that spreads them (the finalizer of splitmix64)."""
  values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return values ^ (values >> np.uint64(31))


def _signatures(sets: Iterable[np.ndarray], count: int) -> np.ndarray:
  """MinHash signatures [count, BANDS * BAND], uint32."""
  from datasketch import MinHash

  signatures = np.zeros((count, BANDS * BAND), np.uint32)
  low = (hashes.astype(np.uint32) for hashes in sets)
  made = MinHash.generator(low, num_perm=BANDS * BAND, hashfunc=lambda value: value, scheme="affine32")
  for row, signature in enumerate(made):
    signatures[row] = signature.hashvalues
  return signatures


def _candidates(signatures: np.ndarray, home: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
  """Pairs [P, 2] that share a band and whose estimated similarity is `least` or more, the smaller index first.

  In a band that more than `NEIGHBOURS` + 1 texts share, each is paired with the next ones only, those that share a
  second band first, else in an order that is drawn anew for every band; of the pairs of a text with texts of the same
  splits (`home`) the `NEIGHBOURS` best are kept.

  Returns:
    The pairs, and which texts [N] had more candidates than that.
  """
  rng = np.random.default_rng(0)
  count = len(signatures)
  crowded = np.zeros(count, bool)
  packed = [np.zeros(0, np.int64)]
  band_keys = np.zeros((BANDS, count), np.uint64)
  for band, place in itertools.product(range(BANDS), range(BAND)):
    band_keys[band] = _mixed(band_keys[band] + signatures[:, band * BAND + place].astype(np.uint64))
  for band in range(BANDS):
    order = np.lexsort((rng.random(count), band_keys[band - 1], band_keys[band]))
    keys = band_keys[band][order]
    for distance in range(1, NEIGHBOURS + 2):
      same = keys[distance:] == keys[:-distance]
      a, b = order[:-distance][same], order[distance:][same]
      if distance > NEIGHBOURS:
        crowded[a] = crowded[b] = True
      else:
        packed.append(np.minimum(a, b) * count + np.maximum(a, b))
    packed = [np.unique(np.concatenate(packed))]
  a, b = packed[0] // max(count, 1), packed[0] % max(count, 1)
  estimate = np.concatenate(
    [np.zeros(0)]
    + [
      (signatures[a[start : start + 65536]] == signatures[b[start : start + 65536]]).mean(axis=1)
      for start in range(0, len(a), 65536)
    ]
  )
  alike = estimate >= least
  a, b, estimate = a[alike], b[alike], estimate[alike]
  best = np.zeros(len(a), bool)
  for one, other in ((a, b), (b, a)):
    order = np.lexsort((-estimate, home[other], one))
    ones, homes = one[order], home[other][order]
    starts = np.flatnonzero(np.r_[True, (ones[1:] != ones[:-1]) | (homes[1:] != homes[:-1])][: len(ones)])
    place = np.arange(len(ones)) - np.repeat(starts, np.diff(np.r_[starts, len(ones)]))
    best[order[place < NEIGHBOURS]] = True
    crowded[ones[place >= NEIGHBOURS]] = True
  return np.stack([a[best], b[best]], axis=1), crowded


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
  """Similarity of two sets given as sorted arrays."""
  shared = len(np.intersect1d(first, second, assume_unique=True))
  return shared / (len(first) + len(second) - shared)
