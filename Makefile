# Each target sets up what it needs; a second call does no work that the first did.
PYTHON ?= python3
VENV ?= .venv
# The extras of setup.py that tests use: jax[tpu] compiles for TPUs that are not here, torch and others are compared with.
EXTRAS ?= test tpu reference
TASK ?=
SIZE ?= quick
WORKDIR ?= runs/demo
PYTEST_FLAGS ?= -q -n 2 --dist worksteal
BIN := $(VENV)/bin
LOCKS := $(wildcard requirements/*.txt)

.PHONY: help setup test soak lint format demo lock sbom same-installs clean
help:
	@echo "make test               install into $(VENV) and run the test suite"
	@echo "make soak               the suite's long form, many kills, 100,000 damaged inputs"
	@echo "make lint | format      check or repair style"
	@echo "make demo               base, SFT and DPO on five tasks with the embedded model; report in $(WORKDIR)"
	@echo "  TASK=triage             one task only"
	@echo "  SIZE=full               more rows, longer training and a sixth task"
	@echo "make lock               choose the packages' versions anew and write requirements/"
	@echo "make sbom               list what is installed in $(VENV) as sbom.json (CycloneDX)"
	@echo "make same-installs      install twice and compare every file"

setup: $(VENV)/.ready

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medjax needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: setup.py $(LOCKS) | $(BIN)/python
	bash tools/install.sh $(BIN)/python
	touch $@

$(VENV)/.ready-test: setup.py $(LOCKS) | $(BIN)/python
	bash tools/install.sh $(BIN)/python $(EXTRAS)
	touch $(VENV)/.ready $@

$(VENV)/chromium:
	bash tools/chromium.sh $@

test: $(VENV)/.ready-test $(VENV)/chromium
	MEDJAX_CHROMIUM=$${MEDJAX_CHROMIUM-$$(cat $(VENV)/chromium)} $(BIN)/python -m pytest $(PYTEST_FLAGS)

# The long forms of what the suite does briefly.
soak: $(VENV)/.ready-test
	MEDJAX_SOAK=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)
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

# The tools below have environments of their own, so that $(VENV) holds what medjax needs and no more.
$(VENV)-%/.ready: requirements/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q --no-deps --require-hashes -r $<
	touch $@

lock: $(VENV)-uv/.ready
	$(VENV)-uv/bin/python tools/lock.py

sbom: $(VENV)/.ready $(VENV)-sbom/.ready
	$(VENV)-sbom/bin/cyclonedx-py environment --output-reproducible --output-file sbom.json $(BIN)/python

same-installs:
	PYTHON=$(PYTHON) bash tools/same_installs.sh $(EXTRAS)

clean:
	rm -rf $(VENV) $(VENV)-uv $(VENV)-sbom build *.egg-info .pytest_cache .ruff_cache .hypothesis sbom.json
