"""The devices at hand, shared out among processes that run side by side."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from medjax.errors import RunError, UserError

# Asked in a process of its own: the one that asks must not hold the devices.
_ASK = """
import json, jax
found = jax.local_devices()
chips = {tuple(getattr(device, "coords", [device.id])) for device in found}
print(json.dumps([found[0].platform, len(found) if found[0].platform != "tpu" else len(chips)]))
"""
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # chips of a process, as libtpu lays them out


@dataclasses.dataclass(frozen=True)
class Share:
  """What one of the processes has: variables of its environment, and cores (none: all)."""

  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  cores: Sequence[int] = ()


def shares(parallel: int) -> list[Share]:
  """The devices of this machine in equal shares.

  Args:
    parallel: how many; 0 for one share an accelerator, and on a CPU one.

  Raises:
    UserError: the devices cannot be shared so.
    RunError: JAX does not start.
  """
  if parallel == 1:
    return [Share()]
  platform, count = _found()
  if platform == "cpu":
    return of_cores(_cores(), parallel or 1)
  return of_accelerators(platform, count, parallel or count)


def of_cores(cores: Sequence[int], parallel: int) -> list[Share]:
  """Cores in shares that differ by one at most."""
  if parallel > len(cores):
    raise UserError(f"--parallel is {parallel}; this machine lends {len(cores)} cores, so it must be at most that")
  if parallel == 1:
    return [Share()]
  ends = [round(place * len(cores) / parallel) for place in range(parallel + 1)]
  return [Share(cores=tuple(cores[start:end])) for start, end in zip(ends, ends[1:], strict=False)]


def of_accelerators(platform: str, count: int, parallel: int) -> list[Share]:
  """GPUs or TPU chips in equal shares."""
  if count % parallel:
    fit = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
    raise UserError(f"--parallel is {parallel}; {count} devices ({platform}) can be shared by {fit}")
  each = count // parallel
  chunks = [range(place * each, (place + 1) * each) for place in range(parallel)]
  if platform == "tpu":
    if each not in _TPU_BOUNDS:
      fit = ", ".join(str(count // size) for size in _TPU_BOUNDS if count % size == 0)
      raise UserError(f"--parallel is {parallel}; {count} TPU chips can be shared by {fit}")
    return [
      Share(
        {
          "TPU_VISIBLE_CHIPS": ",".join(map(str, chunk)),
          "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[each],
          "TPU_PROCESS_BOUNDS": "1,1,1",
        }
      )
      for chunk in chunks
    ]
  visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  names = visible.split(",") if visible else [str(number) for number in range(count)]
  return [Share({"CUDA_VISIBLE_DEVICES": ",".join(names[number] for number in chunk)}) for chunk in chunks]


def _cores() -> list[int]:
  """The cores that this process may use; none where the system does not say."""
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _found() -> tuple[str, int]:
  """Platform and number of the devices: of TPUs the chips."""
  done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise RunError(f"JAX finds no devices: {last}")
  platform, count = json.loads(done.stdout.strip().splitlines()[-1])
  return platform, count
