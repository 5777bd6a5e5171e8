"""Several processes on one machine meet, end together, and say whether the same command goes on."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from stages import LIMIT, ROOT, TOKEN

# Runs WORDS of the test's own choice where launch/local.py runs medjax.
RUN = """
import sys, local
each = [local.environment(process, 2, local.free_port() if not process else 0, 2) for process in range(2)]
for one in each:
  one["MEDJAX_COORDINATOR"] = each[0]["MEDJAX_COORDINATOR"]
try:
  sys.exit(local.run([sys.executable, *sys.argv[2:]], each, float(sys.argv[1])))
except local.RunError as error:
  sys.exit(f"error: {error}")
"""


def start(*words, grace=20.0):
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "launch")])}
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  return subprocess.Popen([sys.executable, "-c", RUN, str(grace), *words], env=environment, **pipes)


def ended(process):
  stdout, stderr = process.communicate(timeout=LIMIT)
  return process.returncode, stdout, stderr


def body(text):
  """A program that knows its number as `me`."""
  return (
    "import os, signal, sys, time\nme = int(os.environ['MEDJAX_PROCESS_ID'])\n"
    "def on_term(save):\n  signal.signal(signal.SIGTERM, lambda *_: save())\n"
    f"{text}\n"
  )


def test_processes_meet_and_compute_together():
  code, stdout, stderr = ended(start(str(pathlib.Path(__file__).with_name("member.py"))))
  assert code == 0, stderr
  assert sorted(stdout.splitlines()) == ["[0] 0 of 2: 4", "[1] 1 of 2: 4"], "and nothing that a library says"


@pytest.mark.parametrize(
  ("codes", "together"), [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((1, 75), 1), ((75, 2), 2)]
)
def test_exit_codes_together(codes, together, tmp_path):
  # Neither ends at SIGTERM, so that each code is the one given: os._exit, as Python's own end lets go of the handler.
  text = body(
    f"on_term(lambda: None)\nopen('{tmp_path}/' + str(me), 'w')\n"
    f"while len(os.listdir('{tmp_path}')) < 2: time.sleep(.01)\nos._exit({list(codes)}[me])"
  )
  code, _, stderr = ended(start("-c", text))
  assert code == together, stderr


def wait_for_lines(process, number):
  return sorted(process.stdout.readline() for _ in range(number))


def test_sigterm_goes_to_all_and_both_streams_are_prefixed():
  text = body(
    "on_term(lambda: sys.exit(75))\nprint('up', flush=True)\nprint('noted', file=sys.stderr)\ntime.sleep(600)"
  )
  process = start("-c", text)
  assert wait_for_lines(process, 2) == ["[0] up\n", "[1] up\n"]
  process.send_signal(signal.SIGTERM)
  code, _, stderr = ended(process)
  assert code == 75
  assert sorted(stderr.splitlines()) == ["[0] noted", "[1] noted"]


def test_sigterm_ahead_of_any_handler_is_a_stop_too():
  process = start("-c", body("print('up', flush=True)\ntime.sleep(600)"))
  wait_for_lines(process, 2)
  process.send_signal(signal.SIGTERM)
  assert ended(process)[0] == 75


def test_one_that_dies_takes_the_others_with_it():
  text = body("if me: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)")
  code, _, stderr = ended(start("-c", text))
  assert code == 1 and "process 1 was ended by signal 9" in stderr


def test_one_that_does_not_stop_is_ended_and_reported():
  text = body(
    "on_term((lambda: None) if me else (lambda: sys.exit(75)))\nprint('up', flush=True)\nwhile 1: time.sleep(9)"
  )
  process = start("-c", text, grace=0.5)
  wait_for_lines(process, 2)
  process.send_signal(signal.SIGTERM)
  code, _, stderr = ended(process)
  assert code == 1 and "process 1 did not stop within 0.5 s" in stderr


def test_a_second_signal_does_not_wait():
  words = "on_term(lambda: print('asked', flush=True))\nprint('up', flush=True)\nwhile 1: time.sleep(9)"
  process = start("-c", body(words), grace=600)
  wait_for_lines(process, 2)
  process.send_signal(signal.SIGTERM)
  wait_for_lines(process, 2)
  process.send_signal(signal.SIGTERM)
  assert ended(process)[0] == 1


def test_the_command_line_runs_medjax(stage):
  result = stage.launch("local.py", "--processes=2", "--", "train", "--help")
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert sum(line.startswith("[0] ") for line in lines) == sum(line.startswith("[1] ") for line in lines) > 3


def test_dry_run_and_help_of_every_launcher(stage):
  shown = stage.launch("local.py", "--dry_run", stage.secrets(), "--", "train", "--workdir=a b").stdout
  assert shown.count("-m medjax train '--workdir=a b'") == 2 and "MEDJAX_PROCESS_ID=1" in shown
  assert "HF_TOKEN" in shown and TOKEN not in shown
  for script in ("local.py", "tpu_vm.py", "gke.py", "slurm.py"):
    result = stage.launch(script, "--help")
    assert result.returncode == 0 and "--dry_run" in result.stdout and f"python launch/{script}" in result.stdout
