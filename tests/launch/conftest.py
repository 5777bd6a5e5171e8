"""A stage on which launchers run with stand-ins for the programs that they call."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "launch"), str(HERE)]

from programs import NAMES, PLAIN  # noqa: E402

TOKEN = "hf_$ecret token'\"7"
SOON = ("--retry_seconds=0.05", "--timeout_seconds=20")


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
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

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


@pytest.fixture
def stage(tmp_path):
  found = tmp_path / "bin"
  found.mkdir()
  (tmp_path / "user").mkdir()
  recorded = {name: f'exec "{sys.executable}" -S -E "{HERE / "stand_in.py"}" {name} "$@"' for name in NAMES}
  for name, line in {**recorded, **PLAIN}.items():
    program = found / name
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
  started = []
  yield Stage(tmp_path, started)
  for process in started:
    process.kill()
    process.communicate()
  for session in tmp_path.glob("worker*/medjax/run/session"):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(session.read_text()), signal.SIGKILL)
