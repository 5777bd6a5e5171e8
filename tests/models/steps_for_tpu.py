"""Compiles whole train steps for a TPU topology, without a TPU: SFT with splash, DPO with our own kernel.

Usage: steps_for_tpu.py TOPOLOGY, such as v5e:2x2; prints a JSON object: for each
method and dtype the names of the kernels in the compiled program, and its peak bytes on a device.
"""

import json
import os
import re
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_LOG_DIR": "disabled", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.data.packing import RowShape
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, build
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import Objective, jitted_step

CONFIG = ModelConfig(4096, 512, 2, 8, 2, 128, 1536)
SHAPE = RowShape(tokens=2048, scored=512, sequences=8)


def compiled(method: str, dtype: str, devices: jax.sharding.Mesh):
  """The step over one microbatch of a row on each device, kernels as `auto` chooses them."""
  optimizer, rows = make_optimizer(1.0, 0.01), mesh.batch_multiple(devices)

  def placed(shapes, places):
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)

  start = state.abstract(abstract_params(CONFIG), optimizer)
  start = placed(start, state.shardings(start, optimizer, devices))
  everywhere, over_rows = NamedSharding(devices, P()), mesh.batch_sharding(devices, leading=1)
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=over_rows), SHAPE.empty(rows))
  scalars = [jax.ShapeDtypeStruct((), dtype, sharding=everywhere) for dtype in (jnp.int32, jnp.float32, jnp.uint32)]
  with jax.set_mesh(devices):
    graph = build(CONFIG, dtype, plain_rows=method == "sft")
    step = jitted_step(graph, Objective(method), 1.0, 0.01)
    lowered = step.lower(start, None, None, batch, *scalars)
    return lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0})  # in a tenth of the time


def main(topology: str) -> None:
  devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  devices = mesh.make_mesh({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1}, np.asarray(devices).tolist())
  found = {}
  for method, dtype in (("sft", "bfloat16"), ("dpo", "bfloat16"), ("sft", "float32")):
    program = compiled(method, dtype, devices)
    calls = [line for line in program.as_text().splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    names = {re.search(r"%(\w+?)[.\d]* = ", line)[1] for line in calls}
    found[f"{method} {dtype}"] = {"kernels": sorted(names), "peak": program.memory_analysis().peak_memory_in_bytes}
  print(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:])
