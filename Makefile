# Everything a fresh machine needs is Python 3.11 or newer and make. Each environment is made from its own hash-pinned
# file, and made again when that file changes or this folder moves. The files name everything, so nothing is resolved:
# a release of today's cannot change, or break, what is installed.

# The system's own comes first: distributions build theirs with profiles, by which it is a quarter faster than one that
# was built from source in the usual way.
PYTHON ?= $(shell for name in /usr/bin/python3 python3.13 python3.12 python3.11 python3 python3.14 python; do \
	"$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; \
	done)
PIP_INSTALL = bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all:
LOCKED = infra/requirements
# Manifests of kinds that Kubernetes itself has; the others' schemas are their makers'.
CORE_KINDS = $(shell grep -rLE '^apiVersion: (kustomize\.config\.k8s\.io|monitoring\.coreos\.com|cilium\.io)/' \
	--include=*.yaml infra/kubernetes)
VENVS = runtime test lint demo deploy checkov
# Much of what these bring is never imported: what is, compiles itself.
TOOLS_ALONE = lint deploy checkov
ARGS ?=
# By another name than make's own, or `make -n` would run the recipe that says it.
AGAIN = $(MAKE) --no-print-directory
ONCE ?=
ARCH ?= arm64
PY ?=

# Images of containers like to set it. Then every process of a run would compile this project anew, pytest all its tests.
unexport PYTHONDONTWRITEBYTECODE

# An environment whose interpreter is gone, or that was made in another place, is no longer one.
$(shell for name in $(VENVS); do stamp=.venv/$$name/made-here; \
	[ ! -e $$stamp ] || { [ "$$(cat $$stamp)" = '$(CURDIR)' ] && .venv/$$name/bin/python -c '' >/dev/null 2>&1; } || rm -f $$stamp; \
	done)

.PHONY: help demo test lint code deployment faults soak bench lambda lock tools clean python
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/demo/made-here ## the whole story on this machine, nothing configured; ONCE=1 tells it and exits
	@.venv/demo/bin/python -m steward demo $(if $(filter-out 0 no,$(ONCE)),--once)

# What a fresh machine needs first, three environments and the tools, comes at once: unpacking one leaves a core to the
# other. Tests mostly wait for sockets and for processes that start, so three files at a time do not crowd two cores.
test: ## ruff, mypy and import-linter, then every test but the long ones (ARGS="-k words" for some)
	@$(AGAIN) -j 3 code tools $(if $(ARGS),,.venv/deploy/made-here)
	@.venv/test/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(if $(ARGS),,--ignore=tests/bench) $(ARGS)

lint: code deployment ## ruff, mypy --strict, import-linter; and what deploys it, by each host's own checkers

code: .venv/lint/made-here .venv/test/made-here
	@.venv/lint/bin/ruff check .
	@.venv/lint/bin/ruff format --check --quiet .
	@.venv/lint/bin/mypy --python-executable .venv/test/bin/python steward handlers migrations
	@.venv/lint/bin/lint-imports --no-logo

# Nothing here asks the network. cfn-lint and sam validate each miss what the other finds. terraform is no package of
# Python's or Debian's: where it is missing, that is said.
deployment: .venv/deploy/made-here .venv/checkov/made-here
	@.venv/deploy/bin/cfn-lint --regions eu-central-1 -- template.yaml
	@SAM_CLI_TELEMETRY=0 .venv/deploy/bin/sam validate --template template.yaml --region eu-central-1 >/dev/null
	@.venv/deploy/bin/hadolint Dockerfile
	@.venv/deploy/bin/kubernetes-validate --strict --quiet $(CORE_KINDS)
	@.venv/checkov/bin/checkov --config-file infra/checkov.yaml --file template.yaml
	@.venv/checkov/bin/checkov --config-file infra/checkov.yaml --directory infra
	@if command -v terraform >/dev/null 2>&1; then terraform fmt -check -recursive infra; \
		else echo "make: terraform is not here; the format of infra/aws and infra/gcp was not checked"; fi

# Wherever they stand, between the others of their subject.
FAULTS = $(shell grep -rl 'mark\.faults' tests --include='test_*.py' | sort)
ALONE = tests/faults/test_long_butler_down.py

# What holds times against each other runs alone; the rest mostly waits, so two at a time, whichever is next.
faults: .venv/test/made-here tools ## the long cases: what a call costs beside nginx, what dies, what is lost; a quarter of an hour
	@$(if $(ARGS),,.venv/test/bin/python -m pytest tests/bench)
	@$(if $(ARGS),,.venv/test/bin/python -m pytest $(ALONE) -m faults -rA --no-header)
	@.venv/test/bin/python -m pytest $(filter-out $(if $(ARGS),,$(ALONE)),$(FAULTS)) -m faults -rA --show-capture=stdout --no-header \
		-n 2 --dist load --maxschedchunk 1 $(ARGS)

soak: .venv/test/made-here ## ten minutes of load: memory and descriptors of every process, printed, and flat
	@.venv/test/bin/python -m tests.faults.soak $(ARGS)

bench: .venv/test/made-here tools ## throughput and latency against nginx, settling, Lambda's cold start, the explorer in ten million calls (some 8 GB of disk)
	@.venv/test/bin/python -m tests.bench $(ARGS)

lambda: python ## build/steward-lambda.zip, for AWS Lambda (ARCH=arm64 or x86_64, PY=3.12)
	@$(PYTHON) infra/lambda/package.py --arch '$(ARCH)' --python '$(PY)'

lock: ## pin anew, from releases at least a week old (needs uv)
	@infra/requirements/lock

clean: ## remove what the others made
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# wrk and nginx are only measured against, and Chromium shows the pages as people see them: fetched where that is possible
# without asking anyone, else done without.
tools:
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for tool in wrk nginx; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 \
		|| missing="$$missing chromium"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "make: installing$$missing with apt-get, for the measurements and the browser's tests"; \
		{ timeout 120 apt-get update -qq && for tool in $$missing; do \
			RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends $$tool || exit 1; done; } \
			</dev/null >/dev/null 2>&1 || echo "make: could not; what needs$$missing is skipped, where CI is set it fails"; \
	fi

.venv/%/made-here: $(LOCKED)/%.txt | python
	@echo "make: installing $(LOCKED)/$*.txt into .venv/$*"
	@rm -rf .venv/$*
	@$(PYTHON) -m venv .venv/$*
	@.venv/$*/$(PIP_INSTALL) $(if $(filter $*,$(TOOLS_ALONE)),--no-compile) -r $<
	@printf %s '$(CURDIR)' > $@

python:
	@[ -n "$(PYTHON)" ] || { \
		echo "make: no Python 3.11 or newer with venv was found (Debian, Ubuntu: apt-get install python3-venv; or: make PYTHON=/path/to/python)" >&2; \
		exit 1; }
