"""Runs `medjax` in one process after another, each ended at a chosen point: python interrupted.py train --workdir=...

Reads points from stdin, a line each; starts a process that runs the command up to there, and prints how it ended. At a
point one function is replaced by one that ends the process: `reference`, `step`, `save`, `between` and `validation`
with SIGKILL, `stop` with SIGTERM in its second step, which medjax answers.
"""

import os
import signal
import sys

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
  "reference": in_reference,
  "step": lambda: in_step(2, signal.SIGKILL),
  "save": in_save,
  "between": between,
  "validation": in_validation,
  "stop": lambda: in_step(2, signal.SIGTERM),
}

if __name__ == "__main__":
  runtime.quiet()
  import medjax.training.loop  # noqa: F401, once for all processes

  for line in sys.stdin:
    child = os.fork()  # before JAX has started any device or thread
    if child == 0:
      POINTS[line.strip()]()
      status = cli.main(sys.argv[1:])
      sys.stderr.flush()
      os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
