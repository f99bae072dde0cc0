# A fresh machine needs only Python and make: .venv is made on demand, with the tested versions of constraints.txt.
# ARGS is passed on, for example: make test ARGS="tests/unit -k heads"

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
SHAPES := $(addprefix tests/unit/test_,distributions.py estimators.py learner.py losses.py reinforce_losses.py relaxations.py \
	sac_loss.py subsets.py values.py)

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help train test shapes lint docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

train: $(INSTALLED) ## train an agent: discrete-sac on CartPole-v1 unless ARGS says otherwise
	$(BIN)/python run_agent.py train $(ARGS)

test: $(INSTALLED) ## run the tests on WORKERS processes, one torch thread each
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

shapes: $(INSTALLED) ## run tests of the mathematics with functions held to the shapes in their annotations
	$(BIN)/python -m pytest -q -p tests.common.shapes -k "not compile and not in_the_mean and not learns" $(SHAPES) $(ARGS)

lint: $(INSTALLED) ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED) ## build the site into build/site; a broken link or a name without a page is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

bench: $(INSTALLED) ## time one update of the learner, and the samplers
	$(BIN)/python benchmarks/studies/speed/update_speed.py $(ARGS)
	$(BIN)/python benchmarks/studies/speed/samplers.py $(ARGS)

clean: ## remove .venv, builds and caches; runs/ stays
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an installation that failed is tried again.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes a minute or more."
	@rm -f $@
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,cli]" --constraint constraints.txt
	@touch $@
