# From a fresh clone: `make demo` shows it, `make test` proves it. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test bench chaos lint docs fuzz matrix

help:  ## What there is to do
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Install the project and its development tools into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed; try: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,opentelemetry]' --group dev --group docs
	@touch $@

demo: $(INSTALLED)  ## Start the shop, send traffic, check every hop (ARGS=--json, ARGS=--sabotage=no-filter)
	@$(RUN) -m examples.shop $(ARGS)

test: $(INSTALLED)  ## Run all tests, on whatever servers can be had (ARGS for pytest)
	@$(RUN) -m pytest $(ARGS)

bench: $(INSTALLED)  ## Measure figures as ratios in one run; build/bench.json (ARGS for names)
	@$(RUN) -m tests.bench $(ARGS)

chaos: $(INSTALLED)  ## Hand-over under kills, pauses and outages on real brokers; build/chaos.json (ARGS=--quick, --mutants, --kafka, --rabbitmq)
	@$(RUN) -m tests.chaos $(ARGS)

lint: $(INSTALLED)  ## Formatting, lint, types, import rules
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports --no-logo

docs: $(INSTALLED)  ## Build the site into build/docs/html; a warning is an error (ARGS for sphinx-build)
	@$(RUN) -m sphinx -n -W --keep-going -q -b html -c docs -d build/docs/doctrees $(ARGS) . build/docs/html
	@echo "Open build/docs/html/index.html"

fuzz: $(INSTALLED)  ## Look for headers that the codec gets wrong (ARGS=--runs=1000000)
	@$(RUN) -m tests.fuzz $(ARGS)

matrix: $(INSTALLED)  ## The built wheel with each extra, old and new versions, other Pythons (ARGS for nox)
	@$(RUN) -m nox -j 2 $(ARGS)
