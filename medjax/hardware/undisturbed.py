"""Whether another process took processor time while something was timed (Linux)."""

import os
import pathlib
import time

_STAT = pathlib.Path("/proc/stat")


class Others:
  """How busy other processes keep this machine's cores."""

  MOST = 0.1  # of a core: above this, a timing is disturbed

  def __init__(self):
    self._last = self._now()

  def cores(self) -> float:
    """Cores that other processes used in the mean since the last call; 0 where the system does not tell."""
    last, self._last = self._last, self._now()
    if last is None or self._last is None:
      return 0.0
    wall, busy, own = (new - old for new, old in zip(self._last, last, strict=True))
    return max(0.0, busy - own) / max(wall, 1e-9)

  def _now(self) -> tuple[float, float, float] | None:
    """Seconds: of the clock, of all processes, of this one and its threads."""
    if not _STAT.exists():
      return None
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, _STAT.read_text().splitlines()[0].split()[1:])
    own = os.times()
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, own.user + own.system
