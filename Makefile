# Two commands for a newcomer: `make demo`, `make test`. Everything else is `miss --help`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check install lock clean

demo: install  ## the whole graph on the embedded catalogue, from nothing to a promoted champion
	$(BIN)/miss demo

test: install  ## the whole suite
	$(BIN)/python -m pytest

check: install  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -m pip check
	@touch $(STAMP)

lock: install  ## pin what is installed now (after changing pyproject.toml and installing by hand)
	@echo "# Every package of the environment, pinned; made with 'make lock'. torch 2.13.0 is the version tested." > requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | sort -f >> requirements.lock

clean:
	rm -rf $(VENV) .miss
