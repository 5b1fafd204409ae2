## make demo        environment, pipeline on generated data, scores, next steps
## make setup       the environment alone: .venv from requirements.lock
## make test        all tests; make lint: ruff and mypy
## make validate ARCHIVE=my.tar.gz [IDS=test.txt]   check one for the test server
## make ablation-rounds, ablation-psl [SEEDS=1,2,3]  queue an ablation's runs, then
##                  dvc exp run --run-all, make ablation-tables
## make docs        the documentation, docs/_build/html; make pictures: its own
## make bench       speed beside what is used today, 25 minutes
## make faults      kills, full disks, damaged and hostile files, in the long form
## make lock        requirements.lock anew; UPGRADE=1: newer versions
## make audit       known vulnerabilities of locked packages; ADVISORIES=all.zip (a
##                  copy of the database): without network; IGNORE=ID
## make clean       .venv and scratch/; what is in progress: make clean-progress
## Needs git and Python 3.11, 3.12 or 3.13; PYTHON=/path/to/python names another.
# `make faults` writes docs/reliability.json; `make bench` benchmarks/results.json and docs/performance.md. With a copy of the advisories no network
# is needed to audit. A C++ compiler is for refine.backend: pydensecrf alone.

SUITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# The first that runs and has the right version: a version manager's shim may be on PATH and lead nowhere.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do $$p $(SUITS) 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# An active environment of another project must not leak into the stages.
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup demo test docs pictures faults lint bench validate lock audit ablation-rounds ablation-psl ablation-tables clean clean-progress

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11, 3.12 or 3.13 on PATH, found $$(python3 -V 2>/dev/null || echo none)."; \
		echo "Install one beside it (Debian, Ubuntu: apt-get install python3.12 python3.12-venv; macOS: brew install python@3.12; anywhere:"; \
		echo "uv python install 3.12, or conda create -n py312 python=3.12), or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) $(SUITS) || { echo "make: PYTHON=$(PYTHON): expected Python 3.11, 3.12 or 3.13, found $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -m tools.environment

# The tools of `lock` and `audit`, pinned by hashes too, in an environment of their own: the project does not depend on them.
scratch/tools/ready: tools/requirements.lock
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11, 3.12 or 3.13 on PATH"; exit 1; }
	@$(PYTHON) -m venv --clear scratch/tools
	@scratch/tools/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement $<
	@touch $@

LOCK = scratch/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

lock: scratch/tools/ready
	@$(LOCK) requirements.txt --output-file requirements.lock
	@$(LOCK) tools/requirements.txt --output-file tools/requirements.lock
	@echo 'requirements.lock and tools/requirements.lock are up to date. Before committing them: git diff, make setup, make test, make audit.'

ifdef ADVISORIES
audit: setup
	@python -m tools.audit "$$ADVISORIES" requirements.lock tools/requirements.lock $(IGNORE:%=--ignore %)
else
audit: scratch/tools/ready
	@scratch/tools/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off $(IGNORE:%=--ignore-vuln %) \
		--requirement requirements.lock --requirement tools/requirements.lock || \
		{ echo 'make: the audit failed or found something (above). Without network, or where it says "not found": make audit ADVISORIES=file (docs/security.md, "Dependencies")'; exit 1; }
endif

demo: setup
	@python -m tools.demo

test: setup
	@python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

faults: export AEPSL_RELIABILITY := $(CURDIR)/docs/reliability.json
faults: setup
	@rm -f "$$AEPSL_RELIABILITY"
	@AEPSL_FAULTS=long python -m pytest tests/faults tests/security tests/sharing
	@python -m benchmarks.checkpoints

lint: setup
	@ruff check .
	@mypy

docs: setup
	@python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@python -m sphinx -q -W --keep-going -b doctest -d docs/_build/doctrees docs docs/_build/doctest
	@echo 'make: docs/_build/html/index.html'

pictures: setup
	@python -m tools.pictures

bench: setup
	@python -m benchmarks

validate: setup
	@test -n "$$ARCHIVE" || { echo "make: expected an archive: make validate ARCHIVE=my.tar.gz [IDS=list of the test ids, or an index.csv]"; exit 1; }
	@python -m aepsl validate $${IDS:+--ids "$$IDS"} -- "$$ARCHIVE"

# The two ablations: queue the runs of either, `dvc exp run --run-all`, then collect. What is cached is not trained again.
SEEDS ?= 1,2,3
QUEUE = dvc exp run --queue -S seed=$(SEEDS)

ablation-rounds: setup
	@$(QUEUE) -S '++rounds.r4=r3' -S last_round=r1,r2,r3,r4 -S last_pass=s1 -S segment.psl=predicted evaluate oracle

ablation-psl: setup
	@$(QUEUE) -S last_round=r3 -S last_pass=s1 -S segment.psl=none,predicted,true-labels evaluate
	@$(QUEUE) -S last_round=r3 -S '++relabels.s2=s1' -S 'passes=[s1,s2]' -S last_pass=s2 -S segment.psl=predicted evaluate
	@$(QUEUE) -S last_round=r3 -S '++relabels.s2=s1' -S 'passes=[s1,s2,full]' -S 'oracles=[full]' -S last_pass=full -S segment.psl=none evaluate

ablation-tables: setup
	@python -m aepsl ablations --readme docs/results.md --readme docs/reproducing.md

# Half-finished downloads and stages stay, and so does everything that `dvc repro` made.
clean:
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@test ! -d scratch || find scratch -mindepth 1 -maxdepth 1 ! -name state ! -name downloads -exec rm -rf {} +
	@echo "Removed: .venv, the caches of the checks, scratch/ without what is in progress."
	@for kept in scratch/state scratch/downloads; do test ! -d $$kept || echo "Kept: $$(du -sh $$kept | tr '\t' ' '), continued by the next dvc repro; to remove it: make clean-progress"; done

clean-progress:
	@for gone in scratch/state scratch/downloads; do test ! -d $$gone || echo "Removing $$(du -sh $$gone | tr '\t' ' ')"; done
	@rm -rf scratch/state scratch/downloads
