# make demo   install and run the whole loop on the village; prints where the report is
# make test   install, lint, types, all tests
# make check  lint and types only, under a minute
# make proof  every acceptance measurement (3 hours, methods-village 11 more; python bench/proof.py PART does one); writes docs/results.md
# make bench  trimtab and its peers (TRL, transformers, in .venv-peers) on the same work; writes docs/performance.md
# Everything lives in .venv and runs/; each target may be called again and only does what is missing.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
OUT ?= runs/demo
SEED ?= 0

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check
BENCH ?=

.PHONY: demo test check proof bench clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/trimtab demo --out $(OUT) --seed $(SEED)
	@echo "report: $(abspath $(OUT))/report.html"

test: check
	$(BIN)/python -m pytest

check: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/mypy

proof: $(INSTALLED_DEV)
	$(BIN)/python bench/proof.py

bench: $(INSTALLED) $(PEERS)/.installed
	$(BIN)/python bench/speed.py $(BENCH)

# TRL 1.9 was the last with PPO: its package alone, beside 1.16, for that one measurement.
$(PEERS)/.installed: constraints.txt
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PEERS_PIP) install --quiet --constraint constraints.txt trl==1.16.0 transformers datasets tokenizers
	$(PEERS_PIP) install --quiet --upgrade --no-deps --target $(PEERS)/trl-1.9 trl==1.9.2
	@touch $@

clean:
	rm -rf .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one or set PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
