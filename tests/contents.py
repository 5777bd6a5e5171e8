"""Rows as the fingerprints of frozen splits have them."""

import dataclasses


def of(row) -> dict:
  """Fields that hold data: not what training makes of the row."""
  assert row.weight == 1.0
  return {name: value for name, value in dataclasses.asdict(row).items() if name != "weight"}
