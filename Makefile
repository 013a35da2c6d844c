# `make demo` and `make test` need Python 3.11 and make, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts unit extras spark flink format sample lock clean

help: ## list what there is to make
	@grep -hE '^[a-z-]+%?:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/installed ## run the whole path on the bundled sample: raw web to a trained step
	$(BIN)/mixwright demo

test: lint types contracts unit ## everything that has to hold: lint, types, import contracts, tests

lint: .venv/installed ## ruff, as linter and as formatter
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed ## mypy, strict
	$(BIN)/mypy

contracts: .venv/installed ## which folder may import which
	$(BIN)/lint-imports

# One thread each: more wait for one another in busy loops, which doubles the time of the models.
unit: .venv/installed ## pytest on two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

format: .venv/installed ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

extras: .venv/installed ## install each extra apart by pip and import its folders: a network, gigabytes, minutes
	MIXWRIGHT_PIP=1 $(BIN)/pytest tests/test_extras.py

spark: .venv/installed ## start a Spark cluster on loopback and say how to run on it; needs Java and Maven
	$(BIN)/python tests/spark/cluster.py

flink: .venv/installed ## start Flink's job server on loopback and say how to run on it; needs Java and Maven
	$(BIN)/python tests/flink/cluster.py

bench-%: .venv/installed ## run benchmarks/NAME.py; ARGS=--quick for less than a minute
	$(BIN)/python benchmarks/$*.py $(ARGS)

sample: .venv/installed ## make the bundled sample again; SOURCE is a folder of Debian documentation
	$(BIN)/python tests/data/make_sample.py --source $(SOURCE)

# Needs uv: pip's resolver gives the same versions, but takes minutes to print hashes.
lock: ## pin every dependency with its hashes
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --constraint constraints.txt --generate-hashes --no-header --no-annotate -o requirements.txt

clean: ## remove runs and caches, not .venv
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --no-deps -r requirements.txt # all of them are there
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
