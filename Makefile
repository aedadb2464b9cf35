# The two commands: `make boot-test` and `make test`. Each does its own set-up the first time.
# KERNEL and SERIES may be left out: the harness takes the first kernel whose source is to be had, and that kernel's series.
KERNEL ?=
SERIES ?=
ROUNDS ?= 20
CHOSEN := $(if $(KERNEL),--kernel $(KERNEL)) $(if $(SERIES),--series $(SERIES))
HARNESS := .venv/bin/harness

.DELETE_ON_ERROR:
.PHONY: help boot-test test unit coverage mutants soak compare lint bench report doctor clean

help:
	@echo 'make boot-test [SERIES=folder] [KERNEL=name]   build, boot, judge the bandwidth shares, write a report'
	@echo 'make test [KERNEL=name]    unit tests, and the guest suite on the kernel whose source is at hand'
	@echo 'make unit       unit tests only: no QEMU, seconds'
	@echo 'make coverage   the guest suite on a kernel that counts: which lines of the series ran?'
	@echo 'make mutants    put mistakes into the series, one at a time: does the guest suite notice each?'
	@echo 'make soak       the guest suite 20 times in a row (ROUNDS=20)'
	@echo 'make compare    the series beside the controllers that the kernel itself brings'
	@echo 'make bench      what the driver costs an I/O; how fast the harness is, and how steady what it measures'
	@echo 'make lint       ruff and strict mypy'
	@echo 'make doctor     what this machine has and lacks'
	@echo 'make clean      remove runs/ and .venv/ (the cache stays: harness cache --help)'

boot-test: .venv/ready
	@$(HARNESS) test $(CHOSEN) tests/guest/test_scenarios.py -m core

test: .venv/ready
	@$(HARNESS) test --workers 0 --at-hand $(CHOSEN) tests/unit tests/guest

unit: .venv/ready
	@.venv/bin/pytest tests/unit

compare: .venv/ready
	@$(HARNESS) compare $(CHOSEN)

bench: .venv/ready
	@$(HARNESS) bench $(CHOSEN)

coverage: .venv/ready
	@$(HARNESS) test --coverage --workers 0 $(CHOSEN) tests/guest

mutants: .venv/ready
	@$(HARNESS) mutants $(if $(KERNEL),--kernel $(KERNEL))

soak: .venv/ready
	@$(HARNESS) soak $(ROUNDS) $(CHOSEN)

lint: .venv/ready
	@.venv/bin/ruff check harness tests
	@.venv/bin/mypy

doctor: .venv/ready
	@$(HARNESS) doctor

clean:
	rm -rf runs .venv

.venv/ready: pyproject.toml ci/packages.txt ci/setup
	@ci/setup
