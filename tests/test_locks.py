"""requirements/ pins all that setup.py asks for, with hashes, and the files that install from it name files it has."""

import pathlib
import re
import runpy

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
LOCKS = ROOT / "requirements"
ENTRY = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.+]+) \\(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+")
PYTHONS = {"3.11": ("test", "tpu", "cuda12", "cuda13", "reference"), "3.13": ("test", "tpu", "cuda12", "cuda13")}


def pins(name):
  """{package: version} of a file that holds pins with hashes and nothing else."""
  text = (LOCKS / f"{name}.txt").read_text()
  entries = list(ENTRY.finditer(text))
  assert not re.sub(r"#.*", "", ENTRY.sub("", text)).strip(), f"{name}.txt holds more than pins with hashes"
  return {canonicalize_name(entry["name"]): entry["version"] for entry in entries}


@pytest.fixture(scope="module")
def asked():
  """The requirements of setup.py by extra, "" for those without."""
  given = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, "setup", lambda **words: given.update(words))
    runpy.run_path(str(ROOT / "setup.py"))
  return {"": given["install_requires"], **given["extras_require"]}


def locked(python, extra):
  found = pins(f"python{python}") | (pins(f"python{python}-{extra}") if extra else {})
  return found | (pins(f"python{python}-torch-cuda") if extra == "reference" else {})


@pytest.mark.parametrize(
  ("python", "extra"), [(python, extra) for python in PYTHONS for extra in ("", *PYTHONS[python])]
)
def test_each_requirement_is_locked_within_its_floor(asked, python, extra):
  found = locked(python, extra)
  for requirement in map(Requirement, asked[extra]):
    assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), (python, str(requirement))


def test_python_3_11_tries_the_floors(asked):
  for extra in ("", *PYTHONS["3.11"]):
    found = locked("3.11", extra)
    for requirement in map(Requirement, asked[extra]):
      (floor,) = requirement.specifier
      assert floor.operator == ">=" and found[canonicalize_name(requirement.name)] == floor.version, str(requirement)


def test_files_that_are_installed_together_agree():
  for python, extras in PYTHONS.items():
    chosen = pins(f"python{python}") | pins("build")
    for extra in (name for name in extras if not name.startswith("cuda")):
      for package, version in locked(python, extra).items():
        assert chosen.setdefault(package, version) == version, (python, extra, package)


def test_both_builds_of_torch_are_one_release():
  assert pins("python3.11-torch-cpu") == {"torch": pins("python3.11-torch-cuda")["torch"] + "+cpu"}


@pytest.mark.parametrize("path", ["launch/Dockerfile", "launch/worker.sh", "README.md"])
def test_what_installs_names_files_that_are_there(path):
  text = (ROOT / path).read_text().replace("$EXTRA", "tpu")
  named = re.findall(r"(?:requirements|\$locks)/([\w.-]+\.txt)", text)
  assert named and [name for name in named if not (LOCKS / name).exists()] == []


def test_make_and_ci_install_from_the_locks():
  assert "bash tools/install.sh $(BIN)/python $(EXTRAS)" in (ROOT / "Makefile").read_text()
  script = (ROOT / ".ci/run").read_text()
  assert "make .venv313/.ready-test" in script and "make test" in script and "pip install" not in script
