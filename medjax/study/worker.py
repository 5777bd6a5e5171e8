"""A process that does jobs of a study, one after another: `python -m medjax.study.worker`.

It reads JSON from stdin, a line each: first what `workers.Pool` says of the study, then jobs. It answers with lines of
JSON on what was its stdout; what else is printed goes to the log of the run. It ends as soon as stdin does, whatever it
is doing: then the process that started it is gone, and the next command goes on from the files.
"""

import json
import os
import pathlib
import queue
import sys
import threading
import traceback
from typing import Any

LOG = "log.txt"  # in the folder of each run


def main() -> int:
  """Does jobs until stdin ends; the exit code is that of the job that could not be done."""
  lines: queue.SimpleQueue[str] = queue.SimpleQueue()
  events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
  asked = json.loads(sys.stdin.readline())
  _log_to(pathlib.Path(asked["log"]))
  if asked["cores"]:
    os.sched_setaffinity(0, asked["cores"])  # before JAX counts them
  threading.Thread(target=_listen, args=(lines,), daemon=True).start()

  from medjax import runtime

  runtime.quiet()
  runtime.keep_compiled_programs()
  from medjax import errors

  def tell(**values: Any) -> None:
    events.write(json.dumps(values) + "\n")
    events.flush()

  try:
    study = _study(asked)
    from medjax.study import jobs

    tell(what="ready", hardware=jobs.hardware(study))
    while True:
      job = jobs.Job.from_json(json.loads(lines.get()))
      _log_to(study.workdir / job.run.folder / LOG)
      for what in jobs.perform(study, job):
        tell(what=what)
      tell(what="end")
  except BaseException as error:
    code, why = errors.verdict(error, asked["debug"])
    if asked["debug"]:
      traceback.print_exc()
    from medjax.console import visible

    why = " ".join(why.split())
    print(f"medjax study: {visible(why)}", file=sys.stderr, flush=True)
    tell(what="failed", code=code, why=why)
    return code


def _study(asked: dict[str, Any]) -> Any:
  from medjax import config as schema
  from medjax import privacy
  from medjax.study import jobs
  from medjax.study.plan import Options

  privacy.allow(asked["show_examples"])
  if asked["config_file"]:
    schema.run_file(asked["config_file"])  # it may register tasks
  config = schema.from_dict(asked["config"])
  return jobs.Study(config, Options(**asked["options"]), pathlib.Path(asked["workdir"]), asked["allow"])


def _listen(lines: queue.SimpleQueue) -> None:
  for line in sys.stdin:
    lines.put(line)
  os._exit(1)


def _log_to(path: pathlib.Path) -> None:
  """Sends what is printed, by libraries in C too, to the end of a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  sys.stdout.flush()
  sys.stderr.flush()
  with open(path, "a", encoding="utf-8") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


if __name__ == "__main__":
  status = main()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
