# Everything runs in .venv, made on first use; PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
STORE := runs/store
FUZZ_SECONDS ?= 3600

.PHONY: quickstart test lint fuzz bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  install, then a whole study of handwritten digits: $(STORE)/studies/digits/report.html"
	@echo "make test        install the test extra, then run the tests"
	@echo "make lint        ruff and mypy"
	@echo "make fuzz        damaged and hostile files, configs and answers for FUZZ_SECONDS (an hour)"
	@echo "make bench       every benchmark, into benchmarks/results (installs PyTorch)"

# One stamp per extra: pip is asked again only when pyproject.toml changed.
.venv/.installed-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing transferjax[$*] into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

quickstart: .venv/.installed-base
	$(BIN)/python -m experiments.study --config=configs/digits.py --store=$(STORE)

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fuzz: .venv/.installed-test
	$(BIN)/python -m tests.fuzz --seconds=$(FUZZ_SECONDS) --out=runs/fuzz

bench: .venv/.installed-bench
	for file in $$(grep -l __main__ benchmarks/*.py | grep -v 'harness\|page'); do PYTHONPATH=. $(BIN)/python $$file || exit 1; done
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf .venv runs build *.egg-info
