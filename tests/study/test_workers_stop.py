"""A study that is to stop ends in time, also where a process that does its jobs hangs and answers no signal."""

import os
import signal
import sys

import pytest

from medjax import config as schema
from medjax.errors import Stopped
from medjax.study import jobs, plan, workers
from medjax.study.at_hand import Share

# A worker that is deaf to SIGTERM once it has a job.
DEAF = """
import json, signal, sys, time
sys.stdin.readline()
print(json.dumps({"what": "ready", "hardware": {"devices": "1 x none", "rate": 1.0}}), flush=True)
sys.stdin.readline()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"what": "train"}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def hanging(tmp_path, monkeypatch):
  """A pool with a job whose process hangs."""
  (tmp_path / "deaf.py").write_text(DEAF)
  monkeypatch.setattr(workers, "_WORKER", (sys.executable, str(tmp_path / "deaf.py")))
  config = schema.with_overrides(schema.base_config(), {"model.path": "nowhere", "task": "triage"})
  with open(tmp_path / ".lock", "w") as lock:
    with workers.Pool(jobs.Study(config, plan.Options(), tmp_path), [Share()], lock.fileno()) as pool:
      pool.start(jobs.Job("fit", plan.Run("t", 0, "sft", 0, ()), until=3))
      while not list(pool.wait()):
        pass
      yield pool


def wait(pool):
  while True:
    list(pool.wait())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_that_hangs_is_killed_in_time(hanging, monkeypatch, number):
  monkeypatch.setattr(workers, "_STOP_SECONDS", 0.2)
  (worker,) = hanging._workers
  os.kill(os.getpid(), number)
  with pytest.raises(Stopped, match="1 of 1 trainings go on from their checkpoints of before: run the same command"):
    wait(hanging)
  assert worker.process.returncode == -signal.SIGKILL


def test_a_second_interrupt_ends_at_once(hanging):
  (worker,) = hanging._workers
  process = worker.process
  hanging._stopping = True
  with pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)
    wait(hanging)
  hanging.__exit__()
  assert process.returncode == -signal.SIGKILL
