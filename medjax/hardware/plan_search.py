"""Which settings train fastest on a machine, of those that fit it: one kind of setting after another, the best kept."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from medjax.config import with_overrides
from medjax.errors import RunError, UserError
from medjax.hardware.plan import plan
from medjax.hardware.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Settings that were tried: overrides of the config, the config with them, and its plan."""

  settings: dict[str, Any]
  config: Any
  line: dict[str, Any]

  @property
  def merit(self) -> tuple[bool, float]:
    """What orders candidates: that they fit, then speed; of those that do not fit, how little they need."""
    rate = self.line["tokens_per_second_per_chip"]
    if self.line["fits"] and rate:
      return True, math.sqrt(rate["low"] * rate["high"])
    return False, -self.line["peak_bytes"]


def choices(config: Any, chips: int, batch: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
  """(what is varied, its settings) in the order in which they are tried.

  Rematerialization comes first, as it decides what fits; then rows at once, the mesh, and attention.
  """
  yield "remat", [{"model.remat": remat} for remat in ("products", "full", "none")]
  rows = [chips * each for each in (1, 2, 4, 8) if batch % (chips * each) == 0]
  yield "rows", [{"train.microbatch_rows": count} for count in rows]
  yield (
    "mesh",
    [{"mesh.data": data, "mesh.fsdp": -1, "mesh.tensor": 1} for data in (1, 2, 4, 16) if data < chips]
    + [{"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": tensor} for tensor in (2, 4) if tensor <= chips],
  )
  kernels = ("splash", "pallas") if config.method == "sft" else ("pallas", "xla")
  yield "attention", [{"model.attention": kernel} for kernel in kernels]


def search(
  config: Any,
  topology: Topology,
  devices: list[Any],
  answer: int = 0,
  batch: int = 0,
  price: float = 0.0,
  compiles: int = 12,
  quick: bool = False,
  tell: Callable[[Candidate], None] = lambda candidate: None,
) -> list[Candidate]:
  """Tries settings of a config.

  Args:
    config: what is varied.
    topology: the machine.
    devices: its devices.
    answer: tokens of an answer, see `plan_program.work_of`.
    batch: examples or pairs of a step, the same for all; 0: four for each chip.
    price: of a chip and hour.
    compiles: how many programs may be compiled.
    quick: see `plan`.
    tell: called with each candidate as it is known.

  Returns:
    Those that fit, the fastest first, ordered by the geometric mean of the two ends of their estimate; where none fits
    the one that needs the least.

  Raises:
    UserError: nothing that was tried can run there at all.
  """
  batch = batch or 4 * topology.chips
  tried: dict[tuple, Candidate] = {}
  best: Candidate | None = None
  for kind, settings in choices(config, topology.chips, batch):
    start = {} if best is None else best.settings
    for changes in settings:
      wanted = start | changes
      changed = with_overrides(config, wanted)
      if best is not None and changes.get("model.attention") == best.line["attention"]:
        continue  # what `auto` has chosen is known
      key = _effect(changed, topology.chips)
      if key in tried or len(tried) >= compiles:
        continue
      try:
        line = plan(changed, topology, devices, answer, batch, price, quick)
      except (UserError, RunError) as error:
        logging.info("search: %s %s cannot run: %s", kind, changes, error)
        continue
      candidate = tried[key] = Candidate(wanted, changed, line)
      tell(candidate)
      if best is None or candidate.merit > best.merit:
        best = candidate
  if len(tried) >= compiles:
    logging.info("search: stopped after %d programs, as many as --compiles allows", compiles)
  if best is None:
    raise UserError("none of the settings that --search tries can run there; see --debug, or give the mesh yourself")
  ordered = sorted(tried.values(), key=lambda candidate: candidate.merit, reverse=True)
  return [candidate for candidate in ordered if candidate.line["fits"]] or ordered[:1]


def _effect(config: Any, chips: int) -> tuple:
  """What two configs share where they compile to one program."""
  sizes = config.mesh.to_dict()
  fixed = math.prod(size for size in sizes.values() if size != -1)
  filled = tuple(size if size != -1 else chips // fixed for size in sizes.values())
  rows = config.train.microbatch_rows or filled[0] * filled[1]
  return config.model.remat, config.model.attention, rows, filled


def table(candidates: list[Candidate]) -> str:
  """The candidates that fit, the fastest first."""
  lines = [f"{'peak GiB':>9}{'tokens/s a chip':>20}{'MFU %':>10}{'bound':>14}  settings"]
  for candidate in candidates:
    line = candidate.line
    settings = " ".join(f"{key}={value}" for key, value in candidate.settings.items())
    if not line["tokens_per_second_per_chip"]:
      lines.append(f"{line['peak_bytes'] / 2**30:>9.2f}{'does not fit':>20}{'':>24}  {settings}")
      continue
    rate, mfu = line["tokens_per_second_per_chip"], line["mfu"]
    span = f"{rate['low']:,.0f} - {rate['high']:,.0f}"
    share = f"{100 * mfu['low']:.0f} - {100 * mfu['high']:.0f}"
    lines.append(f"{line['peak_bytes'] / 2**30:>9.2f}{span:>20}{share:>10}{line['bound']:>14}  {settings}")
  return "\n".join(lines)
