"""Runs `medjax` in one process or group after another, each ended at a chosen point.

Reads lines of JSON: `points` and `words` (of the command line), one for each process that is to run with the others,
`environment` of all, and `log`, where they add what they say. Starts the processes and prints how they ended. At a
point one function is replaced by one that ends the process: `reference`, `step`, `save`, `between` and `validation`
with SIGKILL, `stop` and `stop_in_reference` with SIGTERM, which medjax answers, in the second step and after the first
batch of the reference pass; a number kills after so many seconds; `none` lets it run.
"""

import atexit
import json
import os
import signal
import sys
import threading

from orbax.checkpoint._src.path import atomicity

from medjax import runtime
from medjax.cli import main as cli


def die(*_):
  os.kill(os.getpid(), signal.SIGKILL)


def in_reference():
  """After the first batch of pairs."""
  from medjax.training import reference

  score = reference.score
  reference.score = lambda *arguments: score(*arguments[:-1], die)


def stopped_in_reference():
  """As `in_reference`, with SIGTERM."""
  from medjax.training import reference

  score = reference.score

  def scoring(*arguments):
    *others, advance = arguments

    def advancing(count):
      os.kill(os.getpid(), signal.SIGTERM)
      advance(count)

    return score(*others, advancing)

  reference.score = scoring


def in_step(number, signal_number):
  """While the step of that number runs."""
  from medjax.training import loop

  jitted_step = loop.jitted_step

  def counting(*arguments):
    step_fn, calls = jitted_step(*arguments), []

    def step(*inputs):
      calls.append(1)
      outputs = step_fn(*inputs)
      if len(calls) == number:
        os.kill(os.getpid(), signal_number)
      return outputs

    return step

  loop.jitted_step = counting


def in_save():
  """When all of the checkpoint's files are written and its folder still has its temporary name."""
  finalize = atomicity.AtomicRenameTemporaryPath.finalize

  async def finalizing(self):
    if self.get().parent.name == "checkpoints":  # the folder of a step, not one of an item in it
      die()
    await finalize(self)

  atomicity.AtomicRenameTemporaryPath.finalize = finalizing


def between():
  """After a checkpoint is whole, before the next step."""
  from medjax.training.checkpoints import Checkpoints

  save = Checkpoints.save

  def saving(self, *arguments):
    save(self, *arguments)
    self._manager.wait_until_finished()
    die()

  Checkpoints.save = saving


def in_validation():
  """After the first batch of the validation split."""
  from medjax.training import loop

  score = loop.score
  loop.score = lambda *arguments: score(*arguments, die)


POINTS = {
  "none": lambda: None,
  "reference": in_reference,
  "step": lambda: in_step(2, signal.SIGKILL),
  "save": in_save,
  "between": between,
  "validation": in_validation,
  "stop": lambda: in_step(2, signal.SIGTERM),
  "stop_in_reference": stopped_in_reference,
}


def run(request, process):
  """One process of a group; does not return."""
  os.environ |= request["environment"]
  if "MEDJAX_PROCESSES" in os.environ:
    os.environ["MEDJAX_PROCESS_ID"] = str(process)
  os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
  point = request["points"][process]
  if point in POINTS:
    POINTS[point]()
  else:
    threading.Timer(float(point), die).start()
  status = cli.main(request["words"][process])
  sys.stdout.flush()
  sys.stderr.flush()
  if status in (0, 75):
    atexit._run_exitfuncs()  # where JAX's processes wait for one another
  os._exit(status)


if __name__ == "__main__":
  runtime.quiet()
  import medjax.evaluation.evaluate
  import medjax.training.loop  # noqa: F401, once for all processes

  for line in sys.stdin:
    request, children = json.loads(line), []
    for process in range(len(request["points"])):
      children.append(os.fork())  # before JAX has started any device or thread
      if children[-1] == 0:
        run(request, process)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(f"ended {json.dumps(ended)}", flush=True)
