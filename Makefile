# Every target works on a bare checkout: the environment is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# One worker a core, eight at most (each holds about 1 GB); `make test WORKERS=0` runs the tests in this process.
WORKERS ?= logical
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist loadfile

.PHONY: demo docs test test-all test-gpu lint install web

install: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(READY)

# Embed, index and search the photographs of examples/ with the bundled encoder; offline.
demo: $(READY)
	$(BIN)/python examples/demo.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu"

test-all: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu"

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

# The site, into site/; fails at a dead link or a public name without a docstring. Needs no network once installed.
$(VENV)/.installed-docs: pyproject.toml $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict --quiet

# The page of `clzoo explore`, from web/ into clzoo/explorer/web. The result is part of the repository: needed only after a
# change of web/. Needs Node.js and npm.
web:
	cd web && npm ci --silent --ignore-scripts && npm run --silent build
