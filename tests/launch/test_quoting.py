"""Any text of an argument reaches the command as it is, through every shell and manifest on the way."""

import os
import pathlib
import shlex
import subprocess
import tempfile

import command_line
import commands
import gke
import slurm
import tpu_vm
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

# Every character that can be in an argument at all.
WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), max_size=4)
NASTY = [
  "",
  "'",
  '"',
  "$(touch x)",
  "`y`",
  "\\",
  "\n",
  "!!",
  "*",
  "~",
  "a  b",
  "$$(A)",
  "--",
  "END",
  "%j",
  "{x}",
  "é\u2028",
  "\x85",
]


def hard(test):
  return settings(max_examples=40, deadline=None)(example(NASTY)(given(words=WORDS)(test)))


def printed(command: list[str], folder: str, programs: dict[str, str] | None = None) -> list[str]:
  """Runs a command whose stand-ins print their arguments, each ended by a NUL; returns what they print."""
  for name, text in (programs or {}).items():
    path = pathlib.Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
  environment = {"PATH": os.pathsep.join([folder, os.environ["PATH"]]), "SLURM_JOB_ID": "1"}
  done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, timeout=300)
  return done.stdout.decode().split("\0")[:-1]


PRINT = "#!/bin/bash\nfor word; do printf '%s\\0' \"$word\"; done\n"


def flags_of(launcher, *words):
  return command_line.parse(launcher, [*words, "--", "train"]).flags


@hard
def test_through_gcloud_and_ssh(words):
  pod = tpu_vm.Pod(flags_of(tpu_vm.LAUNCHER, "run", "--name=a", "--zone=z"), commands.Runner())
  argv = pod.on_workers(tpu_vm.worker_command("start", *words))
  line = next(word for word in argv if word.startswith("--command=")).partition("=")[2]
  with tempfile.TemporaryDirectory() as folder:
    assert printed(["bash", "-c", line], folder, {tpu_vm._WORKER: PRINT}) == ["start", *words]


@hard
def test_through_a_batch_script(words):
  text = slurm.script(flags_of(slurm.LAUNCHER, "script", "--name=a", "--python=python"), words)
  with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "job.sh").write_text(text, encoding="utf-8")
    found = printed(["bash", "job.sh"], folder, {"srun": PRINT})
  assert found[found.index("python") :] == ["python", "-m", "medjax", *words]


def expanded(text: str) -> str:
  """What Kubernetes makes of a word of a command in which no variable is defined: $$ is a dollar, $(NAME) stays."""
  found, at = [], 0
  while at < len(text):
    if text.startswith("$$", at):
      found.append("$")
      at += 2
    else:
      assert not text.startswith("$(", at), "a reference to a variable"
      found.append(text[at])
      at += 1
  return "".join(found)


@hard
def test_through_a_manifest(words):
  given_flags = flags_of(gke.LAUNCHER, "manifest", "--name=a", "--image=i", "--topology=v6e:4x4")
  read = yaml.safe_load(gke.dump(gke.manifest(given_flags, words, "")))
  container = read["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
  assert [expanded(word) for word in container["command"]] == ["python", "-m", "medjax", *words]


@hard
def test_through_what_a_dry_run_prints(words):
  with tempfile.TemporaryDirectory() as folder:
    line = commands.display(["show", *words])
    assert printed(["bash", "-c", line], folder, {"show": PRINT}) == words


@settings(max_examples=40, deadline=None)
@example("END\nEND_\n$A `b`")
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1))
def test_what_a_dry_run_shows_of_stdin(text):
  done = subprocess.run(
    ["bash", "-c", commands.display(["cat"], text)], stdout=subprocess.PIPE, check=True, timeout=300
  )
  assert done.stdout.decode().removesuffix("\n") == text.removesuffix("\n")


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
def test_through_the_file_of_variables_on_a_worker(value):
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "env")
    tpu_vm.write_secrets({"TOKEN": value}, path)
    shown = subprocess.run(
      ["bash", "-c", f"source {shlex.quote(str(path))}; printf '%s\\0' \"$TOKEN\""], stdout=subprocess.PIPE, check=True
    )
  assert shown.stdout.decode() == f"{value}\0"
