# Two commands do all the set-up on a fresh machine with Python 3.11 or newer, pip and make:
#   make demo    the main job on real photographs with real weights
#   make test    the whole gate: lint, types, import contracts, tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test quick lint types imports format catalogs bench soak coverage clean

demo: $(VENV)/.demo
	$(BIN)/zoo demo

test: lint types imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not soak"

quick: lint types imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not soak"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The name indexes that ship with our providers; needed once for each library version that a release is tested with.
catalogs: $(VENV)/.test
	$(BIN)/python -m zoo.testing.catalogs timm torchvision hf pypi

bench: $(VENV)/.test
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/graphs.py
	$(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/bundles.py
	$(BIN)/python benchmarks/views.py

# For hours: bundles under thousands of kills, readers and writers, every power cut; whole lists of
# architectures of which the gate tries some.
soak: $(VENV)/.test
	$(BIN)/python benchmarks/faults.py --kills 2000
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m soak

# Every architecture of the three libraries, ours and the peers': hours; it goes on where it stopped.
coverage: $(VENV)/.bench
	$(BIN)/python benchmarks/coverage.py timm torchvision hf --jobs 2
	$(BIN)/python benchmarks/coverage.py timm hf --what peers --jobs 2
	$(BIN)/python benchmarks/coverage.py timm --what values --jobs 2

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@
