"""Two processes that hold a mesh together compute what one process on one device computes."""

import pathlib

import jax
import numpy as np
import two_steps
from processes import run_together

ONE = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


def test_two_processes_equal_one(tmp_path):
  outputs, wanted = [tmp_path / f"process{index}.npz" for index in range(2)], {}

  def on_one_device():
    for method in ("sft", "dpo"):
      wanted.update(two_steps.two_steps(method, ONE, jax.devices()[:1]))

  script = pathlib.Path(__file__).with_name("two_steps.py")
  run_together(script, [[str(output)] for output in outputs], meanwhile=on_one_device)
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
