# Every target sets itself up: a virtual environment in $(VENV), then what the target needs in it.
#   make run ARGS="--config.n_per_class=5"      flags for the experiment (for `make test`: for pytest)
#   make test PYTHON=python3.13 VENV=.venv313   another interpreter, beside the first

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
SOURCES := jaxtl experiments tests
PAGES := $(SOURCES) README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md CITATION.cff LICENSE

# Transparent huge pages for malloc: 1.0 to 1.2 times the speed of a training step on CPU (glibc 2.35+; elsewhere no effect).
# It has to be set before Python starts.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help run smoke bench test test-all lint docs clean

help:
	@echo "make run       the main job: experiments/cifar_transfer.py"
	@echo "make smoke     the same on embedded digits, in less than a minute"
	@echo "make bench     timings: steps, choosing λ, tasks, clients, texts, trunks, starts, images, beside what people do today; ten minutes"
	@echo "               goes on where it was stopped; ARGS=--overwrite measures anew"
	@echo "make test      the tests; make test-all: the slow ones too, with PyTorch"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the pages as a site in build/site, links checked"
	@echo "make clean     remove what make has made; runs/ stays"

run: $(VENV)/installed
	$(BIN)/python -m experiments.cifar_transfer $(ARGS)

smoke: $(VENV)/installed
	$(BIN)/python -m experiments.cifar_transfer --smoke --overwrite $(ARGS)

bench: $(VENV)/installed
	$(BIN)/python -m experiments.benchmarks $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow" $(ARGS)

test-all: $(VENV)/installed-oracles
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

# mkdocs wants its pages below a directory of their own: links to them, so that none is there twice.
docs: $(VENV)/installed-docs
	rm -rf build/docs build/site && mkdir -p build/docs
	ln -s $(addprefix ../../,$(PAGES)) build/docs/
	$(BIN)/mkdocs build --strict

# What make has made, and nothing else: runs/ stays.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find jaxtl experiments tests -name __pycache__ -prune -exec rm -rf {} +

# Stamps: written only after an installation that succeeded, older than pyproject.toml when it has to be repeated.
$(VENV)/installed: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-oracles: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[test,oracles]"
	@touch $@ $(VENV)/installed $(VENV)/installed-test

$(VENV)/installed-docs: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@ $(VENV)/installed

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "jaxtl needs Python 3.11 or later, and $(PYTHON) is not: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
