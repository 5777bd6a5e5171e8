"""Two steps of SFT and of DPO on a mesh: as a script, one process of several that hold the mesh together.

Usage: two_steps.py COORDINATOR PROCESSES PROCESS OUTPUT
"""

import sys

import jax
import numpy as np
import packed
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.data.loader import Plan
from medjax.objectives.objective import Objective
from medjax.objectives.scoring import score
from medjax.training import mesh, state
from medjax.training.optimizer import make_optimizer
from medjax.training.step import jitted_step

ROWS = 8


def two_steps(method: str, sizes: dict[str, int], devices: list | None = None) -> dict[str, np.ndarray]:
  """Metrics of both steps and the state after them, by name; DPO with reference log-probabilities computed ahead."""
  graph, params = packed.decoder()
  optimizer = make_optimizer(1.0, 0.01)
  members = packed.random_groups(5 * ROWS, 1 if method == "sft" else 2, seed=4)
  devices = mesh.make_mesh(sizes, devices)
  with jax.set_mesh(devices), jax.default_matmul_precision("highest"):
    known = None
    if method == "dpo":
      reference = mesh.place(packed.decoder(seed=1)[1], mesh.parameter_shardings(params, devices))
      known = np.stack(score(graph, reference, members, 40, ROWS, mesh.batch_sharding(devices)))
    # Each process fills the rows that its own devices hold.
    here = mesh.rows_here(devices, ROWS)
    plan = Plan(members, 1, 0, 5 * ROWS, 24, ROWS, ROWS, 8, known, here=here)
    item = plan[0]
    assert item.used > 1 and len(here) == ROWS // jax.process_count()
    assert {row for row in range(ROWS) if item.batches.weight[:, row].any()} == here
    placed = mesh.place(params, mesh.parameter_shardings(params, devices))
    places = state.shardings(state.abstract(placed, optimizer), optimizer, devices)
    current = jax.jit(lambda p: state.create(p, optimizer), out_shardings=places)(placed)
    over_rows, everywhere = mesh.batch_sharding(devices, leading=1), NamedSharding(devices, P())
    found = {}
    with jax.transfer_guard("disallow"):  # as in the loop: each transfer is asked for
      scalars = np.int32(item.used), np.float32(1e-3), np.uint32(0)
      arguments = mesh.place((item.batches, *scalars), (over_rows, everywhere, everywhere, everywhere))
      step = jitted_step(graph, Objective(method, beta=0.3), 1.0, 0.01)
      for number in (1, 2):
        current, metrics = step(current, None, None, *arguments)
        found |= {f"{method} step {number} {key}": value for key, value in jax.device_get(metrics).items()}
    whole = jax.device_get(jax.jit(lambda x: x, out_shardings=everywhere)(current))
    for path, x in jax.tree_util.tree_leaves_with_path(whole.optimizer[1].mu):
      found[f"{method} gradients {jax.tree_util.keystr(path)}"] = x
  return found


def main(coordinator: str, processes: str, process: str, output: str) -> None:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(coordinator, int(processes), int(process))
  assert jax.process_count() == int(processes)
  assert len(jax.local_devices()) < len(jax.devices())
  # Rows and weights are cut over the processes, heads within each.
  sizes = {"data": 1, "fsdp": int(processes), "tensor": -1, "sequence": 1}
  np.savez(output, **two_steps("sft", sizes), **two_steps("dpo", sizes))


if __name__ == "__main__":
  main(*sys.argv[1:])
