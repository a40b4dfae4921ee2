# `make` lists the commands. Windows without make: see environment.yml.

PYTHON ?= python3
LAB_ARGS ?=

VENV := $(or $(COURSE_VENV),.venv)
PY := "$(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)/python"
SETUP := $(PYTHON) course_lib/publish/environment.py
CI := $(PY) -m course_lib.publish.ci
# Jupyter refuses to run as root unless told; told only then.
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help lab test lint unit notebooks slides bench clean environment

help: ## Show this list
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12 chooses the Python, COURSE_VENV=folder another place than .venv,"
	@echo "  LAB_ARGS=\"--no-browser --port 9000\" goes to JupyterLab."

lab: environment ## Open the course in JupyterLab (sets up .venv the first time)
	$(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 $(ROOT) $(LAB_ARGS) notebooks/00_start_here.ipynb

test: environment ## Run all that CI runs
	@$(CI)

lint: environment ## Check the style of code and notebooks
	@$(CI) ruff format notebook-lint

unit: environment ## Run the library's tests
	@$(CI) unit

notebooks: environment ## Run every notebook from a fresh kernel and store its outputs
	$(PY) -m course_lib.publish.notebooks notebooks
	$(PY) -m course_lib.publish.readme

slides: environment ## Build one self-contained HTML file a chapter in build/slides, and a PDF
	$(PY) -m course_lib.publish.slides --pdf

bench: ## Measure the library's speed against diffusers
	@$(SETUP) --extra bench
	$(PY) -m pytest -o addopts= -o filterwarnings= tests/benchmarks

environment: ## Make .venv hold the tested set (the others do this first)
	@$(SETUP)

clean: ## Delete what was built; .venv stays
	rm -rf build .pytest_cache .ruff_cache .hypothesis .benchmarks *.egg-info
	find course_lib tests -name __pycache__ -prune -exec rm -rf {} +
