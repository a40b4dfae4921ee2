# `make` lists the commands. Windows without make: see environment.yml.

PYTHON ?= python3
NB ?=
N ?=
SEED ?=
LAB_ARGS ?=
DEVICE ?= cuda
MINUTES ?= 9
STAGES ?=
GPU_ARGS ?=

VENV := $(or $(COURSE_VENV),.venv)
PY := "$(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)/python"
CI := $(PY) -m tools.ci
# Jupyter refuses to run as root unless told; told only then.
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
# A Python that was asked for by name must be the one inside; python3 by default may change its meaning.
ASKED := $(if $(filter file,$(origin PYTHON)),,$(PYTHON))
# Opened from the root, so that assets and the library can be looked at, too. The copies in MINE belong to who works in
# them: they are made once, without the notes for the lecturer, and the notebooks themselves stay as they are.
MINE := mine
# Its settings: no question whether news may be fetched.
LAB = $(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	--LabApp.app_settings_dir="$(CURDIR)/tools/lab_settings" --LabApp.default_url=/lab/tree
FIRST := notebooks/00_start_here.ipynb
SETUP := sh tools/environment.sh
EMPTY :=
READY := $(subst $(EMPTY) ,\ ,$(VENV)/.ready)

.DEFAULT_GOAL := help
.PHONY: help lab edit test lint unit matrix oldest mutants notebooks slides site bench gpu reproduce environment clean

help: ## Show this list
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12 chooses the Python, COURSE_VENV=folder another place than .venv,"
	@echo "  NB=06_d3pm one notebook, LAB_ARGS=\"--no-browser --port 9000\" goes to JupyterLab."

lab: environment ## Open the course in JupyterLab, in copies of your own in mine/ (sets up .venv the first time)
	$(PY) -m tools.copies student --out "$(MINE)" --keep
	$(LAB)/$(MINE)/$(notdir $(FIRST)) $(ROOT) $(LAB_ARGS)

edit: environment ## Open the notebooks themselves, for authors
	$(LAB)/$(FIRST) $(ROOT) $(LAB_ARGS)

test: environment $(READY)-site ## Run all that CI runs
	@$(CI)

lint: environment ## Check the style of code and notebooks
	@$(CI) ruff format notebook-lint outputs density reference

unit: environment ## Run the library's tests
	@$(CI) unit

matrix: ## Lint and unit tests on every Python from 3.11 to 3.13 found here
	@sh tools/matrix.sh

oldest: ## Unit tests with the oldest versions that pyproject.toml allows
	@sh tools/matrix.sh oldest

mutants: environment ## Plant random bugs in the library and see whether the tests notice, or N=10, SEED=1
	$(PY) -m tools.mutants $(N) $(SEED:%=--seed %)

notebooks: environment ## Run the notebooks that changed, or NB=06_d3pm, and store their outputs
	$(PY) -m tools.notebooks $(NB:%=notebooks/%.ipynb)
	$(PY) -m tools.readme
	$(PY) -m tools.reference

slides: environment ## Build one self-contained HTML file a chapter in build/slides, and a PDF
	$(PY) -m tools.slides --pdf

site: slides $(READY)-site ## Build decks and the course as a web site in build/site/html, and look at it in Chromium
	$(PY) -m tools.site --check

bench: environment $(READY)-bench ## Measure the library's speed and memory against others'
	$(PY) -m tools.bench

gpu: ## All that wants a GPU, with the Python that is there: MINUTES=9 for the recipes, DEVICE=cuda, STAGES="tests mfu"
	$(PYTHON) -m tools.gpu $(STAGES) --device $(DEVICE) --minutes $(MINUTES) $(GPU_ARGS)

reproduce: environment ## Every result that is shown, the command that makes it, and how long that took
	@$(PY) -m tools.reproduce

environment: $(READY) ## Make .venv hold the tested set (the others do this first)
	@$(SETUP) check "$(VENV)" "$(ASKED)" || $(MAKE) --no-print-directory "$(READY)"

# The stamp comes last: what was interrupted has none, and starts afresh.
$(READY): pyproject.toml constraints.txt
	@$(SETUP) install "$(VENV)" "$(PYTHON)"

$(READY)-bench: $(READY)
	@$(SETUP) add "$(VENV)" bench

$(READY)-site: $(READY)
	@$(SETUP) add "$(VENV)" site

clean: ## Delete what was built; .venv stays
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find course_lib tools tests -name __pycache__ -prune -exec rm -rf {} +
