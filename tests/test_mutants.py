"""The list of planted faults fits the code: each old text is there once, the fault compiles, and its tests exist."""

import pathlib
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "mutants.py"))
MUTANTS = TOOL["listed"]()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant['file']} {mutant['name']}" for mutant in MUTANTS])
def test_a_fault_can_be_planted(mutant):
  assert mutant["old"] != mutant["new"]
  compile(TOOL["planted"](mutant), mutant["file"], "exec")
  assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant["tests"])


def test_a_fault_whose_place_is_gone_is_refused():
  with pytest.raises(ValueError, match="the old text of 'x' is there 0 times"):
    TOOL["planted"]({"name": "x", "file": "medjax/privacy.py", "old": "no such text", "new": ""})


def test_there_are_faults_enough_in_every_file_that_must_not_be_wrong():
  files = [mutant["file"] for mutant in MUTANTS]
  assert len(files) >= 40 and all(files.count(file) >= 4 for file in set(files)) and len(set(files)) == 8
