"""Processes that do a study's jobs: those that die, fail and are stopped. A stand-in takes the place of the worker."""

import dataclasses
import json
import signal
import sys

import pytest

from medjax import config as schema
from medjax.errors import RunError, Stopped, UserError
from medjax.study import jobs, plan, workers
from medjax.study.at_hand import Share

# Reads what it is asked like a worker, and then does what the method of its job says.
STAND_IN = """
import json, os, pathlib, signal, sys, time
asked = json.loads(sys.stdin.readline())
if "mute" in asked["workdir"]:
  sys.exit(3)
print(json.dumps({"what": "ready", "hardware": {"devices": "1 x none", "rate": 1.0}}), flush=True)
for line in sys.stdin:
  job = json.loads(line)
  folder = pathlib.Path(asked["workdir"], "runs/t/seed0", job["run"]["method"], "candidate0")
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / "log.txt", "a") as log:
    log.write("one\\ntwo\\n")
  tries = (folder / "log.txt").read_text().count("one")
  method = job["run"]["method"]
  if method == "base":
    os.kill(os.getpid(), signal.SIGKILL)
  if method == "sft" and tries < 5:
    sys.exit(75)
  if method in ("dpo", "kto"):
    print(json.dumps({"what": "failed", "code": 1 if method == "dpo" else 2, "why": "why"}), flush=True)
    sys.exit(1)
  if method == "orpo":
    time.sleep(60)
  print(json.dumps({"what": "train"}), flush=True)
  print(json.dumps({"what": "end"}), flush=True)
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
  script = tmp_path / "stand_in.py"
  script.write_text(STAND_IN)
  monkeypatch.setattr(workers, "_WORKER", (sys.executable, str(script)))

  locks = []

  def make(folder="study", shares=1):
    workdir = tmp_path / folder
    workdir.mkdir()
    locks.append(open(workdir / ".lock", "w"))
    config = schema.with_overrides(schema.base_config(), {"model.path": "nowhere", "task": "triage"})
    return workers.Pool(jobs.Study(config, plan.Options(), workdir), [Share()] * shares, locks[-1].fileno())

  yield make
  for lock in locks:
    lock.close()


def job(method):
  return jobs.Job("fit", plan.Run("t", 0, method, 0, ()), until=3)


def outcome(running, method):
  running.start(job(method))
  told = []
  while not told or told[-1] not in ("end",) and not told[-1].startswith("failed"):
    told += [what for _, what in running.wait()]
  return told


def test_a_process_that_dies_is_replaced_and_its_job_tried_three_times(pool):
  with pool() as running:
    (told,) = outcome(running, "base")
    assert told.startswith("failed: its process was ended by signal 9, 3 times")
    assert "base/candidate0/log.txt: two | one | two | one | two" in told
    assert outcome(running, "simpo") == ["train", "end"], "others are not lost"


def test_one_that_stopped_with_a_checkpoint_is_started_again_as_often_as_it_takes(pool):
  with pool() as running:
    assert outcome(running, "sft") == ["train", "end"]


def test_what_a_job_says_of_its_failure_is_told_with_its_log(pool):
  with pool() as running:
    (told,) = outcome(running, "dpo")
    assert told.startswith("failed: why (") and told.endswith("dpo/candidate0/log.txt)")
    with pytest.raises(UserError, match="^why$"):
      outcome(running, "kto")


def test_a_process_that_does_not_start_is_an_error_with_what_it_said(pool):
  with pytest.raises(RunError, match="a process of the study ended as it started: it says nothing"):
    pool("mute").__enter__()


def test_a_stop_reaches_the_processes(pool):
  with pool(shares=2) as running:
    for method in ("orpo", "orpo"):
      running.start(job(method))
    assert not running.free()
    processes = [worker.process for worker in running._workers]
    running._note(signal.SIGTERM, None)
    with pytest.raises(Stopped, match="run the same command to go on"):
      while True:
        list(running.wait())
    assert [process.returncode for process in processes] == [-15, -15]


def test_jobs_are_the_same_after_json():
  run = plan.Run("t", 1, "dpo", 2, (("optimizer.learning_rate", 1e-5), ("train.steps", 3)))
  one = jobs.Job("fit", run, start_from=plan.Run("t", 1, "sft", 0, ()), rung=1, until=3, validates=True, last=False)
  assert jobs.Job.from_json(json.loads(json.dumps(dataclasses.asdict(one)))) == one
