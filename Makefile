# make demo   environment + the whole pipeline on generated data + its scores
# make test   environment + all tests
# make validate ARCHIVE=my.tar.gz [IDS=test.txt]   an archive for the test server, made here or elsewhere
# Needs git, a C++ compiler and Python 3.11 or 3.12; PYTHON=… names another interpreter.

SUITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
# The first that runs and has the right version: a version manager's shim may be on PATH and lead nowhere.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do $$p $(SUITS) 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# An active environment of another project must not leak into the stages.
unexport PYTHONPATH PYTHONHOME

.PHONY: setup demo test lint bench validate ablation-rounds ablation-psl ablation-tables clean

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11 or 3.12 on PATH (the dense CRF does not build on later ones), found $$(python3 -V 2>&1); install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) $(SUITS) || { echo "make: PYTHON=$(PYTHON): expected Python 3.11 or 3.12, found $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@command -v git >/dev/null || { echo "make: git is missing; Debian and Ubuntu: apt-get install git"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || { echo "make: a C++ compiler is missing (the dense CRF is compiled); Debian and Ubuntu: apt-get install g++; macOS: xcode-select --install"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || \
		{ echo "make: the Python headers are missing (the dense CRF is compiled); Debian and Ubuntu: apt-get install python3-dev"; exit 1; }
	@echo "Creating .venv (torch alone is some gigabytes: a few minutes)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch .venv/ready

demo: setup
	@dvc repro
	@echo
	@dvc metrics show metrics/val.json metrics/pseudo_labels.json --md
	@echo
	@echo 'Pictures: report/train.png, report/val.png. Rounds: metrics/rounds.csv. Curves: .venv/bin/dvc plots show. Next: README.md, "Your own images".'

test: setup
	@python -m pytest

lint: setup
	@ruff check .
	@mypy

bench: setup
	@python -m benchmarks

validate: setup
	@test -n "$$ARCHIVE" || { echo "make: expected an archive: make validate ARCHIVE=my.tar.gz [IDS=list of the test ids, or an index.csv]"; exit 1; }
	@python -m aepsl.evaluation.submission "$$ARCHIVE" --index data/index.csv $${IDS:+--ids "$$IDS"}

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
	@python -m aepsl.evaluation.ablations --readme README.md --readme docs/reproducing.md

clean:
	rm -rf .venv scratch .pytest_cache .mypy_cache .ruff_cache .hypothesis
