# Requires only Python 3.11 or later and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# .venv is created again if it is incomplete, if its Python is too old or missing, or if PYTHON on the
# command line differs. A copied .venv has the package of the original checkout.
ENOUGH := import sys, pip; print(sys.version_info >= (3, 11) and pip.__version__ >= '25.1')
version = $(shell { $(1) -c "import sys; print(sys.version)"; } 2>/dev/null)
ifneq ($(shell $(RUN) -c "$(ENOUGH)" 2>/dev/null),True)
.PHONY: $(RUN)
else ifeq ($(origin PYTHON),command line)
ifneq ($(call version,$(PYTHON)),$(call version,$(RUN)))
.PHONY: $(RUN)
endif
endif
ifneq ($(shell cat $(VENV)/demo 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/demo
endif

# tox searches PATH, where pyenv has only the selected versions: list the others.
empty :=
comma := ,
PYENV := $(shell pyenv root 2>/dev/null)
FOUND := $(if $(PYENV),$(wildcard $(PYENV)/versions/3.1[1-4].*[0-9]/bin/python))
export TOX_DISCOVER := $(subst $(empty) $(empty),$(comma),$(FOUND))

# The Debian packages of the environment debian-pg15. If one is not installed, `make test` skips the
# environment, unless CI is set.
ABSENT := $(strip \
    $(if $(wildcard /usr/lib/postgresql/15/bin/postgres),,postgresql-15) \
    $(if $(wildcard /usr/share/postgresql/15/extension/postgis.control),,postgresql-15-postgis-3) \
    $(if $(wildcard /usr/sbin/pgbouncer),,pgbouncer))
LEFT_OUT := $(if $(CI),,$(ABSENT))

.PHONY: help demo test quick soak bench djangosuite lint clean absent

help:
	@echo "make demo   run the example project's tests in two worker schemas"
	@echo "make test   run all checks and tests, as CI does"
	@echo "make quick  run the fast tests on PostgreSQL 18"
	@echo "make soak   run the soak tests: killed runs and workers, server failures, concurrent runs"
	@echo "make bench  run the benchmarks against stock Django and pytest-django"
	@echo "make djangosuite  run a part of Django's own tests with stock Django's runner and this one"
	@echo "make lint   check style and types"
	@echo "make clean  remove .venv and .tox"
	@echo "make absent list the Debian packages of debian-pg15 that are not installed"

demo: $(VENV)/demo
	cd example_project && ../$(RUN) manage.py test --parallel 2

test: export TOX_SKIP_ENV := $(if $(LEFT_OUT),debian-.*)
test: $(VENV)/tox
	$(RUN) -m tox run
	@[ -z "$(LEFT_OUT)" ] || echo "Skipped debian-pg15. To run it: apt install $(LEFT_OUT)"

absent:
	@echo $(ABSENT)

quick: $(VENV)/tox
	$(RUN) -m tox run -e django52-pg18 -- tests/unit tests/postgres tests/runner/test_run.py

soak: export SOAK_ROUNDS ?= 50
soak: $(VENV)/tox
	$(RUN) -m tox run -e django52-pg18 -- tests/faults/test_soak*.py

bench: ROUNDS ?= 5
bench: $(VENV)/tox
	$(RUN) -m tox run -e bench -- --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

djangosuite: $(VENV)/tox
	$(RUN) -m tox run -e djangosuite52,djangosuite
	$(RUN) -m tox run -e djangosuite52,djangosuite -- --start-method spawn

lint: $(VENV)/tox
	$(RUN) -m tox run -e lint,types

clean:
	rm -rf $(VENV) .tox

ADVICE := Use another Python: make $(or $(MAKECMDGOALS),help) PYTHON=python3.13
REFUSAL = Python 3.11 or later is required, and $(PYTHON) is %s. $(ADVICE)

$(RUN):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found. $(ADVICE)" >&2; exit 1; }
	@$(PYTHON) -c "import sys; v = sys.version_info; v < (3, 11) and sys.exit('$(REFUSAL)' % '.'.join(map(str, v[:3])))"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/demo: $(RUN) pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[embedded]" --group example
	@echo "$(CURDIR)" >$@

$(VENV)/tox: $(RUN)
	$(RUN) -m pip install --quiet "tox>=4.22"
	touch $@
