"""Ends of a run before its last step: signals, saves by time, hangs."""

import os
import signal
import subprocess
import sys
import time
import types

import pytest
from runs import curve, overrides, train

from medjax.errors import Stopped
from medjax.training import checkpoints, loop
from medjax.training.telemetry import Telemetry

# Hangs as a kernel or a collective does: outside of Python, where no handler of a signal runs.
HANG = "while True: ctypes.CDLL(None).sleep(600)"
SIGNALLED = f"""
import ctypes, signal, sys
from medjax.training.stopping import StopRequest
signal.alarm(200)
with StopRequest():
  print("ready", flush=True)
  {HANG}
"""
STALLED = f"""
import ctypes, pathlib, sys
from medjax.training.stopping import Watchdog
with Watchdog(pathlib.Path(sys.argv[1]), minutes=0.2 / 60) as watchdog:
  watchdog.alive("step 3")
  {HANG}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_save_and_stop(home, tmp_path, monkeypatch, number):
  settings = overrides(home, train__steps=6)
  train(tmp_path / "whole", settings)
  write, before = Telemetry.write, signal.getsignal(number)

  def writing(self, done, values):
    write(self, done, values)
    if done == 2:
      os.kill(os.getpid(), number)

  with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"stopped at step \d of 6 with a checkpoint saved"):
    patch.setattr(Telemetry, "write", writing)
    train(tmp_path / "run", settings)
  assert signal.getsignal(number) is before
  train(tmp_path / "run", settings)
  assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_the_defaults_save_by_time(home, tmp_path, monkeypatch):
  """A clock on which a step takes four minutes: of six steps the third is the first after ten minutes."""
  now, saved = [0.0], []

  write, save = Telemetry.write, checkpoints.Checkpoints.save

  def writing(self, done, values):
    write(self, done, values)
    now[0] += 240.0

  def saving(self, step, *rest):
    saved.append(step)
    save(self, step, *rest)

  clock = types.SimpleNamespace(monotonic=lambda: now[0], strftime=time.strftime, gmtime=time.gmtime)
  monkeypatch.setattr(loop, "time", clock)
  monkeypatch.setattr(Telemetry, "write", writing)
  monkeypatch.setattr(checkpoints.Checkpoints, "save", saving)
  train(tmp_path / "run", overrides(home, train__steps=6, train__stall_minutes=0))
  assert len(saved) > 1 and saved[-1] == 6
  assert checkpoints.saved_steps(tmp_path / "run" / "checkpoints") == saved[-2:], "the last two stay"


def started(program, *words, seconds=0.5):
  command = [sys.executable, "-c", program, *map(str, words)]
  own = {**os.environ, "MEDJAX_STOP_SECONDS": str(seconds)}
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)


def test_a_process_that_hangs_ends_in_time_after_a_signal():
  process = started(SIGNALLED)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=120)
  assert process.returncode == 75
  assert stderr.splitlines()[-1] == (
    "medjax: did not end within 0.5 s of being asked to; run the same command to go on from the last checkpoint"
  )


def test_a_second_interrupt_ends_at_once():
  process = started(SIGNALLED, seconds=500)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  assert "Ctrl-C again ends at once" in process.stderr.readline()
  process.send_signal(signal.SIGINT)
  _, stderr = process.communicate(timeout=120)
  assert process.returncode == 1 and "interrupted twice" in stderr


def test_a_process_that_stands_still_is_ended_and_says_where(tmp_path):
  _, stderr = started(STALLED, tmp_path).communicate(timeout=120)
  (line,) = stderr.splitlines()
  path = tmp_path / "stalled-0.txt"
  assert line.startswith("medjax: process 0 stood still for ") and line.endswith(
    f"at step 3; {path} says where it stopped"
  )
  assert 'File "<string>", line 6 in <module>' in path.read_text()
