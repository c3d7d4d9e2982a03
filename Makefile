# make demo: set up and run the demo.   make test: set up, lint, type-check and test.   make docs: the API reference.
# make fuzz: broken files before everything that reads one.   make faults: blows at random moments (docs/reliability.md).
# make pins: after a change of dependencies.   make clean: forget the set-up and what was built.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test lint docs fuzz faults pins clean
demo: setup
	$(BIN)/pocketvit demo

test: setup lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# SEED= and INPUTS= (for each reader) choose another campaign, or a longer one.
SEED   ?= 0
INPUTS ?= 50000
fuzz: setup
	$(BIN)/python tests/campaigns/fuzz.py --seed $(SEED) --inputs $(INPUTS)

FAULTS ?= 200
faults: setup
	$(BIN)/python tests/campaigns/faults.py --seed $(SEED) --faults $(FAULTS)

# A page per module, from the docstrings: build/docs/index.html
docs: setup
	$(BIN)/python docs/reference.py

setup: $(STAMP)

# uv lives inside the environment; every wheel is checked against the hashes in requirements.txt.
# Bytecode is compiled once, as pip does: else where none may be written every command compiles torch and timm anew.
$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# After a change of dependencies. (A lock file would record download addresses; hashes alone are enough.)
pins: setup
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --extra dev pyproject.toml -o requirements.txt

clean:
	rm -rf $(VENV) build
