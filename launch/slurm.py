"""Runs a medjax command on the nodes of a Slurm cluster, one process a GPU.

  python launch/slurm.py run --name=triage --nodes=2 --gpus_per_node=8 --time=08:00:00 -- \
    train --config=configs/triage.py --workdir=/shared/triage

Ahead of its time limit and at preemption the job gets SIGTERM and passes it to the processes, which save and end with
exit code 75; then, and whenever they end with 75, it queues itself again. The job has the environment of this command.
"""

import re
import shlex
import sys
from collections.abc import Sequence

import command_line
import commands
from absl import flags

from medjax.errors import EXIT_DONE, EXIT_STOPPED, EXIT_UNUSABLE, UserError

# What an #SBATCH line takes without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9._:,=@%/+\[\]-]+")

_SCRIPT = """\
#!/bin/bash
{directives}
set -uo pipefail
{setup}
export MEDJAX_DISTRIBUTED=1 PYTHONUNBUFFERED=1
asked=no
# Without --full, scancel signals the processes and not this script.
trap 'asked=yes; interrupted=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
# --wait: once a process has ended, the others have this long; a killed one would hide the exit code of the first.
srun --kill-on-bad-exit=0 --wait={grace}{cores} {command} &
step=$!
while true; do
  interrupted=no
  wait "$step"
  code=$?
  [[ $interrupted == yes ]] || break
done
if [[ $code -eq {stopped} || ( $asked == yes && $code -ne 0 && $code -ne {unusable} ) ]]; then
  if (( ${{SLURM_RESTART_COUNT:-0}} >= {restarts} )); then
    echo "medjax: not queued again after {restarts} restarts; submit the same command to go on" >&2
  elif scontrol requeue "$SLURM_JOB_ID"; then
    echo "medjax: exit code $code; queued again" >&2
  fi
fi
exit "$code"
"""


def script(given: flags.FlagValues, words: Sequence[str]) -> str:
  """The batch script of a medjax command.

  Args:
    given: the flags.
    words: of the command, without `medjax`.

  Raises:
    UserError: a value that an #SBATCH line cannot hold.
  """
  options = {
    "job-name": given.name,
    "nodes": given.nodes,
    "ntasks-per-node": given.gpus_per_node or 1,
    "gpus-per-node": given.gpus_per_node,
    "cpus-per-task": given.cpus_per_task,
    "time": given.time,
    "partition": given.partition,
    "account": given.account,
    "qos": given.qos,
    "output": _log(given),
    "open-mode": "append",
    "signal": f"B:TERM@{given.signal_seconds}",
  }
  for name, value in options.items():
    if value and not _PLAIN.fullmatch(str(value)):
      raise UserError(
        f"--{name.replace('-', '_')} is {value!r}, which an #SBATCH line cannot hold; use --sbatch for it"
      )
  lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
  return _SCRIPT.format(
    directives="\n".join([*lines, "#SBATCH --requeue", "#SBATCH --export=ALL"]),
    setup="\n".join(given.setup),
    grace=given.grace_seconds,
    cores=f" --cpus-per-task={given.cpus_per_task}" if given.cpus_per_task else "",  # srun does not take it from sbatch
    command=shlex.join([given.python, "-m", "medjax", *words]),
    stopped=EXIT_STOPPED,
    unusable=EXIT_UNUSABLE,
    restarts=given.restarts,
  )


def _log(given: flags.FlagValues) -> str:
  return f"{given.logs}/{given.name}.log"


def _jobs(request: command_line.Request) -> list[tuple[str, str]]:
  """Number and state of the user's jobs of this name that have not ended."""
  listed = request.runner.check(
    ["squeue", "--me", f"--name={request.flags.name}", "--noheader", "--format=%i %T"]
  ).stdout
  return [tuple(line.split(None, 1)) for line in listed.splitlines() if line.strip()]


def _run(request: command_line.Request) -> int:
  given, runner = request.flags, request.runner
  secrets = commands.read_secrets(given.env_file)
  text = script(given, request.words)
  if jobs := _jobs(request):
    raise UserError(
      f"job {jobs[0][0]} of the name {given.name} is {jobs[0][1].lower()}; `stop` it or use another --name"
    )
  runner.check(["mkdir", "-p", given.logs])
  # Once: an attempt that seems to fail may have queued the job, and a second job would write to the same workdir.
  result = runner.check(["sbatch", "--parsable", *given.sbatch], stdin=text, secrets=secrets, attempts=1)
  if not runner.dry_run:
    print(f"job {result.stdout.strip().partition(';')[0]}, log in {_log(given)}")
  return EXIT_DONE


def _stop(request: command_line.Request) -> None:
  """Has the job save and end, and stay ended."""
  runner = request.runner
  for job, state in [("JOB", "RUNNING")] if runner.dry_run else _jobs(request):
    if state == "PENDING":
      runner.check(["scancel", job])
      continue
    runner.check(["scontrol", "update", f"JobId={job}", "Requeue=0"])
    runner.check(["scancel", "--signal=TERM", job])


def _act(request: command_line.Request) -> int:
  given, runner = request.flags, request.runner
  command_line.check_name(given.name)
  if request.action == "script":
    print(script(given, request.words), end="")
    return EXIT_DONE
  if request.action == "run":
    return _run(request)
  if request.action == "status":
    return runner.show(["squeue", "--me", f"--name={given.name}"])
  if request.action == "logs":
    follow = ["--follow=name", "--retry"] if given.follow else []
    return runner.show(["tail", f"--lines={given.lines}", *follow, _log(given)])
  _stop(request)
  return EXIT_DONE


def _define(values: flags.FlagValues) -> None:
  def text(name: str, default: str | None, described: str):
    flags.DEFINE_string(name, default, described, required=default is None, flag_values=values)

  text("name", None, "Of the job and its log.")
  flags.DEFINE_integer("nodes", 1, "How many nodes.", 1, flag_values=values)
  flags.DEFINE_integer("gpus_per_node", 0, "GPUs of a node, each with a process; 0 for CPU.", 0, flag_values=values)
  flags.DEFINE_integer("cpus_per_task", 0, "CPU cores of a process; 0 leaves it to the cluster.", 0, flag_values=values)
  text("time", "", "Time limit, such as 08:00:00; without it the partition's. At its end the job queues again.")
  text("partition", "", "Partition.")
  text("account", "", "Account that is charged.")
  text("qos", "", "Quality of service.")
  flags.DEFINE_multi_string(
    "sbatch", [], "A further option of sbatch, such as --sbatch=--constraint=h100.", flag_values=values
  )
  flags.DEFINE_multi_string(
    "setup", [], "A line of shell ahead of the command, such as --setup='module load cuda'.", flag_values=values
  )
  text("python", sys.executable, "Python that has medjax, on the nodes.")
  text("logs", "runs/logs", "Folder of the log, seen by all nodes.")
  text("env_file", "", "File of NAME=value lines, readable by you alone, for the environment of the job: tokens.")
  flags.DEFINE_integer("signal_seconds", 120, "How long ahead of the time limit the job saves.", 1, flag_values=values)
  flags.DEFINE_integer(
    "grace_seconds", 300, "How long processes may go on after the first has ended.", 1, flag_values=values
  )
  flags.DEFINE_integer("restarts", 100, "How often the job queues itself again.", 0, flag_values=values)
  flags.DEFINE_integer("lines", 100, "Lines that `logs` shows.", 1, flag_values=values)
  flags.DEFINE_boolean("follow", False, "Let `logs` go on as lines come.", flag_values=values)


LAUNCHER = command_line.Launcher(
  "launch/slurm.py",
  "a medjax command on the nodes of a Slurm cluster",
  {
    "script": "print the batch script",
    "run": "submit it",
    "status": "the job in the queue",
    "logs": "what the command printed",
    "stop": "have the command save and stop; `run` goes on later",
  },
  ("script", "run"),
  "python launch/slurm.py run --name=triage --nodes=2 --gpus_per_node=8 --time=08:00:00 -- "
  "train --config=configs/triage.py --workdir=/shared/triage",
  _define,
  _act,
)

if __name__ == "__main__":
  sys.exit(command_line.main(LAUNCHER, sys.argv[1:]))
