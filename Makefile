# Everything below first makes sure that .venv is complete, which takes no time when it is.
# Nothing here deletes tables, runs or models.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
CONFIG ?= config/sample.yaml
# embedded, spark or connect; without it the configuration's, and the set-up is the one without Java.
ENGINE ?=
VENV_PYTHON := .venv/bin/python
PYTEST := $(VENV_PYTHON) -m pytest --durations=10
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
QUICK := not spark and not integration and not real

export CONFIG ORDERS ENGINE

engine_environment = if [ -n "$$ENGINE" ]; then export MEDALLION_ENGINE="$$ENGINE"; fi

# A path given on the command line is meant from here, while Dagster's processes may run elsewhere.
define project_environment
absolute() { case "$$1" in /*) printf '%s' "$$1" ;; *) printf '%s/%s' "$$PWD" "$$1" ;; esac; }; \
export MEDALLION_CONFIG="$$(absolute "$$CONFIG")"; \
if [ -n "$$ORDERS" ]; then export MEDALLION_ORDERS="$$(absolute "$$ORDERS")"; fi; \
$(engine_environment)
endef

.PHONY: help setup run ui accuracy notebooks bundle test test-quick test-real parity faults bench lint

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup:  ## .venv with the pinned packages; ENGINE=spark: also Delta's jars, which need Java
	@command -v "$(PYTHON)" >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not on PATH." >&2; exit 1; }
	@$(engine_environment); "$(PYTHON)" scripts/setup_env.py

run: setup  ## orders to forecast: CONFIG=file.yaml ORDERS=folder ENGINE=embedded|spark|connect
	@$(project_environment); .venv/bin/medallion run

ui: setup  ## Dagster's web interface and daemon: CONFIG=file.yaml
	@$(project_environment); .venv/bin/medallion ui

accuracy: setup  ## score held-out months: SET=series.parquet, or CONFIG= ORDERS= ORIGIN=yyyymm; HORIZON= [ROLLING=n] OUT=folder
	@$(project_environment); .venv/bin/medallion accuracy $(if $(SET),--set "$(SET)") $(if $(ORIGIN),--origin $(ORIGIN)) $(if $(ROLLING),--rolling $(ROLLING)) \
	  --horizon "$(HORIZON)" --out "$(OUT)" $(foreach model,$(MODELS),--model $(model))

# On a lakehouse of its own, which is removed afterwards.
notebooks: setup  ## run notebooks/ on a fresh sample and write the executed copies to docs/notebooks; minutes
	@$(VENV_PYTHON) -m scripts.notebooks

# Findings of the linters fail the target but do not hide what the tests say. Where CI is set, the lines that the quick tests run are
# counted, and too few fail it: [tool.coverage] in pyproject.toml. Counting in all tests would take half as long again.
test: setup  ## linters, types and tests; those of real data skip themselves without it; SLOW=1 adds the daemon, the notebooks and five kills
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	if [ -n "$$CI" ]; then \
	  $(PYTEST) $(PARALLEL) -m "$(QUICK)" --cov --cov-report=term:skip-covered || status=1; \
	  $(PYTEST) $(PARALLEL) -m "not ($(QUICK))" || status=1; \
	else $(PYTEST) $(PARALLEL) || status=1; fi; \
	exit $$status

test-quick: setup  ## tests that need no engine and no other process
	@$(PYTEST) $(PARALLEL) -m "$(QUICK)"

test-real: setup  ## tests on the shared data, with all parts, and a million lines of one part
	@REAL_PARTS=0 MANY_LINES=1000000 $(PYTEST) -m real

parity: setup  ## the same bits on every engine: all models, a cluster of two workers, Spark Connect; after make setup ENGINE=spark
	@PARITY=1 CI=1 $(PYTEST) tests/integration/test_parity.py

# Tests that take a fault each share its undisturbed lakehouse. Goes on where it stopped.
faults: setup  ## N kills of whole processes, then collisions and lost servers, disks and tables: N=60 OUT=folder
	@out="$$(realpath -m "$(or $(OUT),lakehouse/faults)")"; \
	$(VENV_PYTHON) -m tests.faults.kills $(or $(N),60) "$$out" && FAULTS="$$out" $(PYTEST) tests/integration/test_faults.py

bench: setup  ## engines, histories, numbers of parts and lines side by side, as ratios: OUT=folder; an hour, after make setup ENGINE=spark
	@out="$$(realpath -m "$(or $(OUT),lakehouse/bench)")"; \
	$(VENV_PYTHON) -m pip install --quiet --upgrade --target "$$out/packages" --constraint constraints.txt duckdb polars && \
	for what in sample months parts lines; do $(VENV_PYTHON) -m benchmarks.engines $$what --out "$$out" || exit 1; done

bundle: setup  ## build the Databricks bundle of both targets and check it, without a workspace
	@$(VENV_PYTHON) -W ignore -m bundle.check

lint: setup  ## ruff and mypy
	@status=0; \
	$(VENV_PYTHON) -m ruff check . || status=1; \
	$(VENV_PYTHON) -m ruff format --check . || status=1; \
	$(VENV_PYTHON) -m mypy || status=1; \
	exit $$status
