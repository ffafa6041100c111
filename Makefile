# `make demo` and `make test` set up what they need; the second time there is nothing to do.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: help setup demo test test-all test-clients check format bench lock prices clean
help:         ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10
setup:        ## all that development, tests and benchmarks need, in .venv
	@$(PYTHON) tools/setup.py test
demo:         ## see it work: sets up what the demo needs, and runs it
	@$(PYTHON) tools/setup.py run
	@$(BIN)/python -m aios demo
test: setup   ## all tests
	@$(BIN)/python -m pytest -n 2
test-all: setup  ## all tests, with the whole tables where `test` reads a part: +15 min
	@AIOS_TEST_ALL=1 $(BIN)/python -m pytest -n 2
test-clients: setup  ## every foreign client of the README at a real kernel: +2 GB of downloads
	@$(PYTHON) tools/clients.py all
	@AIOS_TEST_CLIENTS=1 $(BIN)/python -m pytest -n 2 tests/clients
check: setup  ## style, types, layers, reference pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/reference.py --check
format: setup ## give all files their form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
bench: setup  ## each benchmark, in its quick form
	@$(BIN)/python -m benchmarks --quick
lock:         ## resolve the dependencies anew (maintainers)
	@$(PYTHON) tools/lock.py
prices:       ## make the table of prices anew (maintainers)
	@$(PYTHON) tools/prices.py
clean:        ## back to the fresh checkout
	rm -rf .venv .clients .setup.log .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
