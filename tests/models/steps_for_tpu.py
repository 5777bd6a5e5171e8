"""Compiles for a TPU topology, without a TPU: SFT steps with splash, DPO steps with our own kernel, and it in float32.

Usage: steps_for_tpu.py TOPOLOGY, such as v5e:2x2; prints a JSON object: for each
program the names of the kernels in the compiled program, and its peak bytes on a device.
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
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from medjax.data.packing import RowShape
from medjax.models import attention, pallas_attention
from medjax.models.config import ModelConfig
from medjax.models.decoder import abstract_params, build
from medjax.models.views import NO_WINDOW, Layout, view
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import Objective, jitted_step

CONFIG = ModelConfig(4096, 512, 2, 8, 2, 128, 1536)
SHAPE = RowShape(tokens=2048, scored=512, sequences=8)


def kernel_in_float32(device):
  """Our own kernel, forward and backward, in float32: its products are of the highest precision."""
  here = SingleDeviceSharding(device)
  q_BTHE, k_BKEC, v_BKCE = (
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here)
    for shape in ((1, 256, 2, 128), (1, 1, 128, 256), (1, 1, 256, 128))
  )

  def total(q_BTHE, k_BKEC, v_BKCE):
    row = Layout.plain(jnp.ones((1, 256), jnp.int32))
    seen = view(row, row, jnp.int32(0), jnp.int32(NO_WINDOW))
    return attention._in_blocks(q_BTHE, k_BKEC, v_BKCE, seen, 1.0, None, pallas_attention).sum()

  return jax.jit(jax.grad(total, (0, 1, 2))).lower(q_BTHE, k_BKEC, v_BKCE).compile()


def compiled(method: str, devices: jax.sharding.Mesh):
  """The step over one microbatch of a row on each device, bfloat16, kernels as `auto` chooses them."""
  optimizer, rows = make_optimizer(1.0, 0.01), mesh.batch_multiple(devices)

  def placed(shapes, places):
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)

  start = state.abstract(abstract_params(CONFIG), optimizer)
  start = placed(start, state.shardings(start, optimizer, devices))
  everywhere, over_rows = NamedSharding(devices, P()), mesh.batch_sharding(devices, leading=1)
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=over_rows), SHAPE.empty(rows))
  scalars = [jax.ShapeDtypeStruct((), dtype, sharding=everywhere) for dtype in (jnp.int32, jnp.float32, jnp.uint32)]
  with jax.set_mesh(devices):
    graph = build(CONFIG, "bfloat16", plain_rows=method == "sft")
    step = jitted_step(graph, Objective(method), 1.0, 0.01)
    lowered = step.lower(start, None, None, batch, *scalars)
    return lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0})  # in a tenth of the time


def main(topology: str) -> None:
  devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  devices = mesh.make_mesh({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1}, np.asarray(devices).tolist())
  found = {}
  programs = {method: compiled(method, devices) for method in ("sft", "dpo")}
  programs["float32"] = kernel_in_float32(devices.devices.flat[0])
  for method, program in programs.items():
    calls = [line for line in program.as_text().splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    names = {re.search(r"%(\w+?)[.\d]* = ", line)[1] for line in calls}
    found[method] = {"kernels": sorted(names), "peak": program.memory_analysis().peak_memory_in_bytes}
  print(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:])
