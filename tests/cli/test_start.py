"""What a command imports before it needs it, and what libraries say on stderr: nothing."""

import json
import os
import re
import subprocess
import sys

import pytest
import tiny

HELPS = """
import contextlib, io, sys
from medjax.cli.main import VERBS, main
with contextlib.redirect_stdout(io.StringIO()):
  for argv in (["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)):
    assert main(argv) == 0, argv
print(*({"datasets", "flax", "jax", "matplotlib", "orbax", "pyarrow", "scipy", "sklearn", "torch", "transformers"}
        & sys.modules.keys()))
"""
VERBS = """
import json, sys
from medjax.cli.main import main
for argv in json.loads(sys.argv[1]):
  assert main(argv) == 0, argv
print("torch" in sys.modules)
"""
LOAD = """
import sys
import medjax
print(medjax.load(sys.argv[1]).generate([[3, 4, 5]], 2))
"""
OWN_LINES = re.compile(r"(attention: xla \(|train: 4 rows: 0 prompts cut|\s*$)")


def stderr_and_stdout(program, *words, without_torch=False, path=None):
  """Runs a program in a process of its own; with `without_torch` as where torch is not installed."""
  hidden = {"XLA_FLAGS": ""}  # programs of the embedded model take longer to run without optimizations than to compile
  if without_torch:
    (path / "site").mkdir()
    (path / "site" / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
    hidden |= {"PYTHONPATH": os.pathsep.join([str(path / "site"), os.environ.get("PYTHONPATH", "")])}
  command = [sys.executable, "-c", program, *words]
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | hidden, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stderr, done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  path = tmp_path_factory.mktemp("home")
  tiny.write_model(path / "model")
  rows = [json.dumps({"prompt": f"Sodium 12{at}?", "completion": "low"}) + "\n" for at in range(4)]
  (path / "rows.jsonl").write_text("".join(rows))
  (path / "prompts.jsonl").write_text(json.dumps({"prompt": "Fever?"}) + "\n")
  return path


def test_help_of_every_verb_imports_no_large_library():
  assert stderr_and_stdout(HELPS) == ("", "\n")


def test_verbs_say_their_own_lines_only_and_leave_torch_alone(home):
  """The embedded model: of a Hugging Face directory transformers itself imports torch where there is one."""
  generate = ["generate", f"--prompts={home / 'prompts.jsonl'}", "--max_new_tokens=2"]
  stderr, stdout = stderr_and_stdout(VERBS, json.dumps([["tasks"], ["models"], generate]))
  assert all(OWN_LINES.match(line) for line in stderr.splitlines()), stderr
  assert stdout.endswith("False\n")


def test_training_says_its_own_lines_only_where_torch_is_not_installed(home, tmp_path):
  settings = {
    "model.path": home / "model",
    "data.source": home / "rows.jsonl",
    "train.steps": 2,
    "train.batch_size": 4,
    "train.row_length": 96,
    "optimizer.warmup_steps": 0,
  }
  train = ["train", f"--workdir={tmp_path / 'run'}", *(f"--config.{key}={value}" for key, value in settings.items())]
  stderr, _ = stderr_and_stdout(VERBS, json.dumps([train]), without_torch=True, path=tmp_path)
  assert all(OWN_LINES.match(line) for line in stderr.splitlines()), stderr


@pytest.mark.parametrize("without_torch", [False, True])
def test_loading_a_model_from_python_prints_nothing(home, tmp_path, without_torch):
  stderr, stdout = stderr_and_stdout(LOAD, str(home / "model"), without_torch=without_torch, path=tmp_path)
  assert stderr == "" and len(json.loads(stdout)[0]) == 2
