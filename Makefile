# Two commands do everything on a fresh machine with Python 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.PHONY: help setup demo test test-slow check lock format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make .venv and install the locked packages

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; name one: make PYTHON=python3.12 setup" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: setup ## Everything end to end on generated clips: manifest, shards, training, samples, one page
	$(BIN)/uniform demo --out demo

# One thread per process: the tests run side by side, and no sum depends on the number of cores.
test: setup ## All tests (no network, no GPU)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

test-slow: setup ## Full-size networks and minutes of fuzzing
	$(BIN)/pytest -m slow

check: setup ## What CI and people run before a commit: format, lint, types, tests
	scripts/check

lock: setup ## Pin every dependency again, with hashes, for Python 3.11 to 3.13
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--extra dev pyproject.toml --output-file requirements.lock

format: setup ## Format the code and sort the imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the tools made (not .venv)
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
