"""Tensors go to their shards in pieces: the same values, little memory, and no byte that another process needs."""

import json
import math
import pathlib

import gguf_files
import jax
import measure_load
import numpy as np
import pytest
import reference_models as reference
import soak
import tiny
from processes import run_together
from safetensors.numpy import load_file

from medjax.models import streaming
from medjax.models.pretrained import load_pretrained
from medjax.models.slots import whole
from medjax.models.tensor_files import SafetensorsFile
from medjax.training import mesh


def same(a, b) -> bool:
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("sizes", [{"fsdp": 4, "tensor": 2}, {"fsdp": 1, "tensor": 2}])
@pytest.mark.parametrize("kind", ["fused", "interleaved"])
def test_pieces_of_any_size_on_any_mesh(kind, sizes, tmp_path, monkeypatch):
  """Rows of a fused tensor, and interleaved rows of a quantized one, cut over rows, columns and devices."""
  if kind == "fused":
    reference.torch_model("phi3").save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
  else:
    path = str(gguf_files.write_gguf(tmp_path / "model.gguf", kind="Q8_0"))
  wanted = load_pretrained(path).params
  monkeypatch.setattr(streaming, "PIECE_BYTES", 200)
  assert same(load_pretrained(path).params, wanted)
  devices = mesh.make_mesh({"data": -1, "sequence": 1, **sizes})
  got = load_pretrained(path, shardings=lambda p: mesh.parameter_shardings(p, devices)).params
  assert same(got, wanted)
  held = {x.size // x.addressable_shards[0].data.size for x in jax.tree.leaves(got["blocks"]["mlp"])}
  assert held == {math.prod(sizes.values())}


def test_parts_of_a_tensor(tmp_path):
  tiny.write_model(tmp_path)
  file = SafetensorsFile(tmp_path / "model.safetensors")
  for name, values in load_file(tmp_path / "model.safetensors").items():
    np.testing.assert_array_equal(file.read(name, whole(values.shape)), values)
    index = tuple(slice(size // 3, size // 2) for size in values.shape)
    np.testing.assert_array_equal(file.read(name, index), values[index])


def test_memory_stays_near_the_parameters(tmp_path):
  """The bound is on what is held beyond the parameters: neither a tensor twice, nor a mapped file, nor a stack."""
  measure_load.write(tmp_path / "model", 600 * 2**20)
  for devices in soak.some([4, 1], 1):
    found = measure_load.measure(tmp_path / "model", "bfloat16", devices)
    assert found["parameter_bytes"] > 2 * found["largest_tensor_bytes"] > 2**28 - 1
    assert found["over_largest_tensor"] < 1.3, found


def test_each_process_reads_its_slices_only(tmp_path):
  tiny.write_model(tmp_path / "model")
  script = pathlib.Path(__file__).with_name("read_slices.py")
  outputs = [tmp_path / f"process{index}.json" for index in range(2)]
  run_together(script, [[str(tmp_path / "model"), str(output)] for output in outputs])
  stored = {name: x.nbytes for name, x in load_file(tmp_path / "model" / "model.safetensors").items()}
  found = [json.loads(output.read_text()) for output in outputs]
  for process in found:
    for name, size in stored.items():
      everywhere = "norm" in name
      assert process["read"][name] == (size if everywhere else size // 2), name
  loaded = load_pretrained(str(tmp_path / "model")).params
  for path, x in jax.tree_util.tree_leaves_with_path(loaded):
    name = jax.tree_util.keystr(path)
    total = sum(process["sums"][name] for process in found)
    copies = 4 if "norm" in name else 1  # on each of four devices
    assert total == pytest.approx(copies * float(np.abs(x).sum()), rel=1e-5), name
