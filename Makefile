# What can be done here: `make help`. Everything installs what it needs into .venv first.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check# prints only errors
READY := .venv/.ready
EXTRAS := pipeline,tracking,dev
CANDIDATES := python3.11 python3# the first that runs and is new enough makes .venv: make setup CANDIDATES=/path/to/python

# docs/containers.md explains these. An empty value means the base that the Dockerfile names, PyPI, no folder of wheels, or no certificate
# authorities beside those of the base.
ENGINE ?= $(shell command -v podman > /dev/null && echo podman || echo docker)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/apportion/__init__.py)
IMAGES ?= cpu gpu
IMAGE_CPU ?= apportion/cpu:$(VERSION)
IMAGE_GPU ?= apportion/gpu:$(VERSION)
BASE_IMAGE_CPU ?=
BASE_IMAGE_GPU ?=
PIP_CONF ?=
CA_BUNDLE ?=
WHEELS ?=
BUILD_OPTIONS ?=
SBOM ?= build/sbom
image-cpu sbom-cpu: IMAGE = $(IMAGE_CPU)
image-gpu sbom-gpu: IMAGE = $(IMAGE_GPU)
image-cpu: BASE = $(BASE_IMAGE_CPU)
image-gpu: BASE = $(BASE_IMAGE_GPU)
, := ,
BUILD = $(BASE:%=--build-arg BASE_IMAGE=%) $(if $(PIP_CONF),--secret 'id=pip.conf$(,)src=$(PIP_CONF)') \
  $(if $(CA_BUNDLE),--secret 'id=ca.crt$(,)src=$(CA_BUNDLE)') $(if $(WHEELS),--build-context 'wheels=$(WHEELS)') --build-arg VERSION=$(VERSION) \
  --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*' 2> /dev/null || echo unknown) \
  --build-arg CREATED=$$(git show --no-patch --format=%cI 2> /dev/null || echo unknown) $(BUILD_OPTIONS)

define LOCK
import json, re, sys

packages = [package["metadata"] for package in json.load(sys.stdin)["install"]]
names = {re.sub("[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages}
if not any(name.startswith("nvidia-") for name in names):
    sys.exit("found a build of torch without CUDA, expected PyPI's build, whose CUDA packages the GPU image contains: use an index that offers it")
print("# Every dependency of every extra, on Linux and Python 3.11; `make lock` writes this file.")
print("# No local versions: torch is the CPU build, or the CUDA build, whose own packages are here too.")
for name in sorted(names.keys() - {"apportion"}):
    print(f"{name}=={names[name].partition('+')[0]}")
endef
export LOCK

.PHONY: help setup demo test test-slow check policies services generate compile chart images image-cpu image-gpu sbom sbom-cpu sbom-gpu test-containers lock clean

help: ## list what make can do (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv; does nothing when nothing changed

demo: $(READY) ## credit the designers of OpenMoji: a whole round in work/, minutes on two cores
	@$(PY) -m pipelines run configs/openmoji.yaml --workdir work

test: $(READY) ## run the tests
	@$(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## run the simulations that `make test` leaves out: minutes
	@$(PY) -m pytest --numprocesses 2 -m slow

check: $(READY) ## lint, formatting, types, and which module may import which
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet
	@$(PY) -m mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo

generate: $(READY) ## write the files that are made from the table of stages: components/*.py, import contracts
	@$(PY) -m components.generate

compile: generate ## write the compiled pipeline, which a cluster runs: pipelines/compiled/*.yaml
	@$(PY) -m pipelines compile

services: $(READY) ## run a real S3-compatible server and MLflow here until Ctrl-C, and say what to set
	@$(PY) tests/services.py

chart: compile ## copy into the chart what is made from other files: compiled pipeline, schema, stages
	@$(PY) tests/helm/refresh.py

policies: $(READY) ## run checkov, in a separate environment, on the chart's manifests and the Dockerfiles
	@$(PY) tests/helm/tools.py checkov
	@$(PY) tests/helm/policies.py

images: $(IMAGES:%=image-%) ## build the container images (IMAGES=cpu for one of them): docs/containers.md
	@$(if $(IMAGES),,echo "found no IMAGES, expected cpu, gpu or both" >&2; exit 2)

image-cpu image-gpu: image-%:
	@$(ENGINE) build --file images/$*.Dockerfile --tag $(IMAGE) $(BUILD) .

sbom: $(IMAGES:%=sbom-%) ## write the list of Python packages of each image, as CycloneDX, to build/sbom/

sbom-cpu sbom-gpu: sbom-%: .venv/sbom/.ready
	@.venv/sbom/bin/python images/sbom.py $(ENGINE) $(IMAGE) '$(SBOM)/$*.cdx.json'

.venv/sbom/.ready: images/sbom.txt | $(PY)
	@$(PY) -m venv --clear .venv/sbom
	@.venv/sbom/bin/python -m pip install -qq --no-input --disable-pip-version-check --requirement images/sbom.txt
	@touch $@

test-containers: $(READY) .venv/sbom/.ready ## build the CPU image and run a round in it, container by container: minutes
	@$(PY) -m pytest tests/containers

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
	@for python in $(CANDIDATES); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && exec $$python -m venv .venv; \
	done; \
	echo "found no Python 3.11 or newer (tried: $(CANDIDATES)); install one, or name it: make setup CANDIDATES=/path/to/python" >&2; exit 1

$(READY): pyproject.toml constraints.txt tests/helm/tools.py tests/helm/helm.txt | $(PY)
	@echo "Installing Apportion and what it needs into .venv: a few minutes, once."
	@$(PIP) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@$(PY) tests/helm/tools.py helm
	@touch $@
