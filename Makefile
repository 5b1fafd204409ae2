# make demo   environment + the whole pipeline on generated data + its scores
# make test   environment + all tests
# make validate ARCHIVE=my.tar.gz [IDS=test.txt]   an archive for the test server, made here or elsewhere
# make lock [UPGRADE=1]                            requirements.lock anew from requirements.txt; versions stay unless UPGRADE
# make faults        kills, full disks, damaged and hostile files and all else that can go wrong, in the long form, into docs/reliability.json
# make docs          the documentation, into docs/_build/html; a warning is an error, no network is needed
# make pictures      docs/pictures anew, from the artefacts of `make demo`
# make bench         speed beside what is used today, into benchmarks/results.json and docs/performance.md; some 25 minutes
# make audit [ADVISORIES=all.zip] [IGNORE=ID]      known vulnerabilities of the locked packages; with a copy of the database no network is needed
# make clean         removes .venv and scratch/, but not scratch/state and scratch/downloads: work in progress, which `make clean-progress` removes
# Needs git and Python 3.11 to 3.13; PYTHON=… names another interpreter. A C++ compiler only for refine.backend: pydensecrf.

SUITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# The first that runs and has the right version: a version manager's shim may be on PATH and lead nowhere.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do $$p $(SUITS) 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# An active environment of another project must not leak into the stages.
unexport PYTHONPATH PYTHONHOME

.PHONY: setup demo test docs pictures faults lint bench validate lock audit ablation-rounds ablation-psl ablation-tables clean clean-progress

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11, 3.12 or 3.13 on PATH, found $$(python3 -V 2>&1); install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
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
	@dvc repro
	@echo
	@dvc metrics show metrics/val.json metrics/pseudo_labels.json --md
	@echo
	@echo 'Pictures: report/train.png, report/val.png. Rounds: metrics/rounds.csv. Curves: .venv/bin/dvc plots show. Next: README.md, "Your own images".'

test: setup
	@python -m pytest

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
