"""A folder in which launchers run with stand-ins for the programs that they call."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# The programs that stand_in.py plays, some of them of a worker.
NAMES = (
  *("gcloud", "kubectl", "sbatch", "srun", "scancel", "scontrol", "squeue"),
  *("python3", "medjax-python", "gcsfuse"),
)
# Those that need not be recorded, as shell.
PLAIN = {"hostname": 'basename "$HOME"', "mountpoint": "exit 1", "sudo": "exit 0"}

TOKEN = "hf_$ecret token'\"7"
SOON = ("--retry_seconds=0.05", "--timeout_seconds=60")
LIMIT = 300  # seconds after which something hangs; a busy machine takes long


@dataclasses.dataclass(frozen=True)
class Stage:
  """A folder with stand-ins, what they are told, and what they recorded."""

  path: pathlib.Path
  started: list[subprocess.Popen]

  def cue(self, *cues: dict) -> None:
    (self.path / "cues.json").write_text(json.dumps(cues))

  def runs(self, *runs: dict) -> None:
    (self.path / "runs.json").write_text(json.dumps(runs))

  @property
  def environment(self) -> dict[str, str]:
    path = os.pathsep.join([str(self.path / "bin"), os.environ["PATH"]])
    return {
      **os.environ,
      "PATH": path,
      "STAGE": str(self.path),
      "PYTHONPATH": str(ROOT),
      "HOME": str(self.path / "user"),
    }

  def start(self, script: str, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch" / script), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    self.started.append(subprocess.Popen(command, env=self.environment, cwd=self.path, **pipes))
    return self.started[-1]

  def launch(self, script: str, *words: str) -> subprocess.CompletedProcess:
    process = self.start(script, *words)
    stdout, stderr = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

  def wait_for(self, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
      assert time.monotonic() < deadline
      time.sleep(0.05)

  def wait_for_runs(self, count: int) -> None:
    """Until so many workers run the command, and listen to signals."""
    path = self.path / "running.count"
    self.wait_for(lambda: path.exists() and path.stat().st_size >= count)

  def calls(self, *names: str) -> list[list[str]]:
    """The words of all calls, or of those of some programs."""
    return [call["argv"] for call in self.records() if not names or call["argv"][0] in names]

  def records(self) -> list[dict]:
    path = self.path / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def secrets(self) -> str:
    path = self.path / "secrets.env"
    path.touch(0o600)
    path.write_text(f"# tokens\nHF_TOKEN={TOKEN}\n")
    return f"--env_file={path}"
