# VENV may be any folder; PYTHON any interpreter from 3.11 to 3.13.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# An environment is made again when what it was made from has changed.
STAMP := $(VENV)/.made-from-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

# `make gpu-check` installs nothing: it takes the environment that is there.
GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# Each may start a Ray cluster of its own. One more than two cores, because many tests wait.
TEST_PROCESSES ?= 3

.PHONY: demo test faults lint types check gpu-check clean

demo: $(STAMP)
	$(BIN)/python -m jobs.cli demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile \
		--no-loadscope-reorder --max-worker-restart 0

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

# Faults done to the real job, each kind ROUNDS times; KINDS chooses some of them.
ROUNDS ?= 3
SEED ?= 0
faults: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python -m faults --rounds $(ROUNDS) --seed $(SEED) $(KINDS)

# GPU tests and the benchmark on CUDA; ARGS go to the benchmark. The last line is its JSON.
gpu-check:
	@$(GPU_PYTHON) -m jobs.gpu_check $(ARGS)

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --editable ".[dev]"
	rm -f $(VENV)/.made-from-*
	touch $@

clean:
	rm -rf .venv demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
