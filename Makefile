# The two commands of the README are `make demo` and `make test`; each makes .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRL := 1.16.0
TRL_PPO := 1.12.0
DEMO_OUTPUT ?= runs/demo

.PHONY: demo test bench bench-class killrate lessons lint pocket data clean

demo: $(VENV)/.installed
	$(BIN)/rlhf demo --output $(DEMO_OUTPUT)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/bench_ppo.py

bench-class: $(VENV)/.installed-test
	$(BIN)/python benchmarks/bench_class.py

killrate: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m autograder.killrate

lessons: $(VENV)/.installed-test
	$(BIN)/python -m course.build

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pocket: $(VENV)/.installed
	$(BIN)/python -m rlhf_core.pocket
	$(BIN)/python -m rlhf_core.reader

data: $(VENV)/.installed
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest build vaderSentiment==3.3.2
	$(BIN)/python -m rlhf_core.data.build build/vaderSentiment-3.3.2.tar.gz

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time this takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# TRL is only compared with: two releases cannot live in one environment, so the older one lies beside the other packages
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps trl==$(TRL)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/trl-1.12 trl==$(TRL_PPO)
	@touch $@
