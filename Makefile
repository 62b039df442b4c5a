# Two commands: `make demo` shows what moesim does, `make test` checks it. Both need Python 3.11+ only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint clean

$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/moesim compare-policies scenarios/demo.yaml --policies ep,eplb,llep --out demo-out
	@echo "Plots, tables and a timeline for https://ui.perfetto.dev are in demo-out/; open demo-out/report.html"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
