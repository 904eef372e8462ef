# Everything a developer types. Needs Python 3.11 or newer and make; nothing is installed outside .venv
# (and, by bench-peers, outside bench/peers).

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
RUN := .venv/bin/python
# Tools that only read the code need settings that are complete, and no server.
NO_SERVER := DATABASE_URL=postgresql://nobody@127.0.0.1:1/none REDIS_URL=redis://127.0.0.1:1/0 SECRET_KEY=unused

.DEFAULT_GOAL := help
.PHONY: help demo run test test-unit test-integration test-load test-model soak chaos bench bench-peers check format \
	requirements clean venv venv-dev venv-bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '  make %-18s %s\n' "$$name" "$$what"; done

demo: venv ## the whole system with simulated prices and traders (admin / admin)
	@exec $(RUN) -m cryptocraze.launch demo

run: venv ## the whole system on real prices (PRICE_SOURCE, SYMBOLS), no demo users
	@exec $(RUN) -m cryptocraze.launch run

# Two processes keep two processors busy: most tests wait for something. TEST_PROCESSES=0 runs one test after the other.
TEST_PROCESSES ?= 2
IN_PARALLEL := -n $(TEST_PROCESSES) --max-worker-restart 0

test: venv-dev ## every test, on servers and workers of their own (TEST_PROCESSES=2 at a time)
	@$(RUN) -m pytest $(IN_PARALLEL)

test-unit: venv-dev ## the pure core: no server
	@$(RUN) -m pytest -m unit

test-integration: venv-dev ## real PostgreSQL, Valkey and worker processes
	@$(RUN) -m pytest $(IN_PARALLEL) -m "integration and not load"

test-load: venv-dev ## many deals, long tapes
	@$(RUN) -m pytest -m load

chaos: venv-dev ## a thousand kills in about an hour, written to docs/faults.md (ARGS="--kills 60 --restarts 6 --seed 1")
	@PYTHONPATH=tests $(RUN) -m chaos $(ARGS)

test-model: venv-dev ## the long comparison with the model: minutes of random steps, new ones each time
	@HYPOTHESIS_PROFILE=long $(RUN) -m pytest tests/model

soak: venv-dev ## 3,600 deals through every process, then memory, keys and connections beside where they began
	@SOAK=long $(RUN) -m pytest tests/soak

bench: venv-bench ## measure the whole system; a part of it with ARGS="mass --deals 5000" (ARGS=--help)
	@$(RUN) -W ignore::RuntimeWarning -m bench $(ARGS)

bench-peers: venv-bench ## the same work done by others, side by side (ARGS=--help)
	@$(RUN) -W ignore::RuntimeWarning -m bench.peers $(ARGS)

check: venv-dev ## lint, format, types, import directions, missing migrations
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(NO_SERVER) $(RUN) -m mypy
	$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache
	$(NO_SERVER) $(RUN) -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

format: venv-dev ## rewrite the code in the house format
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

requirements: venv-dev ## compile requirements*.txt from pyproject.toml again
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(RUN) -m uv pip compile $(COMPILE) pyproject.toml -o requirements.txt
	$(RUN) -m uv pip compile $(COMPILE) --group dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	$(RUN) -m uv pip compile $(COMPILE) --extra ccxt -c requirements.txt pyproject.toml -o requirements-ccxt.txt
	$(RUN) -m uv pip compile $(COMPILE) --group bench -c requirements.txt -c requirements-dev.txt pyproject.toml \
		-o requirements-bench.txt
# Extras stay in the files: an older pip that meets `coverage[toml]` as a dependency looks past a bare `coverage==…`
# for the newest one, which has no hash here.
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras

clean: ## remove .venv and caches; the data in .data stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov \
		bench/peers/.venv bench/peers/bullmq/node_modules

venv:
	@$(call install,requirements.txt)

venv-dev:
	@$(call install,requirements-dev.txt)

venv-bench:
	@$(call install,requirements-bench.txt)

# Install a requirements file unless exactly this file is installed already. Debian's Python may lack ensurepip:
# then its own pip installs into the virtual environment.
define install
set -e; \
file='$(1)'; stamp=".venv/.installed-$$file"; sum=$$(cksum < "$$file"); \
if ! $(RUN) -c '' 2>/dev/null || [ "$$(cat "$$stamp" 2>/dev/null)" != "$$sum" ]; then \
	[ -n '$(PYTHON)' ] || { echo 'cryptocraze: no Python 3.11 or newer found: install one, or say PYTHON=/path/to/python' >&2; exit 1; }; \
	'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'cryptocraze: $(PYTHON) is not Python 3.11 or newer: set PYTHON' >&2; exit 1; }; \
	if ! $(RUN) -c '' 2>/dev/null; then \
		echo 'cryptocraze: making .venv'; rm -rf .venv; \
		if '$(PYTHON)' -c 'import ensurepip' 2>/dev/null; then '$(PYTHON)' -m venv .venv; \
		elif '$(PYTHON)' -m pip --version >/dev/null 2>&1; then '$(PYTHON)' -m venv --without-pip .venv; \
		else echo 'cryptocraze: $(PYTHON) has no pip: install python3-venv, or set PYTHON to another one' >&2; exit 1; fi; \
	fi; \
	echo "cryptocraze: installing $$file (a minute or two)"; \
	pip() { if $(RUN) -c 'import pip' 2>/dev/null; then $(RUN) -m pip "$$@"; else '$(PYTHON)' -m pip --python $(RUN) "$$@"; fi; }; \
	pip --disable-pip-version-check --no-input install --require-hashes -r "$$file"; \
	printf '%s\n' "$$sum" > "$$stamp"; \
fi
endef
