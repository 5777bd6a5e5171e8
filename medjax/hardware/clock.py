"""Wall seconds of repeated work, and which of them another process disturbed."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from medjax.hardware.undisturbed import Others


class Clock:
  """Times calls; what the call gives is waited for.

  Attributes:
    seconds: of each timed call.
    undisturbed: for each of them, whether no other process took more than `Others.MOST` of a core.
  """

  def __init__(self):
    self.seconds: list[float] = []
    self.undisturbed: list[bool] = []
    self._others = Others()

  def time(self, call: Callable[..., Any], *arguments: Any, keep: bool = True) -> Any:
    """The call's result; its time is kept unless it is a warm-up."""
    self._others.cores()
    started = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    taken = time.perf_counter() - started
    if keep:
      self.seconds.append(taken)
      self.undisturbed.append(self._others.cores() <= Others.MOST)
    return result

  @property
  def kept(self) -> list[int]:
    """The calls that count: the undisturbed ones, all where there are none."""
    return [index for index, good in enumerate(self.undisturbed) if good] or list(range(len(self.seconds)))

  def spread(self) -> dict[str, float]:
    """Median, least and most seconds of the calls that count."""
    seconds = [self.seconds[index] for index in self.kept]
    return {"median": float(np.median(seconds)), "min": min(seconds), "max": max(seconds)}

  def rate(self, amounts: list[float]) -> float:
    """What was done a second, over the calls that count; `amounts` is for each call."""
    return sum(amounts[index] for index in self.kept) / sum(self.seconds[index] for index in self.kept)


def peak_bytes() -> int:
  """Most memory in use on a device; on CPU the peak resident size of the process."""
  in_use = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
  if any(in_use):
    return max(in_use)
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
