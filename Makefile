# `make demo` and `make test` set up everything they need in .venv and run; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Imports read thousands of files: they are compiled once, into .venv, also where the environment forbids it.
export PYTHONDONTWRITEBYTECODE :=
SYSTEM := slurm or browser or torchcodec
QUICK := not slow and not ($(SYSTEM))

.PHONY: help demo demo-images demo-segmentation demo-actions demo-detection test test-system test-all wheel-test golden docs lint format bench clean constraints
.DEFAULT_GOAL := help

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mvrec needs Python 3.11 or newer; $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "cannot create $(VENV): on Debian and Ubuntu 'apt install python3-venv' first" >&2; exit 1; }
	$(BIN)/pip install --quiet uv

# One stamp per set of extras, so that a second run installs nothing.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo  ## generate moving digits, train a small MViT on them, evaluate (minutes on 2 cores)
	$(BIN)/mvrec demo

demo-images: $(VENV)/.installed-demo  ## train a small network of every family on JPEGs and PNGs of digits (minutes each)
	$(BIN)/mvrec demo-images

demo-segmentation: $(VENV)/.installed-demo  ## learn the class of every pixel of generated scenes (minutes on 2 cores)
	$(BIN)/mvrec demo-segmentation

demo-actions: $(VENV)/.installed-demo  ## learn how each of several digits moves, and who does what in a video (minutes)
	$(BIN)/mvrec demo-actions

demo-detection: $(VENV)/.installed-demo  ## learn the box, mask and name of every digit of generated scenes (minutes)
	$(BIN)/mvrec demo-detection

test: $(VENV)/.installed-test  ## the quick tests, which need nothing but Python
	$(BIN)/python -m pytest -m "$(QUICK)" --numprocesses auto --dist worksteal

test-system: $(VENV)/.installed-test  ## the tests that need Slurm, a browser or FFmpeg's libraries
	$(BIN)/python -m pytest -m "not slow and ($(SYSTEM))" --numprocesses auto --dist loadfile

test-all: $(VENV)/.installed-test  ## all tests, and the quick ones as on a processor without AVX-512
	$(BIN)/python -m pytest
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -m "$(QUICK)" --numprocesses auto --dist worksteal

wheel-test: $(BIN)/uv  ## install the wheel into an empty environment and use it in an empty folder
	.ci/wheel.sh

golden: $(VENV)/.installed-test  ## the table of our outputs next to the recorded ones of the authors' code
	$(BIN)/python tests/models/golden_support.py

docs: $(VENV)/.installed-docs  ## the pages of docs/ and an API reference as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site"

lint: $(VENV)/.installed-test $(VENV)/.installed-dev  ## ruff, formatting, types and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/words.py

format: $(VENV)/.installed-dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test  ## measure mvrec next to its peers in half an hour, and update docs/performance.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/page.py --measure 30

constraints: $(BIN)/uv  ## pin the newest versions that fit pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --strip-extras \
		--no-annotate --no-header --quiet --upgrade --output-file constraints.txt

clean:  ## remove the environment and caches; data/ and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
