"""The batch script runs any command, passes on what asks it to stop, and queues itself again when that is right."""

import json
import os
import signal
import subprocess

import pytest
from stages import LIMIT, TOKEN

RUN = ("run", "--name=job", "--nodes=2", "--gpus_per_node=4", "--retry_seconds=0.05")
COMMAND = ("--", "train", '--config.task=it\'s "q" $(touch x) `y` \\ *\nend', "--workdir=/shared/a b")


def submit(stage, *more):
  result = stage.launch("slurm.py", *RUN, f"--python={stage.path / 'bin/medjax-python'}", *more, *COMMAND)
  assert result.returncode == 0, result.stderr
  return result


def job(stage, restarts=0):
  """The job as Slurm would start it."""
  environment = {**stage.environment, "SLURM_JOB_ID": "123", "SLURM_RESTART_COUNT": str(restarts)}
  process = subprocess.Popen(["bash", str(stage.path / "job.sh")], env=environment, stderr=subprocess.PIPE, text=True)
  stage.started.append(process)
  return process


def requeued(stage):
  return stage.calls("scontrol") == [["scontrol", "requeue", "123"]]


def test_the_job_runs_the_command_as_it_was_given(stage):
  assert "job 123, log in runs/logs/job.log" in submit(stage, "--sbatch=--constraint=h100").stdout
  assert stage.calls("sbatch") == [["sbatch", "--parsable", "--constraint=h100"]]
  assert job(stage).wait(LIMIT) == 0
  assert stage.calls("medjax-python") == [["medjax-python", "-m", "medjax", *COMMAND[1:]]]
  assert stage.calls("srun")[0][1:3] == ["--kill-on-bad-exit=0", "--wait=300"]
  assert not requeued(stage)


def test_directives_ask_for_a_process_a_gpu_and_a_warning(stage):
  submit(stage, "--time=08:00:00", "--cpus_per_task=8", "--signal_seconds=90")
  text = (stage.path / "job.sh").read_text()
  for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=08:00:00", "signal=B:TERM@90", "requeue"):
    assert f"\n#SBATCH --{line}\n" in text
  assert "--cpus-per-task=8 " in text.split("srun ")[1]


def test_sigterm_reaches_the_processes_and_the_job_queues_again(stage):
  stage.runs({"term": True, "exit": 75})
  submit(stage)
  process = job(stage)
  stage.wait_for_runs(1)
  process.send_signal(signal.SIGTERM)
  assert process.wait(LIMIT) == 75
  assert stage.calls("scancel") == [["scancel", "--signal=TERM", "123"]]
  assert requeued(stage)


@pytest.mark.parametrize(("code", "again"), [(75, True), (1, False), (2, False)])
def test_exit_codes_say_whether_to_queue_again(stage, code, again):
  stage.runs({"exit": code})
  submit(stage)
  assert job(stage).wait(LIMIT) == code
  assert requeued(stage) == again


def test_a_run_killed_after_the_warning_queues_again(stage):
  stage.runs({"term": True, "exit": 137})
  submit(stage)
  process = job(stage)
  stage.wait_for_runs(1)
  process.send_signal(signal.SIGTERM)
  assert process.wait(LIMIT) == 137 and requeued(stage)


def test_restarts_have_an_end(stage):
  stage.runs({"exit": 75})
  submit(stage, "--restarts=2")
  process = job(stage, restarts=2)
  assert process.wait(LIMIT) == 75 and not requeued(stage)
  assert "not queued again after 2 restarts" in process.stderr.read()


def test_a_second_job_on_the_same_name_is_refused(stage):
  (stage.path / "queue").write_text("77 RUNNING\n")
  result = stage.launch("slurm.py", *RUN, *COMMAND)
  assert result.returncode == 2 and "77" in result.stderr and not stage.calls("sbatch")


def test_a_submission_that_fails_or_hangs_is_not_repeated(stage):
  stage.cue({"match": "sbatch", "hang": True})
  result = stage.launch("slurm.py", *RUN, "--timeout_seconds=1", *COMMAND)
  assert result.returncode == 1 and "did not end in 1 s" in result.stderr
  assert len(stage.calls("sbatch")) == 1


def test_stop_lets_the_job_save_and_keeps_it_from_queueing_again(stage):
  (stage.path / "queue").write_text("77 RUNNING\n78 PENDING\n")
  assert stage.launch("slurm.py", "stop", "--name=job").returncode == 0
  wanted = [["scontrol", "update", "JobId=77", "Requeue=0"], ["scancel", "--signal=TERM", "77"], ["scancel", "78"]]
  assert stage.calls("scontrol", "scancel") == wanted


def test_secrets_go_by_the_environment(stage):
  submit(stage, stage.secrets())
  assert [record["token"] for record in stage.records() if record["argv"][0] == "sbatch"] == [TOKEN]
  shown = stage.launch("slurm.py", *RUN, "--dry_run", stage.secrets(), *COMMAND)
  everything = json.dumps(stage.calls()) + shown.stdout + shown.stderr + (stage.path / "job.sh").read_text()
  assert TOKEN not in everything and "with HF_TOKEN in its environment" in shown.stdout


def test_a_dry_run_is_a_script_that_submits_the_same_job(stage):
  submit(stage)
  wanted = (stage.path / "job.sh").read_text()
  (stage.path / "job.sh").unlink()
  python = f"--python={stage.path / 'bin/medjax-python'}"
  shown = stage.launch("slurm.py", *RUN, python, "--dry_run", *COMMAND).stdout
  subprocess.run(["bash", "-c", shown], env=stage.environment, cwd=stage.path, check=True, timeout=LIMIT)
  assert (stage.path / "job.sh").read_text() == wanted


def test_secrets_that_others_can_read_and_lines_that_are_none_are_refused(stage):
  flag = stage.secrets()
  path = flag.partition("=")[2]
  os.chmod(path, 0o644)
  result = stage.launch("slurm.py", *RUN, flag, *COMMAND)
  assert result.returncode == 2 and "chmod 600" in result.stderr
  os.chmod(path, 0o600)
  (stage.path / "secrets.env").write_text(f"A=1\n{TOKEN}\n")
  result = stage.launch("slurm.py", *RUN, flag, *COMMAND)
  assert result.returncode == 2 and "secrets.env:2" in result.stderr and TOKEN not in result.stderr


def test_a_value_that_would_break_the_script_is_refused(stage):
  result = stage.launch("slurm.py", *RUN, "--time=1\n#SBATCH --exclusive", *COMMAND)
  assert result.returncode == 2 and "--time" in result.stderr
