"""Several processes as one run: how they find each other, agree, and end together. Alone, a process agrees at once."""

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.errors import RunError, UserError

_VARIABLES = ("MEDJAX_COORDINATOR", "MEDJAX_PROCESSES", "MEDJAX_PROCESS_ID")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_FAILED = "medjax/failed"  # where a process that fails says so
_LEFT = "medjax/left"  # where each process says that it ends
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0  # for a process that is about to fail by itself, as all do that refuse the same thing
_PATIENCE_SECONDS = 3600  # for a value that another process has to work for; one that fails says so at once


class _Group:
  """This process among those that run together."""

  def __init__(self):
    self.index, self.count, self.asked = 0, 1, 0
    self.left = threading.Event()

  @property
  def client(self) -> Any:
    """JAX's connection to the others: values by name, as Orbax uses it too."""
    from jax._src import distributed

    return distributed.global_state.client


_group = _Group()


def is_first() -> bool:
  """Whether this process is the one that writes reports and speaks: process 0, or the only one."""
  return _group.index == 0


def count() -> int:
  """How many processes run together."""
  return _group.count


def index() -> int:
  """The number of this process among them, from 0."""
  return _group.index


def join(distributed: bool = False, timeout_seconds: int = 300) -> None:
  """Connects this process with the others, where flags or environment ask for it; before JAX has started a backend.

  `MEDJAX_COORDINATOR` (host:port of process 0), `MEDJAX_PROCESSES` and `MEDJAX_PROCESS_ID` say who they are; with the
  flag or `MEDJAX_DISTRIBUTED=1` alone JAX finds out from TPU VM, GKE or Slurm.

  Args:
    distributed: the flag.
    timeout_seconds: how long to wait for the others.

  Raises:
    UserError: variables that do not make sense, or no cluster that JAX knows.
    RunError: the others do not come.
  """
  explicit = _from_environment()
  if not (explicit or distributed or os.environ.get("MEDJAX_DISTRIBUTED", "") not in ("", "0")):
    return
  import jax

  asked = sorted(name for name in os.environ if name.startswith("JAX_MTLS_"))
  if asked and not hasattr(jax.config, "jax_mtls_cert_file"):
    raise UserError(
      f"{', '.join(asked)} is set, but JAX {jax.__version__} has no TLS for processes; install JAX 0.12, or unset it"
    )
  _keep_stdout()
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
  if explicit.get("coordinator_bind_address"):
    _gloo_on_loopback()
  try:
    jax.distributed.initialize(**explicit, initialization_timeout=timeout_seconds)
  except ValueError as error:
    raise UserError(
      f"several processes are asked for, but this is no TPU VM, GKE or Slurm job that JAX knows ({error}); "
      f"set {', '.join(_VARIABLES)}"
    ) from None
  except RuntimeError as error:
    raise RunError(f"the other processes did not come within {timeout_seconds} s: {error}") from None
  _group.index, _group.count = jax.process_index(), jax.process_count()
  if _group.count > 1:
    threading.Thread(target=_watch, name="watch-processes", daemon=True).start()


def _gloo_on_loopback() -> None:
  """Has gloo listen on the loopback, too; JAX has no option for it, and gloo takes the address of the host's name."""
  from jax._src.lib import _jax

  _jax.make_gloo_tcp_collectives = functools.partial(_jax.make_gloo_tcp_collectives, hostname="127.0.0.1")


def _keep_stdout() -> None:
  """Leaves stdout to what this program prints: gloo writes a line to file descriptor 1 with each group it connects."""
  sys.stdout.flush()
  own = sys.stdout
  kept = os.dup(own.fileno())
  os.dup2(sys.stderr.fileno(), own.fileno())
  sys.stdout = open(kept, "w", 1, own.encoding, own.errors)


def _from_environment() -> dict[str, Any]:
  """Arguments of `jax.distributed.initialize`; none where JAX is to find out by itself."""
  given = {name: os.environ.get(name, "") for name in _VARIABLES}
  if not any(given.values()):
    return {}
  for name, value in given.items():
    if not value:
      raise UserError(f"{name} is not set, but another of {', '.join(_VARIABLES)} is; set all three")
  host, colon, port = given["MEDJAX_COORDINATOR"].rpartition(":")
  if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(f"MEDJAX_COORDINATOR is {given['MEDJAX_COORDINATOR']!r}; it must be HOST:PORT of process 0")
  total, own = given["MEDJAX_PROCESSES"], given["MEDJAX_PROCESS_ID"]
  if not (total.isdecimal() and own.isdecimal() and int(own) < int(total)):
    raise UserError(
      f"MEDJAX_PROCESSES is {total!r} and MEDJAX_PROCESS_ID {own!r}; they must be a number, and one from 0 below it"
    )
  return {
    "coordinator_address": given["MEDJAX_COORDINATOR"],
    # It has no password: where all are on this machine nobody else may connect.
    "coordinator_bind_address": f"{host}:{port}" if host in _LOOPBACK else None,
    "num_processes": int(total),
    "process_id": int(own),
    "cluster_detection_method": "deactivate",
  }


# ---- Ending together ------------------------------------------------------------------------------------------------


def _watch() -> None:
  """Ends this process once another one has said that it failed: it would wait for it in the next collective."""
  while not _group.left.wait(_POLL_SECONDS):
    try:
      reason = _group.client.key_value_try_get(_FAILED)
    except Exception:  # nothing is there, or the connection is lost, which JAX itself ends the process for
      continue
    if _group.left.wait(_GRACE_SECONDS):
      return
    print(f"medjax: {reason}; this one ({_group.index}) ends, too", file=sys.stderr, flush=True)
    _say_left()
    os._exit(1)


def _say_left() -> None:
  with contextlib.suppress(Exception):  # the connection is lost
    _group.client.key_value_set(f"{_LEFT}/{_group.index}", "")


def _wait_for_others() -> None:
  """Process 0 holds the values that the others look for, so it ends last."""
  deadline = time.monotonic() + _GRACE_SECONDS + 3 * _POLL_SECONDS
  for other in range(1, _group.count):
    with contextlib.suppress(Exception):  # it was killed, or hangs
      rest = max(0.001, deadline - time.monotonic())
      _group.client.blocking_key_value_get(f"{_LEFT}/{other}", int(1000 * rest))


def leave(code: int, reason: str = "") -> None:
  """Ends the process where it ran with others and failed, and has them end; otherwise does nothing.

  Args:
    code: the exit code. After 0, or 75 (which all come to together), JAX waits for the others at exit.
    reason: one line, shown by the others.
  """
  if _group.count == 1:
    return
  _group.left.set()
  if code in (0, 75):
    return
  with contextlib.suppress(Exception):  # another one has failed already, or the connection is lost
    _group.client.key_value_set(_FAILED, f"process {_group.index} failed: {reason}")
  _say_left()
  if is_first():
    _wait_for_others()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


# ---- Agreeing. Each of these is called by all processes, in the same order. -----------------------------------------


def everyone(value: Any) -> list[Any]:
  """The JSON-able values that the processes give, by their number.

  Raises:
    RunError: one of them gives none within an hour.
  """
  if _group.count == 1:
    return [value]
  client, name = _group.client, f"medjax/{_group.asked}"
  _group.asked += 1
  client.key_value_set(f"{name}/{_group.index}", json.dumps(value))
  try:
    found = [client.blocking_key_value_get(f"{name}/{i}", _PATIENCE_SECONDS * 1000) for i in range(_group.count)]
  except RuntimeError as error:
    raise RunError(f"another process does not answer: {error}") from None
  return list(map(json.loads, found))


def of_first(value: Any) -> Any:
  """The JSON-able value that process 0 gives."""
  return everyone(value if is_first() else None)[0]


def array_of_first(array: np.ndarray) -> np.ndarray:
  """The array that process 0 gives; the others give one of its shape and dtype."""
  if _group.count == 1:
    return array
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.broadcast_one_to_all(array))


def check_equal(values: Mapping[str, Any]) -> None:
  """Raises UserError in all processes where one of them has another value than process 0.

  Args:
    values: what it is -> a JSON-able value.
  """
  every = everyone(dict(values))
  for number, theirs in enumerate(every):
    changed = [key for key in theirs if theirs[key] != every[0][key]]
    if changed:
      raise UserError(
        f"process {number} has another {' and '.join(changed)} than process 0; give all processes the same command, "
        "files and version of medjax"
      )


def vote(flag: int) -> Any:
  """Starts to ask all processes for the largest of their flags; `bool` or `int` of the result waits for it."""
  if _group.count == 1:
    return flag
  import jax

  flags, largest = _ballot()
  with jax.transfer_guard("allow"):
    mine = jax.make_array_from_callback((jax.device_count(),), flags, lambda _: np.full(1, flag, np.int32))
  return _Vote(largest(mine))


class _Vote:
  def __init__(self, result: Any):
    self._result = result

  def __int__(self) -> int:
    import jax

    return int(jax.device_get(self._result))

  def __bool__(self) -> bool:
    return int(self) > 0


@functools.cache
def _ballot() -> tuple[Any, Any]:
  """Where a flag of each device lives, and the compiled maximum of them."""
  import jax

  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("all",))
  flags = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return flags, jax.jit(lambda x: x.max(), out_shardings=whole)
