# Two commands and nothing before them: `make run` does the main job, `make test` proves the parts.
# Needs Linux, Python 3.11 with its venv module, and a package index. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready

.PHONY: help run demo test check long bench lock clean

help:
	@echo "make run     crash the built-in server 20 times and judge what survived"
	@echo "make demo    the same on a server with a planted defect: a red run"
	@echo "make test    the test suite"
	@echo "make check   ruff and mypy"
	@echo "make long    tests that take minutes"
	@echo "make bench   measurements, as ratios"

run: $(READY)
	@$(BIN)/crashbed run $(ARGS)

demo: $(READY)
	@$(BIN)/crashbed demo $(ARGS)

test: $(DEV_READY)
	$(BIN)/python -m pytest -m "not long" -n 2 --dist worksteal $(ARGS)

long: $(DEV_READY)
	$(BIN)/python -m pytest -m long --timeout 1800 $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV_READY)
	$(BIN)/python -m tests.bench $(ARGS)

# The locks pin every version by hash and name no index.
lock: $(DEV_READY)
	$(BIN)/uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet -o requirements-dev.lock

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'crashbed needs Python 3.11 or later as "$(PYTHON)": install it, or run make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo 'crashbed needs the venv module of $(PYTHON): on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(READY): requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 
	@touch $@

$(DEV_READY): requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) for development (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(READY)

clean:
	rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
