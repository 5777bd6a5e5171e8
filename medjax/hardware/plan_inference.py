"""Whether decoding or label scoring fits a machine that is not here, and what a token or a batch reads and sends."""

import math
import time
from typing import Any

import jax

from medjax.data.examples import Segments
from medjax.data.packing import shape_of
from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.evaluation.answers import decoding_rows
from medjax.hardware.plan import aligned, describe, fits, grouped
from medjax.hardware.plan_program import bytes_of, compile_lowered, placed
from medjax.hardware.program_costs import costs_of
from medjax.hardware.program_text import parse
from medjax.hardware.topologies import Topology
from medjax.models import kernels
from medjax.models.decoder import build, weight_bytes, weight_shapes
from medjax.objectives import scoring
from medjax.training import mesh
from medjax.training.checkpoints import lora_of

METHODS = ("decode", "score")
LABELS = 8  # answers that are scored after each prompt
LABEL_TOKENS = 8  # of each of them, with the one that ends it
_UNIT = {"decode": "token", "score": "batch"}


def plan(
  config: Any,
  method: str,
  topology: Topology,
  devices: list[Any],
  answer: int = 0,
  batch: int = 0,
  quick: bool = False,
) -> dict[str, Any]:
  """Compiles what `medjax eval`, `predict` and `prefer` run on a machine: every row is full.

  Args:
    config: a validated run config; `train.row_length` is the tokens of a row.
    method: of `METHODS`.
    topology: the machine.
    devices: its devices, of `topologies.compile_devices`.
    answer: tokens of an answer; 0: a quarter of a row that is decoded, 8 of a label.
    batch: rows at once, rounded up to what the devices share; 0: as many as would be taken.
    quick: see `plan_program.compile_step`.

  Returns:
    One line of output (keys in docs/scaling.md), sizes in bytes of one device: `collectives` and `bytes_read` are those
    of one token of all rows (`decode`), or of one batch of rows (`score`).

  Raises:
    UserError: what is asked for cannot run on that machine at all. Not fitting its memory is no error.
  """
  started, described, dtype = time.perf_counter(), describe(config.model.path), config.model.dtype
  lora, kind, decodes = lora_of(config), config.lora.quantize, method == "decode"
  given = mesh.make_mesh(config.mesh.to_dict(), devices)
  mesh.check_divides(described, given)
  size = weight_bytes(described, dtype, lora, kind)
  grid = mesh.for_inference(given, described, size, topology.chip.hbm_bytes, decodes)
  tile, multiple = mesh.row_tile(grid), mesh.batch_multiple(grid)
  tokens = tile * math.ceil(min(config.train.row_length, described.max_positions) / tile)
  answer = answer or (tokens // 4 if decodes else LABEL_TOKENS)
  prompt = tokens - (answer if decodes else LABELS * (answer - 1))
  if prompt < 1:
    raise UserError(f"--answer is {answer}, which leaves no prompt in a row of {tokens} tokens; lower it")
  rows = multiple * math.ceil((batch or multiple) / multiple)
  if decodes and not batch:
    rows = decoding_rows(described, tokens, dtype, config.evaluation.batch_size, multiple, grid.shape["tensor"])
  with jax.set_mesh(grid):
    attention = kernels.choose(config.model.attention, described, dtype)
    graph = build(described, dtype, attention, lora=lora, quantize=kind)
    params = weight_shapes(described, dtype, lora, kind)
    params = placed(params, mesh.parameter_shardings(params, grid))
    if decodes:
      *lowered, cache = decode.lower(graph, params, described, dtype, grid, rows, prompt, answer)
    else:
      group = Segments("planned", (0,) * prompt, ((0,) * answer,) * LABELS)
      empty, over_rows = shape_of([group], [[0]]).empty(rows), mesh.batch_sharding(grid)
      rows_of = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=over_rows), empty)
      lowered, cache = [scoring.lower(graph, params, rows_of)], None
    compiled = [compile_lowered(program, quick) for program in lowered]
  peak, held = max(found[1] for found in compiled), {"weights": bytes_of(params), "cache": bytes_of(cache)}
  line = {
    "schema_version": 1,
    "model": config.model.path,
    "method": method,
    "topology": topology.name,
    "device_kind": topology.chip.device_kind,
    "chips": topology.chips,
    "mesh": dict(grid.shape),
    "batch": rows,
    "sequence": tokens,
    "answer": answer,
    "dtype": dtype,
    "attention": attention,
    "lora": config.lora.to_dict() if config.lora.rank else None,
    "fits": all(found[2] for found in compiled) and peak <= topology.chip.hbm_bytes,
    "hbm_bytes": int(topology.chip.hbm_bytes),
    "peak_bytes": peak,
    "memory": {**held, "temporaries": max(0, peak - sum(held.values()))},
    "compile_seconds": time.perf_counter() - started,
  }
  return line | _of_program(compiled[-1][0], decodes, dict(grid.shape), topology)


def _of_program(text: str, decodes: bool, grid: dict[str, int], topology: Topology) -> dict[str, Any]:
  """What a token or a batch costs a device; null where the program does not fit and so has no text."""
  if not text:
    return dict.fromkeys(("flops", "collectives", "collective_bytes", "bytes_read", "bytes_moved", "roofline", "bound"))
  program, chip = parse(text), topology.chip
  costs = costs_of(program.loop() if decodes else program, grid)
  sent = sum(one.bytes for one in costs.collectives)
  gathered = sum(one.bytes for one in costs.collectives if one.kind == "all-gather")
  roofline = {
    "compute": costs.product_flops / chip.flops,
    "memory": costs.memory_bytes / chip.hbm_bandwidth,
    "interconnect": sent / topology.interconnect[1],
  }
  return {
    "flops": costs.product_flops,
    "collectives": grouped(costs),
    "collective_bytes": {"sent": sent, "gathered": gathered},
    "bytes_read": int(costs.read_bytes),
    "bytes_moved": int(costs.memory_bytes),
    "roofline": roofline,
    "bound": max(roofline, key=roofline.get),
  }


def table(line: dict[str, Any]) -> str:
  """A plan for people."""
  unit = _UNIT[line["method"]]
  rows = [
    (
      "program",
      f"{line['method']} with {line['model']} on {line['topology']} ({line['chips']} x {line['device_kind']})",
    ),
    ("mesh", ", ".join(f"{axis} {size}" for axis, size in line["mesh"].items())),
    ("batch", f"{line['batch']} rows of {line['sequence']} tokens, answers of {line['answer']}"),
    ("kernels", f"attention {line['attention']}, {line['dtype']}"),
    ("fits", fits(line)),
    ("memory, GiB", ", ".join(f"{kind} {size / 2**30:.2f}" for kind, size in line["memory"].items() if size)),
  ]
  if line["flops"] is not None:
    for one in line["collectives"][:6]:
      rows.append((one["kind"], f"{one['bytes'] / 1e6:.3f} MB sent over {one['axis']}, {one['count']} times a {unit}"))
    rows.append((f"a {unit} reads", f"{line['bytes_read'] / 1e9:.3f} GB"))
    parts = ", ".join(f"{part} {1e3 * seconds:.2f} ms" for part, seconds in line["roofline"].items())
    rows.append(("at the peaks", f"{parts}: bound by {line['bound']}"))
  rows.append(("compiled in", f"{line['compile_seconds']:.0f} s"))
  return aligned(rows)
