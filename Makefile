# make run     a gateway on http://127.0.0.1:8080 in one minute: sets up what is missing, starts the demo;
#              ARGS="--port 9000" takes another port
# make setup   .venv with everything; afterwards .venv/bin/gateway works
# make test    set-up, then the tests, six at a time (in CI four); ARGS="tests/ledger -k name" takes some of them, one at a time
# make test-fast  set-up, then the pure tests alone: seconds
# make mutants switches off one protection at a time and names those that no test misses; ARGS=--sample=5 takes some
# make fuzz    a million random changes of saved inputs, through everything that reads bytes of strangers; some minutes
# make cover   the tests of the request's path, with branch coverage and its floors
# make simulate  7,500 schedules of the ledger's simulation, besides those of `make test`: a few minutes;
#              SCHEDULES=20000 FIRST_SEED=123456 takes others
# make chaos   set-up, then the long variants: many more interleavings, kills and outages; some minutes
# make wheels  the locked packages for an image into wheels/: the image is then built without a network (PIP_NO_INDEX=1);
#              LOCK=requirements-otel.lock takes those of an image with traces, requirements-parquet.lock with Parquet
# make compose-test  the compose stack's life on a Docker Engine: kills, outages, rolling replacement; some minutes
# make clients other people's programs, installed from the package index, against a gateway; many minutes the first time;
#              ARGS="-k langchain" takes some, CLIENTS_DIR=... keeps their environments elsewhere
# make docs    the manual as a site in build/site: pages of docs/ and deploy/, references from the code; every link is checked
# make lint    set-up, then style, types and layers
# make format  rewrite the code in the house style
# make bench   the gateway beside nginx, httpx and bare uvicorn, in one table; ARGS=--quick takes a minute
# make bench-peers  LiteLLM, installed from the package index into .peers/, under the same load
# make wheel   the project as a wheel, in dist/
# make sbom    what the wheel and the image consist of, in dist/ as CycloneDX JSON, without a network; BASE_IMAGE=...@sha256:...
# make audit   known weaknesses in the locked packages (needs pip-audit, and PyPI's advisories)
# make lock    remake the lock files from pyproject.toml (needs uv); ARGS=--upgrade takes newer versions
#
# Packages come from the hash-locked files alone, the build backend included: nothing is resolved at install time.

PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)
PIP_AUDIT ?= $(shell command -v pip-audit 2>/dev/null)
BIN := .venv/bin
# Where images forbid it, each process would compile every library anew: 4.6 s of CPU time, not 1.3 s.
unexport PYTHONDONTWRITEBYTECODE
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed

.PHONY: setup run docs test test-fast mutants fuzz cover simulate chaos clients compose-test wheels lint format bench bench-peers wheel sbom audit lock FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

setup: $(DEV)

# The development set-up includes the runtime: where it is there, it is the one to keep fresh.
run: $(if $(wildcard $(DEV)),$(DEV),$(RUNTIME))
	$(BIN)/gateway demo $(ARGS)

# Tests wait more than they compute: six share two cores well, and four where CI tries more examples. A process that is
# done takes tests from one that is not.
test: $(DEV)
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses $(if $(CI),4,6) --dist worksteal)

test-fast: $(DEV)
	$(BIN)/python -m pytest --hypothesis-profile fast tests/unit $(ARGS)

mutants: $(DEV)
	$(BIN)/python -m tests.support.mutants $(ARGS)

fuzz: $(DEV)
	$(BIN)/python -m tests.support.fuzz $(ARGS)

# The floors are what was covered when they were set; they go up, not down. Each is a package of the request's path.
FLOORS = http=85 proxy=92 ledger=94 billing=87
cover: $(DEV)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal --cov --cov-report= \
	  tests/unit tests/billing tests/dialects tests/fundamentals tests/proxy tests/faults tests/ledger $(ARGS)
	@for floor in $(FLOORS); do \
	  $(BIN)/coverage report --include="gateway/$${floor%=*}/*" --fail-under=$${floor#*=} || exit 1; \
	done

SCHEDULES ?= 7500
FIRST_SEED ?= 1000000
simulate: $(DEV)
	SCHEDULES=$(SCHEDULES) FIRST_SEED=$(FIRST_SEED) $(BIN)/python -m pytest --numprocesses 4 --dist worksteal \
	  tests/simulation/test_schedules.py $(ARGS)

chaos: $(DEV)
	$(BIN)/python -m pytest -m chaos $(ARGS)

# Kept out of `make test`: named, not collected.
clients: $(DEV)
	$(BIN)/python -m pytest tests/clients/clients_scenario.py $(ARGS)

# The variable turns an advertisement of the theme's off.
docs: $(DEV)
	$(BIN)/python -m tests.support.manual build/manual
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Needs gcc, wrk and nginx (Debian packages of these names).
bench: $(DEV)
	$(BIN)/python -m benchmarks $(ARGS)

# Kept out of `make test`: named, not collected. Images come from deploy/local-images unless the environment names some.
compose-test: $(DEV) wheels
	$(BIN)/python -m pytest tests/deploy/compose_scenario.py $(ARGS)

# WHEELS_FOR: the Python of the base image.
WHEELS_FOR ?= 3.13
LOCK ?= requirements.lock
wheels: wheels/.for-$(WHEELS_FOR)-$(LOCK)
wheels/.for-$(WHEELS_FOR)-$(LOCK): $(LOCK)
	@rm -rf wheels && mkdir wheels
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip download --disable-pip-version-check --quiet --no-deps --require-hashes --only-binary :all: \
	  --implementation cp --python-version $(WHEELS_FOR) \
	  $(foreach tag,manylinux_2_28 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1,--platform $(tag)_$(shell uname -m)) \
	  -r $(LOCK) -d wheels
	@touch $@

# Not locked: what is compared is what a user would install today.
bench-peers: $(DEV) .peers/bin/litellm
	$(BIN)/python -m benchmarks --peers --json benchmarks/peers.json $(ARGS)

.peers/bin/litellm:
	$(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --disable-pip-version-check --quiet 'litellm[proxy]'

# The locked backend makes it; with SOURCE_DATE_EPOCH, the same source gives the same bytes.
wheel: $(DEV)
	@mkdir -p dist
	$(BIN)/python -c 'from flit_core.buildapi import build_wheel; print("dist/" + build_wheel("dist"))'

# WHEELS_FOR and LOCK are those of the image, as above.
BASE_IMAGE ?= python:$(WHEELS_FOR)-slim
sbom: $(DEV)
	@mkdir -p dist
	$(BIN)/python deploy/release/sbom.py wheel $(LOCK) >dist/sbom-wheel.cdx.json
	$(BIN)/python deploy/release/sbom.py image $(LOCK) --base-image "$(BASE_IMAGE)" --python $(WHEELS_FOR) >dist/sbom-image.cdx.json

# --- Set-up -----------------------------------------------------------------------------------------------------------

$(RUNTIME): requirements.lock pyproject.toml .venv/pyvenv.cfg
	$(call install,requirements.lock)

$(DEV): requirements-dev.lock pyproject.toml .venv/pyvenv.cfg
	$(call install,requirements-dev.lock)

# Asked each time, made where there is none or where the Python under it is gone.
RECENT = -c 'import sys; sys.exit(sys.version_info < (3, 11))'
.venv/pyvenv.cfg: FORCE
	@$(BIN)/python $(RECENT) 2>/dev/null || { $(new-venv); }

define new-venv
$(PYTHON) $(RECENT) 2>/dev/null || { \
  echo "Python >= 3.11 is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }; \
rm -rf .venv && $(if $(UV),$(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')",$(PYTHON) -m venv) .venv
endef

# $(1): lock file. The project itself is linked, not copied; --no-build-isolation builds it with the locked backend.
# A .venv that uv made has no pip of its own, hence ensurepip.
ifneq ($(UV),)
define install
	@echo "Installing $(1) into .venv"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $(1)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
endef
else
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
define install
	@echo "Installing $(1) into .venv (half a minute with pip)"
	@$(PIP) --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(PIP) install --require-hashes -r $(1)
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
endef
endif

# --strict: a package that could not be looked up is a failure, not a footnote.
audit:
	@[ -n "$(PIP_AUDIT)" ] || { echo "make audit needs pip-audit: pip install pip-audit, in an environment of its own" >&2; exit 1; }
	$(PIP_AUDIT) --strict --disable-pip --require-hashes -r requirements-otel.lock
	$(PIP_AUDIT) --strict --disable-pip --require-hashes -r requirements-parquet.lock

# --- Locks ------------------------------------------------------------------------------------------------------------

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command "make lock" $(ARGS)
BACKEND = $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'

# The others are held to the first: development, and images with traces or Parquet, run on the versions that users get.
lock:
	@[ -n "$(UV)" ] || { echo "make lock needs uv: https://docs.astral.sh/uv/" >&2; exit 1; }
	$(BACKEND) | $(COMPILE) pyproject.toml - --output-file requirements.lock
	$(BACKEND) | $(COMPILE) pyproject.toml - --extra otel --constraint requirements.lock --output-file requirements-otel.lock
	$(BACKEND) | $(COMPILE) pyproject.toml - --extra parquet --constraint requirements.lock --output-file requirements-parquet.lock
	$(BACKEND) | $(COMPILE) pyproject.toml - --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock
