# `make demo` and `make test` need nothing but Python 3.11 and make; both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test test-all lint format bench clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY) ## virtual environment with everything that the other targets need

$(READY): pyproject.toml constraints.txt bootstrap.sh
	@sh bootstrap.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(READY) ## plan, simulate and run the coding agent; leaves everything in out/demo
	@$(BIN)/heterarch demo --out out/demo

test: $(READY) lint ## lint, types, import rule and tests
	@$(BIN)/python -m pytest -m "not slow"

test-all: $(READY) lint ## the long tests too
	@$(BIN)/python -m pytest

lint: $(READY) ## ruff, mypy --strict, import rule
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo > .lint-imports.log || { cat .lint-imports.log; exit 1; }
	@echo "lint: ruff, mypy --strict and the import rule pass"

format: $(READY) ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## every benchmark; one JSON object each
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove what was built
	rm -rf $(VENV) out build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .lint-imports.log
