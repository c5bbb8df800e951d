# Each target does its own set-up; the first one on a machine takes a minute or two. `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
# The tools' caches stay out of the home directory.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-cache-dir
INPUTS ?= 'data/*.txt'

.PHONY: run help ui deploy worker test lint bench lock clean

run: .venv/installed ## count the top words of data/ (or INPUTS='my/*.txt ARGUMENTS') on the embedded local Azure
	@$(BIN)/python -m flows.top_words $(INPUTS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# A Python that was removed or replaced leaves a .venv without packages. Asked in milliseconds, and not by `make clean`.
WORKS = import sys, importlib.util; sys.exit(not importlib.util.find_spec("prefect"))
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),run)),)
ifneq ($(wildcard .venv/installed),)
ifneq ($(shell $(BIN)/python -c '$(WORKS)' >/dev/null 2>&1; echo $$?),0)
$(error The virtual environment .venv does not work, because its Python is gone or was replaced: run `make clean`, then this again)
endif
endif
endif

# The server on this machine is not asked through a proxy; what starts from here inherits it.
ui deploy worker: export NO_PROXY := $(or $(no_proxy),$(NO_PROXY)),127.0.0.1,localhost,::1
ui deploy worker: export no_proxy = $(NO_PROXY)

ui: .venv/installed ## the Prefect UI with all runs, on http://127.0.0.1:4200
	@$(BIN)/python -m prefect server start --host 127.0.0.1 --port 4200

deploy: export TOP_WORDS_ACCOUNTS ?= # empty: Prefect would warn of a placeholder without a value
deploy worker: export PREFECT_API_URL := $(or $(PREFECT_API_URL),http://127.0.0.1:4200/api)

deploy: .venv/installed ## the deployments of prefect.yaml, on the server of `make ui` (or PREFECT_API_URL)
	@$(SERVER_ANSWERS)
	@$(BIN)/python -m prefect --no-prompt work-pool create local-process --type process >/dev/null 2>&1 \
		|| $(BIN)/python -m prefect --no-prompt work-pool inspect local-process >/dev/null # it exists
	@$(BIN)/python -m prefect --no-prompt deploy --all
	@echo "Accounts: $(if $(TOP_WORDS_ACCOUNTS),the block '$(TOP_WORDS_ACCOUNTS)',those in the worker's environment (TOP_WORDS_ACCOUNTS=<block> make deploy names a block))"

worker: .venv/installed ## runs what is deployed. Ctrl-C when nothing runs: it takes its runs along, and the sweep has to clean up
	@$(SERVER_ANSWERS)
	@exec $(BIN)/python -m prefect worker start --pool local-process --type process

SERVER_ANSWERS = $(BIN)/python -c 'import sys; from prefect.client.orchestration import get_client; \
	error = get_client(sync_client=True, httpx_settings={"timeout": 10}).api_healthcheck(); \
	error and sys.exit(f"No Prefect server answers at $(PREFECT_API_URL): {error}\nStart one with `make ui` in another terminal, or set PREFECT_API_URL to yours")'

# Coverage is of the processes that the tests run in; commands, servers and nodes are processes of their own.
test: .venv/installed-dev ## all tests, and how much of the code they reach
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered

lint: .venv/installed-dev ## ruff, mypy and the import contracts of pyproject.toml
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy .
	@$(BIN)/lint-imports --no-cache

bench: .venv/installed-dev ## measured, never asserted by a test
	@$(BIN)/python benchmarks/batch_service.py
	@$(BIN)/python benchmarks/node_script.py

lock: .venv/installed-dev ## pin requirements*.txt anew from pyproject.toml
	@$(BIN)/python -m uv pip compile pyproject.toml $(LOCK) -o requirements.txt
	@$(BIN)/python -m uv pip compile pyproject.toml $(LOCK) --group dev -c requirements.txt -o requirements-dev.txt

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header \
	--no-emit-index-url

.venv/installed: requirements.txt local_azure/npm/package-lock.json
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; name another: make PYTHON=python3.12")'
	@echo "Installing, once: Python packages from PyPI into .venv, then Azurite from the npm registry. This takes a minute or two"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --no-deps --require-hashes -r requirements.txt
	@$(BIN)/python -m local_azure.azurite
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	@$(PIP) install --no-deps --require-hashes -r requirements-dev.txt
	@touch $@

clean: ## forget the virtual environment and Azurite
	rm -rf .venv local_azure/npm/node_modules
