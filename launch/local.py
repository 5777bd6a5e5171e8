"""Runs a medjax command as several processes of one machine.

  python launch/local.py --processes=2 --devices=4 -- train --config=configs/triage.py --workdir=runs/triage

tries on CPU what a cluster would run; with `--gpus` each process has one GPU of the machine. A line of output starts
with the number of its process. SIGTERM (or Ctrl-C) goes to all of them, so that they save and stop; a second ends them.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

import command_line
from absl import flags
from commands import read_secrets

from medjax.errors import EXIT_STOPPED, RunError

_POLL_SECONDS = 0.05


def _define(values: flags.FlagValues) -> None:
  flags.DEFINE_integer("processes", 2, "How many processes.", 1, flag_values=values)
  flags.DEFINE_integer("devices", 1, "Simulated CPU devices of a process.", 1, flag_values=values)
  flags.DEFINE_boolean("gpus", False, "Give each process one GPU in place of simulated devices.", flag_values=values)
  flags.DEFINE_integer("port", 0, "Port where the processes meet; 0 takes a free one.", 0, 65535, flag_values=values)
  flags.DEFINE_float("grace_seconds", 60.0, "How long a process may take to save and stop.", 0, flag_values=values)
  flags.DEFINE_string("env_file", "", "File of NAME=value lines for the environment.", flag_values=values)


def _act(request: command_line.Request) -> int:
  given = request.flags
  command = [sys.executable, "-m", "medjax", *request.words]
  port = given.port or ("PORT" if request.runner.dry_run else free_port())
  each = [
    environment(process, given.processes, port, None if given.gpus else given.devices)
    for process in range(given.processes)
  ]
  secrets = read_secrets(given.env_file)
  if request.runner.dry_run:
    for one in each:
      settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in one.items())
      names = f"  # with {', '.join(sorted(secrets))} from {given.env_file}" if secrets else ""
      print(f"{settings} {shlex.join(command)}{names}")
    return 0
  return run(command, [{**secrets, **one} for one in each], given.grace_seconds)


def environment(process: int, processes: int, port: int | str, devices: int | None) -> dict[str, str]:
  """The variables that make a process one of several.

  Args:
    process: its number.
    processes: how many there are.
    port: where they meet.
    devices: simulated CPU devices of a process; None for the GPU of its number.
  """
  found = {
    "MEDJAX_COORDINATOR": f"localhost:{port}",
    "MEDJAX_PROCESSES": str(processes),
    "MEDJAX_PROCESS_ID": str(process),
    "PYTHONUNBUFFERED": "1",
  }
  if devices is None:
    return {**found, "CUDA_VISIBLE_DEVICES": str(process)}
  others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
  xla_flags = f"{others} --xla_force_host_platform_device_count={devices}".strip()
  return {**found, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}


def free_port() -> int:
  """A port of this machine that nobody listens at."""
  with socket.socket() as listening:
    listening.bind(("localhost", 0))
    return listening.getsockname()[1]


def run(command: Sequence[str], environments: Sequence[Mapping[str, str]], grace: float) -> int:
  """Runs a command once for each environment, all at the same time, and waits.

  Args:
    command: its words.
    environments: what each process gets beside the environment of this one.
    grace: seconds that a process may take to stop.

  Returns:
    0 where all returned 0; 75 where some returned 75, after which the same command goes on; else the exit code of
    the process that failed first.

  Raises:
    RunError: a signal that was not ours ended a process, or one did not stop when asked.
  """
  processes, readers, asked = [], [], []
  previous = {
    number: signal.signal(number, lambda *_: asked.append(time.monotonic()))
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    for number, extra in enumerate(environments):
      # Sessions of their own: Ctrl-C in a terminal would reach the processes as SIGINT, on which they do not save.
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **extra},
        text=True,
        errors="replace",
        start_new_session=True,
      )
      processes.append(process)
      for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
        readers.append(threading.Thread(target=_prefix, args=(f"[{number}] ", source, target), daemon=True))
        readers[-1].start()
    killed, failed = _wait(processes, asked, grace)
  finally:
    for process in processes:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for reader in readers:
      reader.join(5)
    for number, handler in previous.items():
      signal.signal(number, handler)
  if failed is not None and processes[failed].returncode > 0:
    command_line.say(f"process {failed} ended with exit code {processes[failed].returncode}")
    return processes[failed].returncode
  if failed is not None:
    raise RunError(f"process {failed} was ended by signal {-processes[failed].returncode}; the others were stopped")
  if killed:
    raise RunError(f"process {killed[0]} did not stop within {grace:g} s and was ended; what it had not saved is lost")
  return EXIT_STOPPED if any(process.returncode != 0 for process in processes) else 0


def _wait(processes: Sequence[subprocess.Popen], asked: Sequence[float], grace: float) -> tuple[list[int], int | None]:
  """Waits for all; returns which had to be ended, and which failed first.

  One that fails or stops takes the others with it: they would wait for it in their next collective. `asked` grows with
  each signal that asks this process to stop.
  """
  deadline, killed, failed, told = None, [], None, False
  while True:
    codes = [process.poll() for process in processes]
    # One that SIGTERM ends has not come as far as to save something: what was asked for is done.
    fine = (None, 0, EXIT_STOPPED, *((-signal.SIGTERM,) if told else ()))
    bad = [index for index, code in enumerate(codes) if code not in fine and index not in killed]
    failed = bad[0] if failed is None and bad else failed
    running = [index for index, code in enumerate(codes) if code is None]
    if not running:
      return killed, failed
    if not told and (asked or failed is not None or EXIT_STOPPED in codes):
      told, deadline = True, time.monotonic() + grace
      for index in running:
        processes[index].terminate()
    elif len(asked) > 1 or (told and time.monotonic() > deadline):
      for index in running:
        killed.append(index)
        os.killpg(processes[index].pid, signal.SIGKILL)
        processes[index].wait()
    time.sleep(_POLL_SECONDS)


def _prefix(prefix: str, source: TextIO, target: TextIO) -> None:
  """Copies lines, each with a prefix, and each written as a whole."""
  for line in source:
    target.write(f"{prefix}{line.removesuffix(chr(10))}\n")
    target.flush()


LAUNCHER = command_line.Launcher(
  "launch/local.py",
  "several processes on this machine",
  {},
  (),
  "python launch/local.py --processes=2 -- train --config=configs/triage.py --workdir=runs/triage",
  _define,
  _act,
)

if __name__ == "__main__":
  sys.exit(command_line.main(LAUNCHER, sys.argv[1:]))
