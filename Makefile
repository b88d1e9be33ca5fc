# Everything runs in .venv, made on first use; PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
STORE := runs/store
FUZZ_SECONDS ?= 3600

.PHONY: quickstart test slow wheel lint docs lowest browser audit fuzz soak bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart  install, then a whole study of handwritten digits: $(STORE)/studies/digits/report.html"
	@echo "make test        install the test extra, then run the tests"
	@echo "make slow        all tests: also those of minutes, and those that need PyTorch (installs it)"
	@echo "make wheel       build the wheel and try it in an empty environment"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation site: runs/site/index.html; warnings are errors"
	@echo "make lowest      the tests, with the lowest versions that pyproject.toml allows, in .venv-lowest"
	@echo "make browser     the tests that look at reports in a browser"
	@echo "make audit       known vulnerabilities of what is installed"
	@echo "make fuzz        damaged and hostile files, configs and answers for FUZZ_SECONDS (an hour)"
	@echo "make soak        half an hour of killed processes, full disks and flipped bytes"
	@echo "make bench       every benchmark, into benchmarks/results (installs PyTorch; hours; again: it goes on)"

# One stamp per extra: pip is asked again only when pyproject.toml changed.
.venv/.installed-%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing transferjax[$*] into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

quickstart: .venv/.installed-study
	$(BIN)/transferjax quickstart --store=$(STORE)

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/.installed-test .venv/.installed-torch
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"

# Built, installed into an empty environment, and tried outside of the checkout.
wheel:
	rm -rf build/wheel && mkdir -p build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) tests/try_wheel.py build/wheel/*.whl

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# What was deprecated since then, old versions of others still use.
lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints/lowest.txt --editable '.[test]'
	.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning

browser: .venv/.installed-test
	$(BIN)/python -m pytest tests/report/test_page_in_a_browser.py

# Strict: what could not be looked up is not said to be without vulnerabilities.
audit: .venv/.installed-audit
	mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable > build/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement build/installed.txt

fuzz: .venv/.installed-test
	$(BIN)/python -m tests.fuzz --seconds=$(FUZZ_SECONDS) --out=runs/fuzz

soak: .venv/.installed-test
	$(BIN)/python -m tests.soak

docs: .venv/.installed-docs
	@echo "building the site: five minutes, most of them for the pictures of each attack ..."
	JAX_PLATFORMS=cpu $(BIN)/python -m mkdocs build

# In an environment of its own: torchattacks asks for a requests of 2021, and that for an urllib3 below 2.
bench:
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	for file in $$(grep -l harness.parser benchmarks/*.py); do PYTHONPATH=. .venv-bench/bin/python $$file --resume || exit 1; done
	.venv-bench/bin/python benchmarks/page.py

clean:
	rm -rf .venv runs build *.egg-info
