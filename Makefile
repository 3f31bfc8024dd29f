# make demo   a real model teaches itself sums (README)
# make test   everything numerical, at most 20 minutes on two cores; what CI runs
# make check  format, lint, types and fast tests, at most 4 minutes
# make soak   hours: tests marked `soak`; results in experiments/bench/results/soak_*.json

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?= torch==2.13.0 # reference implementation in parity tests only
DEMO   ?=
RESULTS := experiments/bench/results
FAULTS := tests/run/test_checkpoint.py tests/run/test_bucket.py tests/recipes/test_faults.py \
          tests/recipes/test_run_folder.py

.PHONY: demo test check soak format clean

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[test,aot]'
	touch $@ $(VENV)/demo

demo: $(VENV)/demo
	$(BIN)/jaxevo demo $(DEMO)

test: $(VENV)/test
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n 2 --dist loadfile -m "not soak"

check: $(VENV)/test
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n 2 --dist loadfile -m "not soak and not slow and not smollm2"

soak: $(VENV)/test
	$(BIN)/pytest -m soak tests/kernels tests/models tests/sampling --record $(RESULTS)/soak_kernels.json
	$(BIN)/pytest -n 2 --dist worksteal -m soak tests/recipes --record $(RESULTS)/soak_recipes.json
	$(BIN)/pytest -m soak tests/run --record $(RESULTS)/soak_survival.json
	$(BIN)/pytest $(FAULTS) --record $(RESULTS)/soak_faults.json

format: $(VENV)/test
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
