"""Plays the programs that launchers call: records each call, and fails, hangs or preempts on cue.

Run as NAME by a wrapper in the stage's `bin`; the stage is the folder $STAGE:

  calls.jsonl    an object a call: its words, and where it got the token that tests use as a secret
  cues.json      [{match, times, skip, ...}]: a call whose words contain `match` ends as the cue says, `times` times
                 after `skip` calls that went well: `hang`, `code` and `stderr`, or `preempt` (the TPU goes)
  runs.json      how the medjax command goes, an object for each start of a worker (the last for all further
                 starts): `exit`, after `seconds` or, with `term`, when SIGTERM comes
  state          of the TPU request; statuses.json: of the JobSet, one for each look
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

STAGE = pathlib.Path(os.environ["STAGE"])
WORKERS = 2


def main() -> int:
  name, words = sys.argv[1], sys.argv[2:]
  text = "" if sys.stdin.isatty() or name not in ("sbatch", "kubectl") else sys.stdin.read()
  with open(STAGE / "calls.jsonl", "a") as calls:
    calls.write(json.dumps({"argv": [name, *words], "token": os.environ.get("HF_TOKEN", ""), "home": home()}) + "\n")
  cue = next_cue(" ".join([name, *words]))
  if cue.get("hang"):
    time.sleep(600)
  if cue.get("preempt"):
    preempt()
  if cue:
    print(cue.get("stderr", "ERROR: it went wrong"), file=sys.stderr)
    return cue.get("code", 1)
  return PLAYED.get(name, lambda *_: 0)(words, text)


def home() -> str:
  return pathlib.Path(os.environ["HOME"]).name


def next_cue(called: str) -> dict:
  for number, cue in enumerate(read("cues.json", [])):
    if cue["match"] in called:
      seen = count(f"cue{number}")
      if cue.get("skip", 0) <= seen < cue.get("skip", 0) + cue.get("times", 1):
        return cue
  return {}


def count(name: str) -> int:
  """How often it was asked for this name before."""
  with open(STAGE / f"{name}.count", "a+") as counted:
    fcntl.flock(counted, fcntl.LOCK_EX)
    counted.seek(0)
    before = len(counted.read())
    counted.write(".")
  return before


def read(name: str, otherwise):
  return json.loads((STAGE / name).read_text()) if (STAGE / name).exists() else otherwise


def state() -> str:
  return (STAGE / "state").read_text() if (STAGE / "state").exists() else ""


def preempt() -> None:
  """The TPU is taken away, with the disks of its workers and what runs there."""
  (STAGE / "state").write_text("SUSPENDED")
  for number in range(WORKERS):
    session = STAGE / f"worker{number}/medjax/run/session"
    if session.exists():
      try:
        os.killpg(int(session.read_text()), signal.SIGKILL)
      except ProcessLookupError:
        pass
    shutil.rmtree(STAGE / f"worker{number}", ignore_errors=True)


def gcloud(words: list[str], _: str) -> int:
  group, verb = words[2:4]
  if group == "queued-resources":
    if verb == "create":
      (STAGE / "state").write_text("ACTIVE")
    elif not state():
      print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
      return 1
    elif verb == "describe":
      print(state())
    elif verb == "delete":
      preempt()
      (STAGE / "state").unlink()
    return 0
  if verb == "describe":
    print("READY" if state() == "ACTIVE" else "PREEMPTED")
    return 0
  if state() != "ACTIVE":
    print("ERROR: the TPU is not ready", file=sys.stderr)
    return 1
  codes = [on_worker(verb, words, STAGE / f"worker{number}") for number in range(WORKERS)]
  return next((code for code in codes if code), 0)


def on_worker(verb: str, words: list[str], directory: pathlib.Path) -> int:
  directory.mkdir(exist_ok=True)
  if verb == "scp":
    source, target = words[4:6]
    shutil.copy(source, directory / target.partition(":")[2])
    return 0
  command = next(word.partition("=")[2] for word in words if word.startswith("--command="))
  # gcloud hands the line to ssh in pieces, which ssh joins again; the login shell of the worker reads it.
  environment = {**os.environ, "HOME": str(directory)}
  environment.pop("HF_TOKEN", None)
  return subprocess.run(["bash", "-c", " ".join(command.split(" "))], cwd=directory, env=environment).returncode


def python3(words: list[str], _: str) -> int:
  """A worker's own Python, of which uv makes another that has medjax."""
  if words[1:3] == ["uv", "venv"]:
    made = pathlib.Path(words[-1], "bin/python")
    made.parent.mkdir(parents=True)
    shutil.copy(STAGE / "bin/medjax-python", made)
  return 0


def medjax(words: list[str], _: str) -> int:
  """The command that was launched."""
  runs = read("runs.json", [{"exit": 0}])
  run = runs[min(count(f"run-{home()}"), len(runs) - 1)]
  ended = []
  signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
  count("running")
  print("training", flush=True)
  deadline = time.monotonic() + (600 if run.get("term") else run.get("seconds", 0))
  while not ended and time.monotonic() < deadline:
    time.sleep(0.02)
  return run["exit"]


def srun(words: list[str], _: str) -> int:
  command = words[next(index for index, word in enumerate(words) if not word.startswith("--")) :]
  process = subprocess.Popen(command)
  (STAGE / "step").write_text(str(process.pid))
  return process.wait()


def scancel(words: list[str], _: str) -> int:
  if "--signal=TERM" in words and (STAGE / "step").exists():
    os.kill(int((STAGE / "step").read_text()), signal.SIGTERM)
  return 0


def sbatch(_: list[str], text: str) -> int:
  (STAGE / "job.sh").write_text(text)
  print("123;cluster")
  return 0


def squeue(_: list[str], __: str) -> int:
  print((STAGE / "queue").read_text() if (STAGE / "queue").exists() else "", end="")
  return 0


def kubectl(words: list[str], text: str) -> int:
  if "apply" in words:
    kind = "secret" if "kind: Secret" in text else "jobset"
    (STAGE / f"{kind}.yaml").write_text(text)
  if "delete" in words:
    (STAGE / f"{words[words.index('delete') + 1]}.yaml").unlink(missing_ok=True)
  if "get" in words and (STAGE / "jobset.yaml").exists():
    statuses = read("statuses.json", [{}])
    print(json.dumps({"status": statuses[min(count("status"), len(statuses) - 1)]}))
  return 0


PLAYED = {
  "gcloud": gcloud,
  "python3": python3,
  "medjax-python": medjax,
  "srun": srun,
  "scancel": scancel,
  "sbatch": sbatch,
  "squeue": squeue,
  "kubectl": kubectl,
}

if __name__ == "__main__":
  sys.exit(main())
