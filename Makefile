# The two commands a newcomer needs are `make run` and `make test`. Both install first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install run verify claims test pipeline strangers chaos check isolation docs bench clean

install: $(INSTALLED)

# The stamp is newer than pyproject.toml, so an installation is redone when dependencies or entry points change.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(INSTALLED)

run: $(INSTALLED)
	$(BIN)/smolrecipe run recipes/smollm3-tiny.yaml

# What `make run` has made, proven claim by claim.
verify: $(INSTALLED)
	$(BIN)/smolrecipe verify runs/smollm3-tiny

# SmolLM3's claims in miniature, over five seeds: half an hour.
claims: $(INSTALLED)
	$(BIN)/smolrecipe run recipes/smollm3-claims.yaml

# Tests run two at a time, as many as the smallest machine that they are meant for has cores.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile
test pipeline strangers: export OMP_NUM_THREADS = 1

# What strangers rely on, and what takes longest: the conformance kit against its mutants, scaffolds, packages installed
# into environments of their own, tutorials and the reference's examples word for word.
STRANGERS := tests/core/testing tests/registry/test_scaffold.py tests/pipeline/test_examples.py \
	tests/pipeline/test_scaffold_installed.py tests/test_tutorials.py tests/test_docs.py tests/test_docs_hooks.py

strangers: $(INSTALLED)
	$(BIN)/pytest $(STRANGERS) $(PARALLEL)

# The chaos suite runs two things at a time of its own.
test: $(INSTALLED)
	$(BIN)/pytest tests --ignore tests/plugins --ignore tests/chaos --ignore tests/pipeline $(STRANGERS:%=--ignore %) \
		$(PARALLEL)
	$(BIN)/pytest tests/chaos
	$(BIN)/smolrecipe plugins test --all --jobs $(JOBS) -q

# What takes several plugins, or several processes that train together.
pipeline: $(INSTALLED)
	$(BIN)/pytest tests/pipeline $(STRANGERS:%=--ignore %) $(PARALLEL)

# The long form of what `make test` does briefly: kills at every change to a file, thousands of damaged and hostile
# files. Hours; CHAOS_MINUTES bounds the kills of the whole pipeline.
chaos: $(INSTALLED)
	$(BIN)/pytest tests -m chaos

# One plugin's tests and conformance checks with nothing but the core, the registry and what the plugin declares:
# `make isolation PLUGIN=apo`.
isolation: $(INSTALLED)
	$(BIN)/smolrecipe plugins test $(or $(PLUGIN),--all --jobs $(JOBS)) -q

# The reference of the built-in plugins, written anew; `make strangers` fails where it is stale.
docs: $(INSTALLED)
	$(BIN)/python -m smolrecipe_registry.reference docs/reference

# Side by side with what one would use instead, by turns; tables, and JSON in benchmarks/results. An hour.
BENCHMARKS := startup around loading tokenising packing masking merging pretraining post_training growth

bench: $(INSTALLED)
	for benchmark in $(BENCHMARKS); do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
