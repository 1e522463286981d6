# `make demo` and `make test` need Python 3.11 or newer and make, nothing else.
# PYTHON=/path/to/python chooses another interpreter; ARGS="-k words" is passed on to pytest.

VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --disable-pip-version-check
PYTHON ?=
ARGS ?=

.PHONY: demo test coverage lint format bench clean

demo: $(VENV)/demo.stamp
	$(BIN)/chiasma evolve --budget 3m

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# Apart from the tests, which it makes slower by half; fails below [tool.coverage.report] fail_under.
coverage: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/demo.stamp: pyproject.toml constraints.txt $(VENV)/made.stamp
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e .
	@touch $@

# The tests' environment contains the demo's.
$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/made.stamp
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/demo.stamp $@

# ensurepip is asked for because Debian's python3 comes without it, and a virtual environment needs it.
$(VENV)/made.stamp:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv --clear $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "Python 3.11 or newer with the venv module is needed, but none of python3.11, python3.12, python3.13, python3" >&2; \
	echo "and python on this machine is. Install it (Debian, Ubuntu: apt install python3-venv), or name it:" >&2; \
	echo "make PYTHON=/path/to/python" >&2; exit 1
