"""What devices send one another in a train step, read from the compiled program.

The program is read as the partitioner leaves it, before passes of one backend: XLA:CPU later widens bfloat16
collectives to float32, and where the partitioner writes an all-reduce of which each device keeps a slice, XLA:TPU and
XLA:GPU make it a reduce-scatter.
"""

import collections
import dataclasses
import math
import re

import jax
import numpy as np
import pytest
import soak
from jax.sharding import PartitionSpec as P

from medjax.data.packing import RowShape
from medjax.models import layers, sharding
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, build
from medjax.objectives import logprobs
from medjax.training import mesh, state, step
from medjax.training.optimizer import make_optimizer

# No two kinds of arrays have equal sizes: a collective is known by the size of its result. The head is projected in
# two chunks.
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, FFN, VOCABULARY, CHUNK = 3, 64, 8, 4, 4, 112, 16384, 8192
CONFIG = ModelConfig(VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, FFN, max_positions=64)
SHAPE = RowShape(tokens=40, scored=24, sequences=2)
ROWS = 8
ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
MESHES = {
  "fsdp": {**ONE, "fsdp": 8},
  "tensor": {**ONE, "data": 2, "tensor": 4},
  "sequence": {**ONE, "data": 2, "sequence": 4},
  "fsdp_tensor": {**ONE, "fsdp": 4, "tensor": 2},
}
# How many kernels of one layer, or chunks of the head, have this many weights; all are cut over `tensor`.
KERNELS = {
  "query and output": (2, WIDTH * HEADS * HEAD),
  "key and value": (2, WIDTH * KV_HEADS * HEAD),
  "ffn": (3, WIDTH * FFN),
  "head": (1, WIDTH * CHUNK),
}


@dataclasses.dataclass(frozen=True)
class Collective:
  kind: str
  dtype: str
  shape: tuple[int, ...]
  in_loop: bool
  users: tuple[str, ...]

  @property
  def size(self) -> int:
    return math.prod(self.shape)


def collectives_of(text: str) -> list[Collective]:
  """Each collective of an HLO module, with the operations that read its result."""
  users, found, computation = collections.defaultdict(list), [], None
  for line in text.splitlines():
    if not line.startswith(" ") and line.endswith("{"):
      computation = line.split()[0]
    match = re.match(r"\s+(?:ROOT )?(%\S+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\(([^)]*)\)", line)
    if not match:
      continue
    name, dtype, shape, operation, operands = match.groups()
    for operand in re.findall(r"%[\w.-]+", operands):
      users[computation, operand].append(operation)
    if re.match("all-|reduce-scatter|collective-", operation):
      found.append((computation, name, operation, dtype, tuple(map(int, filter(None, shape.split(","))))))
  return [
    Collective(kind, dtype, shape, computation != "ENTRY", tuple(users[computation, name]))
    for computation, name, kind, dtype, shape in found
  ]


def lowered(method: str, sizes: dict[str, int], devices=None):
  """A train step of two microbatches in bfloat16 (dpo: with a live reference), ready to be compiled."""
  optimizer = make_optimizer(1.0, 0.01)
  devices = mesh.make_mesh(sizes, devices)
  with jax.set_mesh(devices):
    current = state.abstract(abstract_params(CONFIG), optimizer)
    places = state.shardings(current, optimizer, devices)
    current = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), current, places)
    over_rows = mesh.batch_sharding(devices, leading=1)
    batches = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype, sharding=over_rows), SHAPE.empty(ROWS)
    )
    train_step = step.jitted_step(build(CONFIG, "bfloat16"), step.Objective(method), 1.0, 0.01)
    reference = current.params if method == "dpo" else None
    return train_step.lower(current, None, reference, batches, np.int32(2), np.float32(1e-3), np.uint32(0))


def partitioned(train_step, directory) -> list[Collective]:
  """The collectives of a lowered step once it is partitioned."""
  train_step.compile(compiler_options={"xla_dump_to": str(directory), "xla_dump_hlo_pass_re": "spmd-partitioning"})
  (dumped,) = directory.glob("*train_step*.after_spmd-partitioning.*.txt")
  return collectives_of(dumped.read_text())


def kernel_sizes(sizes):
  """{weights of a kernel on one device where it is used: how many kernels}."""
  return {size // sizes["tensor"]: count for count, size in KERNELS.values()}


def local_rows(sizes):
  return ROWS // (sizes["data"] * sizes["fsdp"])


def check_stacks_and_state_stay(found):
  """Nothing of all layers at once is sent, nor a whole table; outside of the microbatches' loop only scalars are."""
  for one in found:
    assert LAYERS not in one.shape, one
    assert one.in_loop or one.shape == (), one


def check_gathers(found, sizes, passes: int):
  """A kernel is gathered over `fsdp` in bfloat16, once a pass; beside kernels, keys and values over `sequence`."""
  gathers = [one for one in found if one.kind == "all-gather" and one.dtype in ("f32", "bf16")]
  kernels = kernel_sizes(sizes)
  keys = local_rows(sizes) * SHAPE.tokens * KV_HEADS * HEAD
  times = collections.Counter(one.size for one in gathers if one.size in kernels)
  assert times == ({size: passes * count for size, count in kernels.items()} if sizes["fsdp"] > 1 else {})
  for one in gathers:
    assert one.dtype == "bf16", one
    assert one.size in kernels or (one.size == keys and sizes["sequence"] > 1), one


def check_reductions(found, sizes):
  """A gradient is summed in float32 into the pieces that its kernel is kept in: no device keeps more of the sum."""
  kernels = kernel_sizes(sizes)
  reduced = collections.Counter()
  for one in found:
    if one.kind in ("all-reduce", "reduce-scatter") and one.size in kernels and sizes["fsdp"] > 1:
      assert one.kind == "reduce-scatter" or set(one.users) == {"dynamic-slice"}, one
      assert one.dtype == "f32", one
      reduced[one.size] += 1
  assert reduced == (kernels if sizes["fsdp"] > 1 else {})


def check_activations(found, sizes):
  """Hidden states travel in bfloat16, where `tensor` cuts the products that make them; split tokens stay split."""
  stream = local_rows(sizes) * SHAPE.tokens * WIDTH
  sent = [one for one in found if one.size == stream and one.kind in ("all-gather", "all-reduce")]
  assert not sent or sizes["tensor"] > 1, sent[0]
  assert all(one.kind == "all-reduce" for one in sent)
  # What is looked up in a table that is cut over the vocabulary is summed as it is stored.
  assert sum(one.dtype == "f32" for one in sent) <= 2, sent


def check(found, sizes, passes: int):
  check_stacks_and_state_stay(found)
  check_gathers(found, sizes, passes)
  check_reductions(found, sizes)
  check_activations(found, sizes)


@pytest.mark.parametrize(
  ("name", "method"), soak.some([("fsdp_tensor", "dpo"), *((name, "sft") for name in reversed(MESHES))], 3)
)
def test_what_devices_send(name, method, tmp_path):
  found = partitioned(lowered(method, MESHES[name]), tmp_path)
  check(found, MESHES[name], passes={"sft": 2, "dpo": 3}[method])


def gather_then_cast(weight, letters, dtype):
  return sharding.gather(weight, letters, weight.dtype).astype(dtype)


def whole(x, letters=""):
  return jax.lax.with_sharding_constraint(x, P())


def logps_of_whole_weights(graph, params, batch, adapters):
  return logprobs.policy_logps(graph, jax.tree.map(whole, params), batch, adapters)


@pytest.mark.parametrize(
  ("module", "name", "worse", "message"),
  [
    (layers, "gather", gather_then_cast, "dtype='f32'"),
    (step, "policy_logps", logps_of_whole_weights, "all-gather"),
  ],
)
def test_worse_programs_are_seen(module, name, worse, message, tmp_path, monkeypatch):
  monkeypatch.setattr(module, name, worse)
  step.jitted_step.cache_clear()
  found = partitioned(lowered("sft", MESHES["fsdp"]), tmp_path)
  step.jitted_step.cache_clear()
  with pytest.raises(AssertionError, match=message):
    check(found, MESHES["fsdp"], passes=2)


def test_one_device_sends_nothing():
  text = lowered("sft", ONE, jax.devices()[:1]).compile().as_text()
  assert "fusion" in text
  assert not collectives_of(text)
