"""Runs a medjax command on a Cloud TPU VM: one slice, all its workers, asked for as a queued resource.

  python launch/tpu_vm.py run --name=triage --zone=us-east5-b --accelerator=v6e-16 --spot --bucket=my-bucket -- \
    train --config=configs/triage.py --workdir=/mnt/bucket/triage

asks for the TPU, waits for it, copies this clone to every worker, installs what it needs, starts the command, and
watches. A TPU that is taken away is asked for anew and the command started again, which goes on from its last
checkpoint; so is a run that ended with exit code 75. The command runs detached from the connection: when the watching
ends, by Ctrl-C or a closed laptop, it goes on, and the same command line watches it again.
"""

import dataclasses
import pathlib
import re
import shlex
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence

import command_line
import commands
from absl import flags

from medjax.errors import EXIT_DONE, EXIT_STOPPED, EXIT_UNUSABLE, RunError, UserError

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_WORKER = "medjax/code/launch/worker.sh"
# https://docs.cloud.google.com/tpu/docs/runtimes; TPU7x and later are not served by this API: use launch/gke.py.
_RUNTIMES = {
  "v2": "tpu-ubuntu2204-base",
  "v3": "tpu-ubuntu2204-base",
  "v4": "tpu-ubuntu2204-base",
  "v5litepod": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
_STATUS = re.compile(r"^medjax-worker (\S+) (none|running|lost|exit (\d+))( stopped)?$", re.MULTILINE)
_SETUP_SECONDS = 1800.0
_FAILED_REQUESTS = 3
_MISSED_POLLS = 10
_AGAIN = -1


@dataclasses.dataclass(frozen=True)
class Worker:
  """What a worker says: none, running, lost (ended without an exit code) or exit; whether it was asked to stop."""

  host: str
  state: str
  code: int | None
  stopped: bool


@dataclasses.dataclass(frozen=True)
class Pod:
  """A slice by name, and the commands that concern it."""

  given: flags.FlagValues
  runner: commands.Runner

  def queued(self, verb: str, *more: str) -> list[str]:
    """A command about the request for the TPU."""
    return ["gcloud", "compute", "tpus", "queued-resources", verb, self.given.name, *more, *self._where()]

  def on_workers(self, command: str) -> list[str]:
    """A command that runs a line of shell on all workers."""
    start = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.given.name, "--worker=all", f"--command={command}"]
    return [*start, *self._ssh(), *self._where()]

  def to_workers(self, source: str, target: str) -> list[str]:
    """A command that copies a file to all workers."""
    copied = [source, f"{self.given.name}:{target}"]
    return ["gcloud", "compute", "tpus", "tpu-vm", "scp", *copied, "--worker=all", *self._ssh(), *self._where()]

  def _ssh(self) -> list[str]:
    return ["--internal-ip"] if self.given.internal_ips else []

  def _where(self) -> list[str]:
    project = [f"--project={self.given.project}"] if self.given.project else []
    return [f"--zone={self.given.zone}", *project, "--quiet"]

  def request_state(self) -> str:
    """State of the request, such as ACTIVE; "" where there is none."""
    result = self.runner.call(self.queued("describe", "--format=value(state.state)"))
    if result.code == 0:
      return result.stdout.strip()
    if "NOT_FOUND" in result.stderr:
      return ""
    raise RunError(f"the state of {self.given.name} cannot be read: {commands.reason(result)}")

  def available(self) -> bool:
    """Whether the TPU is still ours and up, as far as can be told."""
    try:
      if self.request_state() != "ACTIVE":
        return False
    except RunError:
      return True
    node = ["gcloud", "compute", "tpus", "tpu-vm", "describe", self.given.name, "--format=value(state)", *self._where()]
    result = self.runner.call(node)
    if result.code != 0:
      return "NOT_FOUND" not in result.stderr
    return result.stdout.strip() not in ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING")

  def create(self) -> None:
    """Asks for the TPU; RunError where the request is refused."""
    given = self.given
    more = [
      f"--node-id={given.name}",
      f"--accelerator-type={given.accelerator}",
      f"--runtime-version={_runtime(given)}",
    ]
    more += ["--spot"] if given.spot else []
    more += ["--internal-ips"] if given.internal_ips else []
    for flag in ("network", "subnetwork", "service_account"):
      more += [f"--{flag.replace('_', '-')}={given[flag].value}"] if given[flag].value else []
    result = self.runner.call(self.queued("create", *more, "--async"))
    # An attempt that was taken to have failed may have got through.
    if result.code != 0 and "ALREADY_EXISTS" not in result.stderr:
      raise RunError(f"{given.name} cannot be asked for: {commands.reason(result)}")

  def delete(self) -> None:
    """Gives the TPU back, with its request; fine where there is none."""
    result = self.runner.call(self.queued("delete", "--force", "--async"))
    if result.code != 0 and "NOT_FOUND" not in result.stderr:
      raise RunError(f"{self.given.name} cannot be deleted: {commands.reason(result)}")

  def ensure(self) -> None:
    """Returns when the TPU is there; RunError where it cannot be had, or not within `--wait_hours`."""
    deadline, said, failures = time.monotonic() + 3600 * self.given.wait_hours, None, 0
    while (state := self.request_state()) != "ACTIVE":
      if state != said:
        command_line.say(f"{self.given.name}: {state.lower().replace('_', ' ') or 'asking for it'}")
        said = state
      failures += state == "FAILED"
      if failures == _FAILED_REQUESTS:
        raise RunError(f"the request failed {failures} times; {shlex.join(self.queued('describe'))} says why")
      if not state:
        self.create()
      elif state in ("FAILED", "SUSPENDED"):
        self.delete()
      if time.monotonic() > deadline:
        raise RunError(f"{self.given.name} did not come within {self.given.wait_hours:g} hours; it stays in the queue")
      self.runner.wait(self.given.poll_seconds)

  def setup(self, code: str, secrets: str) -> None:
    """Copies code and variables to all workers and installs what they need; RunError where that fails."""
    self.runner.check(self.to_workers(code, "medjax-code.tar.gz"))
    unpack = "rm -rf medjax/code && mkdir -p medjax/code && tar -xzf medjax-code.tar.gz -C medjax/code"
    self.runner.check(self.on_workers(unpack))
    if secrets:
      self.runner.check(self.to_workers(secrets, "medjax/env"))
    bucket = [self.given.bucket] if self.given.bucket else []
    self.runner.check(self.on_workers(worker_command("setup", *bucket)), timeout=_SETUP_SECONDS)

  def start(self, words: Sequence[str]) -> None:
    """Starts a medjax command on all workers, where it does not run already."""
    self.runner.check(self.on_workers(worker_command("start", *words)))

  def status(self) -> list[Worker]:
    """What the workers say; RunError where one does not answer."""
    otherwise = 'echo "medjax-worker $(hostname) none"'
    result = self.runner.check(
      self.on_workers(f"if [ -e {_WORKER} ]; then {worker_command('status')}; else {otherwise}; fi"), attempts=1
    )
    found = [
      Worker(host, state.split()[0], int(code) if code else None, bool(stopped))
      for host, state, code, stopped in _STATUS.findall(result.stdout)
    ]
    if not found and not self.runner.dry_run:
      raise RunError(f"no worker of {self.given.name} said how it is: {result.last_line}")
    return found

  def watch(self) -> int:
    """Waits until the command has ended on all workers.

    Returns:
      0 where it is done, `_AGAIN` where it stopped or was cut off and can go on, 75 where the user stopped it, else the
      exit code of a worker that failed.

    Raises:
      RunError: workers do not answer.
    """
    missed, mixed_since = 0, None
    while True:
      try:
        workers, missed = self.status(), 0
      except RunError as error:
        missed += 1
        if missed == _MISSED_POLLS or not self.available():
          raise
        command_line.say(f"{error}; asking again")
        self.runner.wait(self.given.poll_seconds)
        continue
      running = [worker for worker in workers if worker.state == "running"]
      if not running:
        return verdict(workers)
      if len(running) == len(workers):
        mixed_since = None
      else:
        mixed_since = mixed_since or time.monotonic()
        if time.monotonic() - mixed_since >= self.given.grace_seconds:
          command_line.say("some workers have ended and others hang: these are ended too")
          self.runner.check(self.on_workers(worker_command("kill")))
          return verdict([worker for worker in workers if worker.state != "running"])
      self.runner.wait(self.given.poll_seconds)


def worker_command(*words: str) -> str:
  """The line of shell that has a worker do something; any text comes through as it is."""
  return shlex.join(["bash", _WORKER, *words])


def verdict(workers: Sequence[Worker]) -> int:
  """What the ends of a run on its workers amount to: an exit code, or `_AGAIN`."""
  codes = [worker.code for worker in workers]
  if EXIT_UNUSABLE in codes:
    return EXIT_UNUSABLE
  if any(worker.stopped for worker in workers) and set(codes) <= {EXIT_DONE, EXIT_STOPPED, None}:
    return EXIT_STOPPED
  if None in codes:  # a worker was restarted or its process killed: the others failed for want of it
    return _AGAIN
  failed = [code for code in codes if code not in (EXIT_DONE, EXIT_STOPPED)]
  return failed[0] if failed else _AGAIN if EXIT_STOPPED in codes else EXIT_DONE


def pack(root: pathlib.Path, target: pathlib.Path, runner: commands.Runner) -> None:
  """Writes the files that git tracks, as they are now, into a .tar.gz.

  Raises:
    RunError: `root` is no git repository.
  """
  listed = runner.check(["git", "-C", str(root), "ls-files", "-z"]).stdout
  with tarfile.open(target, "w:gz") as archive:
    for name in filter(None, listed.split("\0")):
      if (root / name).exists():
        archive.add(root / name, name, recursive=False)


def write_secrets(secrets: dict[str, str], target: pathlib.Path) -> None:
  """Writes variables as lines for a shell to source, readable by the user alone."""
  target.touch(0o600)
  target.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items()))


def _run(pod: Pod, words: Sequence[str]) -> int:
  given = pod.given
  secrets = commands.read_secrets(given.env_file)
  if not given.bucket:
    command_line.say("without --bucket the workers share no files: fine for one worker, and lost with the TPU")
  if pod.runner.dry_run:
    for step in (pod.create, pod.request_state):
      step()
    print("# CODE.tar.gz: the files of this clone that git tracks")
    pod.setup("CODE.tar.gz", f"VARIABLES ({', '.join(sorted(secrets))})" if secrets else "")
    pod.start(words)
    pod.status()
    print("# if the TPU is taken away, all of this again, after:")
    pod.delete()
    return EXIT_DONE
  with tempfile.TemporaryDirectory() as folder:
    code, variables = pathlib.Path(folder, "code.tar.gz"), pathlib.Path(folder, "env")
    pack(_ROOT, code, pod.runner)  # once, so that a run goes on with the code that it started with
    write_secrets(secrets, variables)
    result = _until_done(pod, words, str(code), str(variables) if secrets else "")
  if result not in (EXIT_DONE, EXIT_STOPPED):
    command_line.say(f"the command failed with exit code {result}; the last lines of its logs:")
    pod.runner.show(pod.on_workers(worker_command("logs", "20")))
  if given.delete_after:
    pod.delete()
  return result


def _until_done(pod: Pod, words: Sequence[str], code: str, secrets: str) -> int:
  """Starts the command, and again after each end that it can go on from; returns its exit code."""
  for restart in range(pod.given.restarts + 1):
    pod.ensure()
    try:
      workers = pod.status()
      if any(worker.state == "running" for worker in workers):
        command_line.say(f"{pod.given.name}: the command runs already; watching it")
      else:
        if not restart or any(worker.state == "none" for worker in workers):
          command_line.say(f"{pod.given.name}: installing on {len(workers)} workers")
          pod.setup(code, secrets)
        pod.start(words)
        command_line.say(f"{pod.given.name}: started on {len(workers)} workers")
      result = pod.watch()
      why = "the run was cut off or asked to stop"
    except RunError as error:
      if pod.available():
        raise
      result, why = _AGAIN, f"the TPU was taken away ({error})"
    if result != _AGAIN:
      return result
    command_line.say(f"{pod.given.name}: {why}; going on (restart {restart + 1} of at most {pod.given.restarts})")
  raise RunError(f"given up after {pod.given.restarts} restarts; look at the logs, then run the same command again")


def _runtime(given: flags.FlagValues) -> str:
  kind = given.accelerator.partition("-")[0]
  if given.runtime_version:
    return given.runtime_version
  if kind not in _RUNTIMES or not re.fullmatch(r"\w+-\d+", given.accelerator):
    raise UserError(
      f"--accelerator is {given.accelerator!r}: write one of {', '.join(_RUNTIMES)}, - and its size, as in v6e-16; "
      "for another give --runtime_version too"
    )
  return _RUNTIMES[kind]


def _act(request: command_line.Request) -> int:
  given, runner = request.flags, request.runner
  command_line.check_name(given.name)
  _runtime(given)
  pod = Pod(given, runner)
  if request.action == "run":
    return _run(pod, request.words)
  if request.action == "status":
    state = pod.request_state()
    print(f"{given.name} {state or 'none'}")
    for worker in pod.status() if state == "ACTIVE" or runner.dry_run else ():
      print(f"{worker.host} {worker.state}{'' if worker.code is None else f' {worker.code}'}")
  elif request.action == "logs":
    return runner.show(pod.on_workers(worker_command("logs", str(given.lines), *(["follow"] if given.follow else []))))
  elif request.action == "stop":
    runner.check(pod.on_workers(worker_command("stop")))
  elif request.action == "delete":
    pod.delete()
  return EXIT_DONE


def _define(values: flags.FlagValues) -> None:
  def text(name: str, described: str, required: bool = False):
    flags.DEFINE_string(name, None if required else "", described, required=required, flag_values=values)

  text("name", "Of the TPU and of the request for it.", required=True)
  text("zone", "Zone of the TPU, such as us-east5-b.", required=True)
  text("project", "Google Cloud project; without it gcloud's own setting.")
  flags.DEFINE_string("accelerator", "v6e-16", "Kind and size, as `gcloud` has it.", flag_values=values)
  text("runtime_version", "Image of the workers; without it the one that belongs to the accelerator.")
  flags.DEFINE_boolean("spot", False, "Cheaper, and may be taken away at any time.", flag_values=values)
  text("network", "VPC network.")
  text("subnetwork", "VPC subnetwork.")
  text("service_account", "Account that the workers act as.")
  flags.DEFINE_boolean("internal_ips", False, "Workers without addresses on the internet.", flag_values=values)
  text("bucket", "Cloud Storage bucket, seen as /mnt/bucket on every worker; the place for --workdir.")
  text("env_file", "File of NAME=value lines, readable by you alone, for the environment of the command: tokens.")
  flags.DEFINE_integer("restarts", 50, "How often the command is started again.", 0, flag_values=values)
  flags.DEFINE_float("poll_seconds", 30.0, "Time between two looks at the TPU.", 0, flag_values=values)
  flags.DEFINE_float("wait_hours", 24.0, "How long to wait for a TPU.", 0, flag_values=values)
  flags.DEFINE_float(
    "grace_seconds", 300.0, "How long workers may go on after the first has ended.", 0, flag_values=values
  )
  flags.DEFINE_boolean(
    "delete_after", False, "Delete the TPU once the command has ended, well or not.", flag_values=values
  )
  flags.DEFINE_integer("lines", 100, "Lines of each worker that `logs` shows.", 1, flag_values=values)
  flags.DEFINE_boolean("follow", False, "Let `logs` go on as lines come.", flag_values=values)


LAUNCHER = command_line.Launcher(
  "launch/tpu_vm.py",
  "a medjax command on all workers of a Cloud TPU VM",
  {
    "run": "ask for the TPU, install, start, watch; go on after preemptions; or watch what runs already",
    "status": "state of the request and of the command on each worker",
    "logs": "what the command printed, by worker",
    "stop": "have the command save and stop; `run` goes on later",
    "delete": "give the TPU back",
  },
  ("run",),
  "python launch/tpu_vm.py run --name=triage --zone=us-east5-b --accelerator=v6e-16 --spot --bucket=my-bucket -- "
  "train --config=configs/triage.py --workdir=/mnt/bucket/triage",
  _define,
  _act,
)

if __name__ == "__main__":
  sys.exit(command_line.main(LAUNCHER, sys.argv[1:]))
