"""Train steps as the TPU's own compiler makes them; nothing of it is run."""

import json
import os
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).with_name("steps_for_tpu.py")
# Bytes of each of 4 chips, for 10 million weights and 2048 tokens a chip; scores of one layer would add 134 million.
PEAK = 200e6


def test_train_steps_compile_for_tpu_with_their_kernels():
  own = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
  done = subprocess.run([sys.executable, str(SCRIPT), "v5e:2x2"], env=own, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr
  steps = json.loads(done.stdout.splitlines()[-1])
  assert len(steps["sft"]["kernels"]) == 3
  assert all(name.startswith("splash") for name in steps["sft"]["kernels"])
  assert steps["dpo"]["kernels"] == ["forward_kernel", "key_kernel", "query_kernel"]
  assert len(steps["float32"]["kernels"]) == 3, "products of the highest precision compile, too"
  for method, step in steps.items():
    assert step["peak"] < PEAK, method
