# Two commands for a newcomer: `make demo`, `make test`. Everything else is `miss --help`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ABLATION := $(BIN)/python -m benchmarks.ablation $(if $(DATA),--data "$(DATA)")

.PHONY: demo test check quality bench install lock clean

demo: install  ## the whole graph on the embedded catalogue, from nothing to a promoted champion
	$(BIN)/miss demo

test: install  ## the whole suite, a file of tests on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --durations 30

check: install  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quality: install  ## all of benchmarks/results/quality.json and the README's tables; what is made already is found again
	$(ABLATION) --dataset movielens-1m --seeds 0,1,2 --other-seeds 0 --cells default
	$(ABLATION) --dataset movielens-1m --cells star --no-baselines --options \
	  '{"scorer": {"d": 64, "heads": 2, "layers": 2, "window": 100, "dropout": 0.2}, "dense": {"epochs": 10}, "lifelong": {"epochs": 2}}'
	$(ABLATION) --dataset amazon-beauty --dataset amazon-sports --dataset amazon-toys --cells default

bench: install  ## speed against peers: prints the tables, writes benchmarks/results/; each alone with python -m benchmarks.NAME
	for each in imports tree embedding logs training beam serving search scale performance; do $(BIN)/python -m benchmarks.$$each || exit 1; done

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
