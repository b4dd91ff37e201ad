# What can be done here: `make help`. Everything installs what it needs into .venv first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check# says nothing but errors
READY := .venv/.ready
EXTRAS := pipeline,tracking,dev
CANDIDATES := python3.11 python3# the first that runs and is new enough makes .venv: make setup CANDIDATES=/path/to/python

define LOCK
import json, re, sys

packages = [package["metadata"] for package in json.load(sys.stdin)["install"]]
names = {re.sub("[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages}
print("# Every dependency of every extra, on Linux and Python 3.11; `make lock` writes this file.")
print("# No local versions: torch is the CPU build, or the CUDA build and the packages it pins itself, as the index offers.")
for name in sorted(names.keys() - {"apportion"}):
    print(f"{name}=={names[name].partition('+')[0]}")
endef
export LOCK

.PHONY: help setup demo test check compile lock clean

help: ## list what make can do (this list)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv; does nothing when nothing changed

demo: $(READY) ## credit the designers of OpenMoji: a whole round in work/, minutes on two cores
	@$(PY) -m pipelines run configs/openmoji.yaml --workdir work

test: $(READY) ## run the tests
	@$(PY) -m pytest --numprocesses 2 --dist loadfile

check: $(READY) ## lint, formatting, types, and which module may import which
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet
	@$(PY) -m mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo

compile: $(READY) ## write pipelines/compiled/*.yaml, what a cluster runs
	@$(PY) -m pipelines compile

lock: | $(PY) ## pin the newest allowed version of every dependency in constraints.txt (on Linux, Python 3.11)
	@echo "Resolving the dependencies of every extra: a minute or two."
	@$(PIP) --dry-run --ignore-installed --report .venv/lock.json --editable '.[$(EXTRAS),data]'
	@$(PY) -c "$$LOCK" < .venv/lock.json > .venv/lock.txt
	@mv .venv/lock.txt constraints.txt
	@echo "wrote constraints.txt: $$(grep -c == constraints.txt) packages"

clean: ## delete caches, never .venv/ or work/
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info src/*.egg-info
	@find . -path ./.venv -prune -o -path ./work -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(PY):
	@for found in $(CANDIDATES); do \
	  $$found -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && exec $$found -m venv .venv; \
	done; \
	echo "found no Python 3.11 or newer (tried: $(CANDIDATES)); install one, or name it: make setup CANDIDATES=/path/to/python" >&2; exit 1

$(READY): pyproject.toml constraints.txt | $(PY)
	@echo "Installing Apportion and what it needs into .venv: a few minutes, once."
	@$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
