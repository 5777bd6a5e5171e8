"""A run on a TPU VM is asked for, installed, started, watched and resumed, whatever goes wrong on the way."""

import json
import os
import signal

import pytest
import tpu_vm
from stages import LIMIT, SOON, TOKEN
from tpu_vm import Worker, verdict

WHERE = ("--name=pod", "--zone=us-east5-b")
RUN = ("run", *WHERE, "--poll_seconds=0.3", "--bucket=my-bucket", *SOON)
COMMAND = ("--", "train", '--config.task=it\'s "q" $(touch x) `y` \\ *\nend', "--workdir=/mnt/bucket/a b")

# Flags of each command in the gcloud 528.0.0 SDK, and those that every command has.
GCLOUD = {
  ("queued-resources", "create"): {
    *("accelerator-type", "async", "internal-ips", "network", "node-id", "runtime-version", "service-account"),
    *("spot", "subnetwork"),
  },
  ("queued-resources", "describe"): set(),
  ("queued-resources", "delete"): {"async", "force"},
  ("tpu-vm", "describe"): set(),
  ("tpu-vm", "ssh"): {"command", "internal-ip", "worker"},
  ("tpu-vm", "scp"): {"internal-ip", "worker"},
}
EVERYWHERE = {"zone", "project", "quiet", "format"}


def verbs(stage):
  return [call[4] for call in stage.calls("gcloud")]


def started(stage):
  return [call for call in stage.calls("medjax-python")]


def test_run_from_nothing_to_done(stage):
  result = stage.launch("tpu_vm.py", *RUN, "--spot", "--delete_after", stage.secrets(), *COMMAND)
  assert result.returncode == 0, result.stderr
  assert verbs(stage)[:2] == ["describe", "create"] and verbs(stage)[-1] == "delete"
  create = stage.calls("gcloud")[1]
  assert {"--spot", "--node-id=pod", "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e"} <= set(create)
  # On both workers, with every character of the arguments, the token from the file, and the bucket mounted.
  assert started(stage) == 2 * [["medjax-python", "-m", "medjax", *COMMAND[1:]]]
  assert [record["token"] for record in stage.records() if record["argv"][0] == "medjax-python"] == [TOKEN, TOKEN]
  assert stage.calls("gcsfuse") == 2 * [["gcsfuse", "--implicit-dirs", "my-bucket", "/mnt/bucket"]]
  assert TOKEN not in json.dumps(stage.calls()) + result.stdout + result.stderr


def test_every_flag_is_one_of_gcloud(stage):
  words = ("--spot", "--internal_ips", "--project=p", "--network=n", "--subnetwork=s", "--service_account=a")
  assert stage.launch("tpu_vm.py", *RUN, *words, "--delete_after", stage.secrets(), *COMMAND).returncode == 0
  stage.launch("tpu_vm.py", "status", *WHERE, *SOON)
  for call in stage.calls("gcloud"):
    given = {word[2:].partition("=")[0] for word in call if word.startswith("--")}
    assert given <= GCLOUD[call[3], call[4]] | EVERYWHERE, call


def test_a_preempted_tpu_is_asked_for_again_and_the_run_goes_on(stage):
  stage.runs({"term": True, "exit": 75}, {"exit": 0})
  stage.cue({"match": "worker.sh status", "skip": 2, "preempt": True})
  result = stage.launch("tpu_vm.py", *RUN, "--spot", stage.secrets(), *COMMAND)
  assert result.returncode == 0, result.stderr
  assert [verb for verb in verbs(stage) if verb in ("create", "delete")] == ["create", "delete", "create"]
  assert len(started(stage)) == 4 and "taken away" in result.stderr
  assert all(record["token"] == TOKEN for record in stage.records() if record["argv"][0] == "medjax-python")


def test_exit_code_75_starts_again_without_installing_again(stage):
  stage.runs({"exit": 75}, {"exit": 0})
  assert stage.launch("tpu_vm.py", *RUN, *COMMAND).returncode == 0
  assert len(started(stage)) == 4
  assert verbs(stage).count("scp") == 1


def test_a_run_that_always_stops_is_given_up(stage):
  stage.runs({"exit": 75})
  result = stage.launch("tpu_vm.py", *RUN, "--restarts=1", *COMMAND)
  assert result.returncode == 1 and "1 restarts" in result.stderr
  assert len(started(stage)) == 4


@pytest.mark.parametrize("code", [1, 2])
def test_a_failed_command_is_not_started_again(stage, code):
  stage.runs({"exit": code})
  result = stage.launch("tpu_vm.py", *RUN, *COMMAND)
  assert result.returncode == code and len(started(stage)) == 2
  assert "[worker0] training" in result.stdout  # the end of the logs


def test_failures_and_hangs_on_the_way_are_tried_again(stage):
  stage.cue(
    {"match": "queued-resources create", "stderr": "ERROR: UNAVAILABLE: try later"},
    {"match": "tpu-vm scp", "hang": True},
    {"match": "worker.sh status", "skip": 1, "code": 255, "stderr": "ERROR: connection refused"},
  )
  result = stage.launch("tpu_vm.py", *RUN, "--timeout_seconds=6", *COMMAND)
  assert result.returncode == 0, result.stderr
  assert len(started(stage)) == 2
  for said in ("UNAVAILABLE: try later; trying again", "connection refused"):
    assert said in result.stderr


def test_a_refused_request_is_not_tried_again(stage):
  stage.cue({"match": "create", "times": 9, "stderr": "ERROR: (gcloud) PERMISSION_DENIED: not allowed"})
  result = stage.launch("tpu_vm.py", *RUN, *COMMAND)
  assert result.returncode == 1 and result.stderr.count("PERMISSION_DENIED") == 1
  assert verbs(stage) == ["describe", "create"]


def test_a_request_that_got_through_unseen_is_used(stage):
  stage.cue({"match": "create", "times": 9, "stderr": "ERROR: (gcloud) ALREADY_EXISTS: pod"})
  process = stage.start("tpu_vm.py", *RUN, *COMMAND)
  stage.wait_for(lambda: "create" in verbs(stage))
  (stage.path / "state").write_text("ACTIVE")
  _, stderr = process.communicate(timeout=LIMIT)
  assert process.returncode == 0, stderr


def test_watching_can_end_and_go_on_and_stop_has_the_run_save(stage):
  stage.runs({"term": True, "exit": 75})
  watching = stage.start("tpu_vm.py", *RUN, *COMMAND)
  stage.wait_for_runs(2)
  watching.send_signal(signal.SIGINT)
  assert "goes on" in watching.communicate(timeout=LIMIT)[1]
  assert stage.launch("tpu_vm.py", "status", *WHERE).stdout.splitlines()[1:] == ["worker0 running", "worker1 running"]
  before = verbs(stage).count("ssh")
  again = stage.start("tpu_vm.py", *RUN, *COMMAND)
  stage.wait_for(lambda: verbs(stage).count("ssh") >= before + 3)
  assert stage.launch("tpu_vm.py", "stop", *WHERE).returncode == 0
  _, stderr = again.communicate(timeout=LIMIT)
  assert again.returncode == 75 and "runs already" in stderr
  assert len(started(stage)) == 2


def test_dry_run_prints_all_and_runs_nothing(stage):
  result = stage.launch("tpu_vm.py", *RUN, "--spot", "--dry_run", stage.secrets(), *COMMAND)
  assert result.returncode == 0 and not stage.calls()
  for shown in ("queued-resources create pod", "scp CODE.tar.gz", "worker.sh start train", "queued-resources delete"):
    assert shown in result.stdout
  assert "HF_TOKEN" in result.stdout and TOKEN not in result.stdout + result.stderr


def test_secrets_reach_a_worker_in_a_file_of_its_own(stage):
  stage.runs({"term": True, "exit": 75})
  process = stage.start("tpu_vm.py", *RUN, stage.secrets(), *COMMAND)
  stage.wait_for_runs(2)
  assert (stage.path / "worker1/medjax/env").stat().st_mode & 0o077 == 0
  stage.launch("tpu_vm.py", "stop", *WHERE)
  assert process.wait(LIMIT) == 75


@pytest.mark.parametrize(
  ("workers", "meaning"),
  [
    ([("exit", 0), ("exit", 0)], 0),
    ([("exit", 75), ("exit", 0)], tpu_vm._AGAIN),
    ([("lost", None), ("exit", 1)], tpu_vm._AGAIN),
    ([("none", None), ("exit", 75)], tpu_vm._AGAIN),
    ([("exit", 1), ("exit", 75)], 1),
    ([("lost", None), ("exit", 2)], 2),
  ],
)
def test_what_the_ends_of_workers_amount_to(workers, meaning):
  assert verdict([Worker("w", state, code, False) for state, code in workers]) == meaning


def test_workers_that_hang_after_another_failed_are_ended(stage):
  stage.runs({"term": True, "exit": 75})
  process = stage.start("tpu_vm.py", *RUN, "--grace_seconds=0.3", *COMMAND)
  stage.wait_for_runs(2)
  session = int((stage.path / "worker0/medjax/run/session").read_text())
  os.killpg(session, signal.SIGKILL)  # lost, as when a worker is restarted: the other would wait for it forever
  stage.runs({"exit": 0})
  _, stderr = process.communicate(timeout=LIMIT)
  assert process.returncode == 0 and "others hang" in stderr, stderr
  assert len(started(stage)) == 4


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (("run", *WHERE), "nothing to run"),
    (("run", *WHERE, "--", "trian"), "no verb of medjax"),
    (("run", "--name=pod", "--", "train"), "--zone is needed"),
    (("run", "--name=Pod_1", "--zone=z", "--", "train"), "--name"),
    (("run", *WHERE, "--acelerator=v4-8", "--", "train"), "did you mean --accelerator"),
    (("run", *WHERE, "--accelerator=v9-8", "--", "train"), "--accelerator"),
    (("launch", *WHERE), "no action"),
    (("status", *WHERE, "--", "train"), "takes no medjax command"),
  ],
)
def test_unusable_command_lines_say_what_to_do(stage, words, said):
  result = stage.launch("tpu_vm.py", *words)
  assert result.returncode == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
  assert not stage.calls()
