"""Two processes that hold a mesh together compute what one process on one device computes."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import two_steps

ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
TESTS = pathlib.Path(__file__).parents[1]


def start(process: int, port: int, output: pathlib.Path) -> subprocess.Popen:
  flags = re.sub(r"device_count=\d+", "device_count=2", os.environ["XLA_FLAGS"])
  paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
  return subprocess.Popen(
    [sys.executable, str(TESTS / "training" / "two_steps.py"), f"localhost:{port}", "2", str(process), str(output)],
    env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(("localhost", 0))
    return listening.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
  port = free_port()
  outputs = [tmp_path / f"process{index}.npz" for index in range(2)]
  processes = [start(index, port, output) for index, output in enumerate(outputs)]
  try:
    wanted = {}
    for method in ("sft", "dpo"):
      wanted |= two_steps.two_steps(method, ONE, jax.devices()[:1])
    for process in processes:
      printed, _ = process.communicate(timeout=240)
      assert process.returncode == 0, printed
  finally:
    for process in processes:
      process.kill()
  gradients = {key: value for key, value in wanted.items() if " gradients " in key}
  scales = {
    method: max(np.abs(v).max() for k, v in gradients.items() if k.startswith(method)) for method in ("sft", "dpo")
  }
  for output in outputs:
    found = np.load(output)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
      if key in gradients:
        assert np.abs(found[key] - value).max() <= 1e-5 * scales[key[:3]], key
      else:
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
