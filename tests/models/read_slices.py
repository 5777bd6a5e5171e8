"""Loads a model over a mesh of several processes, and writes what this process read and holds.

Usage: read_slices.py COORDINATOR PROCESSES PROCESS MODEL OUTPUT
"""

import json
import sys

import jax
import numpy as np

from medjax.models import tensor_files
from medjax.models.pretrained import load_pretrained
from medjax.training import mesh


def main(coordinator: str, processes: str, process: str, model: str, output: str) -> None:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(coordinator, int(processes), int(process))
  read, whole = tensor_files.SafetensorsFile.read, {}

  def counted(self, name, index):
    part = read(self, name, index)
    whole[name] = whole.get(name, 0) + part.nbytes
    return part

  tensor_files.SafetensorsFile.read = counted
  devices = mesh.make_mesh({"data": 1, "fsdp": int(processes), "tensor": -1, "sequence": 1})
  params = load_pretrained(model, "float32", lambda p: mesh.parameter_shardings(p, devices)).params
  sums = {
    jax.tree_util.keystr(path): float(sum(np.abs(np.asarray(part.data)).sum() for part in x.addressable_shards))
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }
  with open(output, "w") as file:
    json.dump({"read": whole, "sums": sums}, file)


if __name__ == "__main__":
  main(*sys.argv[1:])
