"""What `describe` gave, as lines to read."""

from collections.abc import Iterator, Mapping
from typing import Any

MOST_COLUMNS = 12  # of the table of columns, the best predictors


def lines(seen: Mapping[str, Any]) -> Iterator[str]:
  """The lines that `medjax data` prints, warnings last."""
  yield f"{seen['task'] or 'prompts and answers'} from {seen['source']}, read for {seen['method']} of {seen['model']}"
  yield from seen.get("notices", ())[:1]
  yield ""
  yield from _splits(seen)
  yield from _lengths(seen)
  yield from _columns(seen)
  if seen["warnings"]:
    yield ""
    yield "look at:"
    yield from (f"  - {warning}" for warning in seen["warnings"])


def _splits(seen: Mapping[str, Any]) -> Iterator[str]:
  how = {
    "task": "the task's own",
    "source": "as the source says",
    "hash": "70/10/20 by a hash of each group",
    "stratified": "70/10/20 of each label",
  }
  if "split_by" in seen:
    left_out = f"; {seen['left_out']} rows left out, without a label" if seen["left_out"] else ""
    yield f"splits: {how[seen['split_by']]}{left_out}"
  for split, counts in seen["splits"].items():
    groups = f" of {counts['groups']} groups" if counts.get("groups", counts["rows"]) != counts["rows"] else ""
    yield f"  {split:<12}{counts['rows']:>9} rows{groups}"
  names = dict.fromkeys(name for counts in seen["splits"].values() for name in counts.get("labels", {}))
  for name in names:
    yield f"{name}:"
    of_splits = [counts["labels"][name] for counts in seen["splits"].values()]
    for label in of_splits[0]:
      yield f"  {label:<32.32}" + "".join(f"{counts[label]:>9}" for counts in of_splits)


def _lengths(seen: Mapping[str, Any]) -> Iterator[str]:
  yield f"{'tokens':<30}{'min':>8}{'median':>9}{'95 %':>8}{'max':>8}"
  for split, parts in seen["lengths"].items():
    for part, found in parts.items():
      yield f"  {split + ' ' + part:<28}{found['min']:>8}{found['median']:>9g}{found['p95']:>8.0f}{found['max']:>8}"
  training = seen["training"]
  yield (
    f"training: {training['items']} items, {training['prompts_cut']} prompts cut, {training['rows_dropped']} dropped; "
    f"{training['steps']} steps ({training['epochs']:.2f} epochs) of {training['tokens_of_a_step']:.0f} tokens, "
    f"{training['padded_share']:.0%} padding in rows of up to {training['limits']['row_length']}, "
    f"{training['shapes']} shapes to compile"
  )
  overlaps = [
    f"{overlap['first']}/{overlap['second']} {overlap['exact_rows']} exact, {overlap['near_rows']} near"
    for overlap in seen["duplicates"]["overlaps"]
    if overlap["exact_rows"] or overlap["near_rows"]
  ]
  yield f"duplicate prompts: {'; '.join(overlaps) or 'none'}"
  if "identifiers" in seen:
    found = seen["identifiers"]
    yield f"rows with what may identify a patient: {found['rows_with_any']} of {found['rows']}"


def _columns(seen: Mapping[str, Any]) -> Iterator[str]:
  columns = seen.get("columns")
  for target, found in (columns or {"alone": {}})["alone"].items():
    shown = found["columns"][:MOST_COLUMNS]
    if not shown:
      continue
    yield f"what a column alone tells of {target} (AUROC, cross-validated on {found['rows']} rows):"
    for column in shown:
      marks = [
        *(["flagged"] if column["flagged"] else []),
        *(["by name: " + columns["review"][column["name"]]] if column["name"] in columns["review"] else []),
        *(["declared as known only afterwards"] if column["name"] in columns["after"] else []),
        *(["in the prompt"] if columns["shown"] and column["name"] in columns["shown"] else []),
      ]
      yield f"  {column['name']:<28.28}{column['kind']:<12}{column['auroc']:>6.3f}  {'; '.join(marks)}"
