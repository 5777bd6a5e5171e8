"""What a prompt shows of a row's columns: a template, lines of `column: value`, or values with units."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medjax.errors import UserError

_FIELD = re.compile(r"\{([^{}]+)\}")
_MISSING = {"", "?", "??", "nan", "none", "null", "na", "n/a", "<na>"}
_TRUE = {"t", "true", "yes", "y", "1", "1.0"}
Render = Callable[[Mapping], str]


def known(value: Any) -> str:
  """The text of a cell; empty where it is missing: None, blank, `?`, `NA` or not a number."""
  if isinstance(value, bool):
    return "yes" if value else "no"
  text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value).strip()
  return "" if text.casefold() in _MISSING else text


def words(column: str) -> str:
  """A column's name as words."""
  return " ".join(re.sub(r"[_\s]+", " ", column).split())


def columns_of(template: str) -> tuple[str, ...]:
  """The columns that stand in braces in a template, each once."""
  return tuple(dict.fromkeys(name.strip() for name in _FIELD.findall(template)))


def from_template(template: str, missing: str) -> Render:
  """Fills `{column}` with the cells' text, and with `missing` where there is none."""

  def render(fields: Mapping) -> str:
    return _FIELD.sub(lambda match: known(fields[match[1].strip()]) or missing, template)

  return render


def as_lines(columns: Sequence[str], missing: str) -> Render:
  """One column: its text as it is. Several: lines of `column: value`; empty `missing` leaves out what is missing."""

  def render(fields: Mapping) -> str:
    if len(columns) == 1:
      return known(fields[columns[0]])
    shown = {column: known(fields[column]) or missing for column in columns}
    return "\n".join(f"{words(column)}: {text}" for column, text in shown.items() if text)

  return render


def as_values(values: Sequence[tuple], flags: Sequence[str], missing: str) -> Render:
  """`age 63, on thyroxine, TSH 68 mIU/L (high), T3 not recorded`.

  Args:
    values: `(column, unit, low, high)`, of which the last three may be lacking or empty: values outside the reference
      range are marked `(low)` or `(high)`.
    flags: columns that are named where they are true (`t`, `true`, `yes`, `1`) and left out elsewhere.
    missing: what stands for a missing value; empty: nothing, nor the column's name.
  """

  def render(fields: Mapping) -> str:
    found = []
    for column, unit, low, high in values:
      text = known(fields[column]) or missing
      if text:
        found.append(f"{words(column)} {text}" + (_with_unit(text, unit, low, high) if text != missing else ""))
    found += [words(column) for column in flags if known(fields[column]).casefold() in _TRUE]
    return ", ".join(found)

  return render


def as_value(entry: Any, key: str) -> tuple[str, str, float | None, float | None]:
  """`"TSH"`, `("TSH", "mIU/L")` or `("TSH", "mIU/L", 0.4, 4.0)` as column, unit, low and high."""
  given = (entry,) if isinstance(entry, str) else tuple(entry)
  column, unit, low, high = (*given, *("", "", None, None)[len(given) :])[:4]
  if not isinstance(column, str) or not isinstance(unit, str) or not 1 <= len(given) <= 4:
    raise UserError(f"config.define.{key} has {entry!r}; write a column, or (column, unit, low, high)")
  for limit in (low, high):
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
      raise UserError(f"config.define.{key}: the limits of {column} must be numbers or None, not {limit!r}")
  return column, unit, low, high


def _with_unit(text: str, unit: str, low: float | None, high: float | None) -> str:
  unit = f" {unit}" if unit else ""
  try:
    number = float(text.lstrip("<>≤≥ ").replace(",", "."))
  except ValueError:
    return unit
  if low is not None and number < low:
    return f"{unit} (low)"
  return f"{unit} (high)" if high is not None and number > high else unit
