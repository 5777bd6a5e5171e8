"""Train steps as the TPU's own compiler makes them; nothing of it is run."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).with_name("steps_for_tpu.py")
# Bytes of each of 4 chips, for 10 million weights and 2048 tokens a chip; scores of one layer would add 134 million.
PEAK = 200e6


def test_train_steps_compile_for_tpu_with_their_kernels():
  done = subprocess.run([sys.executable, str(SCRIPT), "v5e:2x2"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  steps = json.loads(done.stdout.splitlines()[-1])
  assert all(name.startswith("splash") for name in steps["sft"]["kernels"])
  assert steps["dpo"]["kernels"] == ["forward_kernel", "key_kernel", "query_kernel"]
  for method, step in steps.items():
    assert len(step["kernels"]) == 3, method
    assert step["peak"] < PEAK, method
