"""Whether a train step fits a machine that is not here, what it sends, and how long it may take."""

import collections
import json
import shlex
from typing import Any

from jax.sharding import Mesh

from medjax.data.packing import plain_tokens
from medjax.hardware import flops
from medjax.hardware.plan_program import Compiled, Work, compile_step, least_bytes, work_of
from medjax.hardware.program_costs import Costs, costs_of
from medjax.hardware.program_text import Program, parse
from medjax.hardware.topologies import Topology
from medjax.models.config import ModelConfig
from medjax.models.families import PRESETS
from medjax.models.pretrained import load_config_and_tokenizer
from medjax.training import mesh
from medjax.training.checkpoints import lora_of

# Products of (queries x keys x head width) that a kernel of attention makes, by what its name holds.
_ATTENTION = {"fwd": 2, "forward": 2, "dkv": 4, "key": 4, "dq": 3, "query": 3}
KERNEL_SHARE = 0.5  # of the peak that attention kernels are given at the slow end; assumed, they have no estimate


def describe(path: str) -> ModelConfig:
  """The shape of a model: a preset's, or that of a directory, file or hub id, of which no weights are read.

  Raises:
    UserError: nothing of that name.
  """
  if path in PRESETS:
    return PRESETS[path]
  return load_config_and_tokenizer(path).config


def plan(
  config: Any,
  topology: Topology,
  devices: list[Any],
  answer: int = 0,
  batch: int = 0,
  price: float = 0.0,
  quick: bool = False,
) -> dict[str, Any]:
  """Compiles the train step of a config for a machine.

  Args:
    config: a validated run config.
    topology: the machine.
    devices: its devices, of `topologies.compile_devices`.
    answer: tokens of an answer, see `plan_program.work_of`.
    batch: examples or pairs of a step; 0: one for each row of a microbatch.
    price: of a chip and hour, in any currency.
    quick: whether to compile in less time. Memory and what is sent stay as they are, but the compiler's estimates of
      time would be of another program: times are then those of the peaks.

  Returns:
    One line of output (keys in docs/scaling.md), sizes in bytes of one device. Times are no measurements but a range:
    at its low end all that is sent travels while the device computes, at its high end nothing does.

  Raises:
    UserError: what is asked for cannot run on that machine at all. Not fitting its memory is no error.
  """
  described, grid = describe(config.model.path), mesh.make_mesh(config.mesh.to_dict(), devices)
  work = work_of(config, described, grid, answer, batch)
  compiled = compile_step(config, described, grid, work, quick)
  chip, arguments = topology.chip, sum(compiled.arguments.values())
  line = {
    "schema_version": 1,
    "model": config.model.path,
    "method": config.method,
    "topology": topology.name,
    "device_kind": chip.device_kind,
    "chips": topology.chips,
    "mesh": dict(grid.shape),
    "batch": work.batch,
    "sequence": work.tokens,
    "rows": work.rows,
    "microbatches": work.microbatches,
    "answer": len(work.group.completions[0]),
    "dtype": config.model.dtype,
    "attention": compiled.attention,
    "remat": config.model.remat,
    "lora": config.lora.to_dict() if config.lora.rank else None,
    "optimizer": config.optimizer.name,
    "fits": compiled.fits and compiled.peak_bytes <= chip.hbm_bytes,
    "hbm_bytes": int(chip.hbm_bytes),
    "peak_bytes": compiled.peak_bytes,
    "memory": {**compiled.arguments, "temporaries": max(0, compiled.peak_bytes - arguments)},
    "model_flops": flops.train_flops(described, [work.group], lora_of(config)) * work.batch,
    "compile_seconds": compiled.seconds,
  }
  nothing = dict.fromkeys(_OF_PROGRAM)
  found = _program(line, described, grid, work, compiled, topology) if compiled.text else {}
  line |= nothing | found
  if compiled.text:
    line["collective_bytes"]["least"] = least_bytes(config, described, grid, work)
    line["memory"] |= {"gradients": compiled.gradients, "activations": found.pop("activations")}
    del line["activations"]
  if price:
    tokens = line["tokens_per_second_per_chip"]
    line["cost_per_million_tokens"] = tokens and {end: price / 3.6e-3 / tokens[other] for end, other in _ENDS}
  return line


_ENDS = (("low", "high"), ("high", "low"))  # the low end of a rate is the high end of a time
_OF_PROGRAM = (
  *("flops", "collectives", "collective_bytes", "roofline", "step_seconds", "bound"),
  *("tokens_per_second_per_chip", "mfu"),
)


def _program(
  line: dict[str, Any], described: ModelConfig, grid: Mesh, work: Work, compiled: Compiled, topology: Topology
) -> dict[str, Any]:
  """What the text of the program tells."""
  chip, program = topology.chip, parse(compiled.text)
  costs = costs_of(program, dict(grid.shape), work.microbatches)
  attention = _attention_flops(described, grid, work, costs, line["attention"], line["remat"])
  total = costs.product_flops + attention
  sent = sum(one.bytes for one in costs.collectives)
  slow, fast = topology.interconnect
  roofline = {
    "compute": total / chip.flops,
    "memory": costs.memory_bytes / chip.hbm_bandwidth,
    "interconnect": sent / fast,
  }
  # Work of a device but for attention: the compiler's estimates where it makes some, else all at the peaks, one after
  # the other or at the same time.
  parts = costs.product_flops / chip.flops, roofline["memory"]
  if costs.cycles and not compiled.quick:
    parts = (costs.cycles / chip.clock,)
  one_by_one, at_once = sum(parts), max(parts)
  low = max(at_once + attention / chip.flops, roofline["interconnect"])
  high = one_by_one + attention / (KERNEL_SHARE * chip.flops) + sent / slow
  tokens = plain_tokens(work.group) * work.batch / topology.chips
  of_device = line["model_flops"] / topology.chips
  return {
    "flops": total,
    "collectives": grouped(costs),
    "collective_bytes": {"sent": sent},
    "roofline": roofline,
    "step_seconds": {"low": low, "high": high},
    "bound": max(roofline, key=roofline.get),
    "tokens_per_second_per_chip": {"low": tokens / high, "high": tokens / low},
    "mfu": {"low": of_device / high / chip.flops, "high": of_device / low / chip.flops},
    "activations": activation_bytes(program, compiled, described.num_layers),
  }


def grouped(costs: Costs) -> list[dict[str, Any]]:
  """Collectives by kind and mesh axis, the most bytes first."""
  bytes_, counts = collections.Counter(), collections.Counter()
  for one in costs.collectives:
    bytes_[one.kind, one.axis] += one.bytes
    counts[one.kind, one.axis] += one.count
  return [
    {"kind": kind, "axis": axis, "bytes": int(sent), "count": int(counts[kind, axis])}
    for (kind, axis), sent in bytes_.most_common()
  ]


def _attention_flops(described: ModelConfig, grid: Mesh, work: Work, costs: Costs, attention: str, remat: str) -> float:
  """FLOPs of a device in attention, which the text of a program does not tell; only visible pairs count.

  A Pallas kernel is counted as often as it runs. What is left to XLA (`xla`) runs over blocks in loops whose turns
  the text does not tell: two products forward, again where the block is computed again, and five backward.
  """
  pairs = flops.visible_in_layers(described, [work.group]) / described.num_layers
  shared = grid.shape["tensor"] * grid.shape["sequence"]
  product = 2 * described.head_width * described.num_heads * pairs * work.rows / (mesh.batch_multiple(grid) * shared)
  if attention == "xla":
    return product * described.num_layers * work.microbatches * (9 if remat == "full" else 7)
  return product * sum(
    times * next((products for part, products in _ATTENTION.items() if part in name), 0)
    for name, times in costs.kernels.items()
  )


def activation_bytes(program: Program, compiled: Compiled, layers: int) -> int:
  """Bytes that layers keep for the backward pass: arrays of all layers that the largest loop carries, weights not."""
  most = 0
  for op, _, _, _ in program.executed():
    if op.kind == "while":
      kept = {
        (number, array)
        for number, array in enumerate(op.arrays)
        if len(array.shape) > 2 and array.shape[0] == layers and array.shape not in compiled.stacks
      }
      most = max(most, sum(array.bytes for _, array in kept))
  return most


def train_flags(config: Any, defaults: Any, batch: int) -> str:
  """The command that trains what was planned, less its data, and less its model where a shape was planned."""
  from medjax.config import as_dict

  def flat(values, prefix=""):
    for key, value in values.items():
      yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else ((prefix + key, value),)

  usual = dict(flat(as_dict(defaults)))
  changed = {key: value for key, value in flat(as_dict(config)) if usual.get(key) != value}
  changed["train.batch_size"] = batch
  if config.model.path in PRESETS:
    changed["model.path"] = "MODEL"
  settings = [
    f"--config.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()
  ]
  return " ".join(["medjax train --workdir=RUN", *map(shlex.quote, settings)])


def table(line: dict[str, Any]) -> str:
  """A plan for people."""
  gib = 2**30
  rows = [
    ("step", f"{line['method']} of {line['model']} on {line['topology']} ({line['chips']} x {line['device_kind']})"),
    ("mesh", ", ".join(f"{axis} {size}" for axis, size in line["mesh"].items())),
    (
      "batch",
      f"{line['batch']} rows of {line['sequence']} tokens; {line['microbatches']} x {line['rows']} rows at once",
    ),
    ("kernels", f"attention {line['attention']}, remat {line['remat']}, {line['dtype']}"),
    ("fits", fits(line)),
  ]
  memory = [f"{kind} {size / gib:.2f}" for kind, size in line["memory"].items() if kind not in _WITHIN and size]
  rows.append(("memory, GiB", ", ".join(memory)))
  if line["flops"] is not None:
    within = ", ".join(f"{kind} {line['memory'][kind] / gib:.2f}" for kind in _WITHIN)
    rows.append(("", f"temporaries hold, not all at once: {within}"))
    for one in line["collectives"][:6]:
      rows.append((one["kind"], f"{one['bytes'] / 1e9:.3f} GB sent over {one['axis']}, {one['count']} times"))
    sent, least = line["collective_bytes"]["sent"], line["collective_bytes"]["least"]
    over = f"; {sent / least:.2f} times what weights and gradients need" if least else ""
    rows.append(("sent in all", f"{sent / 1e9:.2f} GB{over}"))
    parts = ", ".join(f"{part} {1e3 * seconds:.0f} ms" for part, seconds in line["roofline"].items())
    rows.append(("at the peaks", f"{parts}: bound by {line['bound']}"))
    rows.append(("step (estimate)", "{low:.3g} to {high:.3g} s".format(**line["step_seconds"])))
    rows.append(("tokens/s a chip", "{low:,.0f} to {high:,.0f}".format(**line["tokens_per_second_per_chip"])))
    rows.append(("MFU", "{:.0f} to {:.0f} %".format(*(100 * line["mfu"][end] for end in ("low", "high")))))
    if line.get("cost_per_million_tokens"):
      rows.append(("cost", "{low:.3g} to {high:.3g} a million tokens".format(**line["cost_per_million_tokens"])))
  rows.append(("compiled in", f"{line['compile_seconds']:.0f} s"))
  return aligned(rows)


def aligned(rows: list[tuple[str, str]]) -> str:
  """Names and what they stand for, a line each."""
  return "\n".join(f"{name:<20}{text}" for name, text in rows)


_WITHIN = ("activations", "gradients")  # parts of `temporaries`


def fits(line: dict[str, Any]) -> str:
  """Whether the peak of a plan fits, for people."""
  peak, most = line["peak_bytes"] / 2**30, line["hbm_bytes"] / 2**30
  if line["fits"]:
    return f"yes: {peak:.2f} of {most:.2f} GiB at the peak, {most - peak:.2f} free"
  return f"no: {peak:.2f} GiB needed, {most:.2f} there, {peak - most:.2f} too many"
