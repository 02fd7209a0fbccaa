# `make demo` and `make test` do everything on a machine that has Python 3.11 or newer and make.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Ray starts many processes; let Python keep its compiled modules.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
UV_VERSION := 0.13.9
SWIFT_VERSION := 2.38.3
GCS_VERSION := 2026.7.19
MLFLOW_VERSION := 3.17.2
BIN := .venv/bin
ARGS ?=

# The locks are complete, so nothing is resolved. A .venv that CPU=1 made stays one.
INSTALL := VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps
CPU ?= $(if $(wildcard .venv/.installed-cpu),1)
LOCK := requirements$(if $(CPU),-cpu).lock
STAMP := .venv/.installed$(if $(CPU),-cpu)

# Tests that share a cluster run one after another, beside all others (tests/conftest.py says in how many processes).
PYTEST := $(BIN)/pytest -n auto

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

install: $(STAMP)  ## make .venv with what running needs: requirements.lock; CPU=1: without CUDA's libraries

setup: $(STAMP)-dev  ## the same, and what developing needs: requirements-dev.lock

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gan-dist needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -z "$(CPU)" -o ! -e .venv/.installed || { echo "this .venv has CUDA's libraries: make clean first"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing from $(LOCK)"
	@$(if $(CPU),$(INSTALL) --torch-backend cpu $$(grep -oE '^torch(vision)?==[0-9.]+' requirements.lock))
	@$(INSTALL) --require-hashes -r $(LOCK)
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(STAMP)-dev: $(STAMP) requirements-dev.lock
	@echo "installing from requirements-dev.lock"
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

demo: install  ## train on handwritten digits with Ray, two workers; the same command again continues
	@$(BIN)/gan-dist train digits $(ARGS)

test: setup  ## the whole test suite
	@$(PYTEST) $(ARGS)

soak: setup  ## what is tested at length: many kills, many drains, a conditional run (an hour)
	@$(BIN)/pytest -m soak --timeout 7200 $(ARGS)

swift: .venv-swift/.installed  ## OpenStack Swift, a second object store for tests, which are skipped without it

.venv-swift/.installed: tests/support/swift-requirements.txt
	@$(PYTHON) -m venv --clear .venv-swift
	@.venv-swift/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

AZURITE_VERSION := 3.35.0
clouds: .venv-clouds/.installed  ## emulators of Google's and Azure's stores for tests, which are skipped without them; needs npm

.venv-clouds/.installed: tests/support/clouds-requirements.txt
	@$(PYTHON) -m venv --clear .venv-clouds
	@.venv-clouds/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@npm install --silent --no-audit --no-fund --prefix .venv-clouds azurite@$(AZURITE_VERSION)
	@touch $@

mlflow: .venv-mlflow/.installed  ## MLflow's server, for tests of trackers, which are skipped without it

.venv-mlflow/.installed: tests/support/mlflow-requirements.txt
	@$(PYTHON) -m venv --clear .venv-mlflow
	@.venv-mlflow/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

SEED ?= $(shell date +%s)
chaos: setup  ## thousands of faults at random places, by a SEED; figures to benchmarks/chaos.md (four hours)
	@$(BIN)/pytest tests/chaos --chaos $(SEED) -m "" --timeout 7200 $(ARGS)

quick: setup  ## the tests that need no cluster and no patience
	@$(PYTEST) -m "not slow and not ray and not soak" $(ARGS)

floor: setup  ## the quick tests with the oldest versions that pyproject.toml allows
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-floor
	@$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --extra train pyproject.toml -o .venv-floor/floor.txt
	@VIRTUAL_ENV=.venv-floor $(BIN)/uv pip install --quiet --constraints .venv-floor/floor.txt --group dev -e ".[train]"
	@$(MAKE) --no-print-directory BIN=.venv-floor/bin quick

docs: setup  ## the documentation's site, to site/; a link or an anchor that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: setup docs  ## what CI runs: ruff, format, mypy strict, the site, all tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(PYTEST) $(ARGS)

# Versions are those of one resolution, which begins with the present ones. The second lock has what the first has not,
# and what the first wants on other machines only; the third has no torch, whose build for CPUs has other hashes.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
    --custom-compile-command "make lock"
NAMES := sed -E 's/[=[ ].*//'
lock: setup  ## renew requirements*.lock from pyproject.toml
	@cat requirements.lock requirements-dev.lock > .venv/all.lock
	@$(COMPILE) --extra train --group dev pyproject.toml -o .venv/all.lock
	@tee requirements.lock requirements-dev.lock requirements-cpu.lock < .venv/all.lock > /dev/null
	@$(COMPILE) --extra train --group build pyproject.toml -o requirements.lock
	@$(COMPILE) --extra train --group dev pyproject.toml -o requirements-dev.lock \
	    $$(comm -12 <(grep '^[a-z]' requirements.lock | sort) <(grep '^[a-z]' .venv/all.lock | sort) | $(NAMES) | sed 's/^/--no-emit-package /')
	@$(COMPILE) --extra train --group build pyproject.toml -o requirements-cpu.lock \
	    --excludes <(grep -E '^(cuda|nvidia|triton)' requirements.lock | $(NAMES)) --no-emit-package torch --no-emit-package torchvision
	@echo "swift==$(SWIFT_VERSION)" | $(COMPILE) --no-annotate - -o tests/support/swift-requirements.txt
	@echo "gcp-storage-emulator==$(GCS_VERSION)" | $(COMPILE) --no-annotate - -o tests/support/clouds-requirements.txt
	@echo "mlflow==$(MLFLOW_VERSION)" | $(COMPILE) --no-annotate - -o tests/support/mlflow-requirements.txt

clean:  ## remove .venv and caches, not runs/
	@rm -rf site .venv .venv-floor .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help install setup demo docs test swift mlflow clouds soak chaos quick floor check lock clean
