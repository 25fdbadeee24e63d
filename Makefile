# make run | test | test-long | check | bench | bench-full | soak | fuzz | gpu | clean
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# TORCH=cpu installs the CPU-only torch (uv picks the index); anything else takes the registry's default build.
TORCH  ?= default
ARGS   ?=
ROWS   ?=
KILLS  ?= 200
INPUTS ?= 10000

.PHONY: run test test-long check bench bench-full soak fuzz gpu install clean
.DEFAULT_GOAL := run

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "advbench needs Python 3.11 or newer as '$(PYTHON)'; name another with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (torch is large: half a minute to a few minutes)"
	@if [ "$(TORCH)" = cpu ]; then \
	  $(BIN)/python -m pip install -q uv && \
	  $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --torch-backend=cpu -e '.[dev]'; \
	else \
	  { $(BIN)/python -m pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -e '.[dev]'; } || \
	  { echo "uv did not work here; installing with pip" >&2; $(BIN)/python -m pip install -q -e '.[dev]'; }; \
	fi
	@touch $(STAMP)

run: $(STAMP)
	@$(BIN)/advbench run $(ARGS)

# a file of tests stays in one process, for what its tests share
test: $(STAMP)
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-long: $(STAMP)
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile -m long $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/test_layers.py

# rows by name: make bench ROWS="fgsm-over-plain-loop scoring-over-forward"
bench: $(STAMP)
	@$(BIN)/python -m tests.bench $(ROWS)

bench-full: $(STAMP)
	@$(BIN)/python -m tests.bench --slow $(ROWS)

# worker processes killed at random moments: make soak KILLS=1000
soak: $(STAMP)
	@$(BIN)/python -m tests.tools.storm $(KILLS)

# commands over damaged and forged runs folders: make fuzz INPUTS=1000
fuzz: $(STAMP)
	@$(BIN)/python -m tests.tools.fuzz $(INPUTS)

# the device tests on a GPU, by both of its names
gpu: $(STAMP)
	@$(BIN)/python -m tests.tools.gpu

clean:
	rm -rf $(VENV) build *.egg-info
