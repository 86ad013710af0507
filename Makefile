# Everything a person or CI runs here. `make` alone lists the targets.
#
# The tools live in .venv, made from requirements.lock. They are started with
# `python -m`, so a moved checkout, or one whose path holds spaces, works too.

# The Python that .venv is made from; by default the first of these that fits.
PYTHON ?=
CANDIDATES := python3.11 python3.12 python3
VENV_PYTHON := .venv/bin/python

# A candidate is tried by running it: a version manager's stub may exist and still fail.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# pip says nothing for half a minute, or else hundreds of lines: a dot each second says that it
# works. They end with the shell that runs pip, however that ends.
DOTS := (while sleep 1 && kill -0 $$$$ 2>/dev/null; do printf .; done) & dots=$$!
NO_MORE_DOTS := code=$$?; kill $$dots; echo; [ $$code -eq 0 ]

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test lint types bench soak notebooks pictures lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1	/p' Makefile | expand -t 14

setup: .venv/.ready  ## make .venv with all that demo, tests and notebooks need
	@:

# The stamp is written last, so a set-up that was broken off begins anew.
.venv/.ready: requirements.lock pyproject.toml
	@for python in $(if $(PYTHON),'$(PYTHON)',$(CANDIDATES)); do \
	    "$$python" -c '$(FITS)' >/dev/null 2>&1 && break; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "lotstream needs Python 3.11 or 3.12 with pip and venv; none of these is one:" \
	        "$(or $(PYTHON),$(CANDIDATES)). Install one, or name it: make PYTHON=/path/to/python." >&2; \
	    echo "With 3.13 or later only, there are two ways: a version manager brings 3.12 beside it" \
	        "(pyenv install 3.12, or uv python install 3.12), or the container does without" \
	        "(docker build --file deploy/Dockerfile --tag lotstream .)." >&2; \
	    exit 1; \
	fi; \
	echo "Making .venv with $$("$$python" --version) (about a minute)"; \
	"$$python" -m venv --clear .venv; \
	echo "Installing $$(grep -c '^[A-Za-z0-9]' requirements.lock) packages of requirements.lock"
	@$(DOTS); $(VENV_PYTHON) -m pip install --quiet --quiet --disable-pip-version-check \
	    --only-binary :all: --require-hashes --requirement requirements.lock; $(NO_MORE_DOTS)
	@touch .venv/.ready

demo: setup  ## publish a sample, run the real flow, show the positions
	@$(VENV_PYTHON) -m flows.demo

quick: lint types  ## between two edits: lint, types and the tests that start nothing
	@$(VENV_PYTHON) -m pytest -n 2 -q -r fE --hypothesis-profile quick \
	    -m "not server and not process and not long and not soak"

test: lint types  ## lint, types and all tests but the soak
	@$(VENV_PYTHON) -m pytest -n 3 --dist loadfile

lint: setup
	@$(VENV_PYTHON) -m ruff check --quiet
	@$(VENV_PYTHON) -m ruff format --check --quiet

types: setup
	@$(VENV_PYTHON) -m mypy --no-error-summary

bench: setup  ## measure speed and memory
	@$(VENV_PYTHON) -m flows.bench

soak: setup  ## the long chaos run
	@$(VENV_PYTHON) -m pytest -m soak

# The sample has a place of its own: a flow that wrote there would mix its rows with it.
notebooks: setup  ## open the notebooks in JupyterLab: on DATA_DIR (data), else on a sample
	@$(VENV_PYTHON) -c 'import jupyterlab' 2>/dev/null || { echo "Installing JupyterLab"; \
	    sed -n 's/ *\\$$//; /^[A-Za-z0-9]/p' requirements.lock > .venv/pins.txt; \
	    $(DOTS); $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check \
	        --constraint .venv/pins.txt 'jupyterlab>=4,<5'; $(NO_MORE_DOTS); }
	@data="$${DATA_DIR:-data}"; if [ ! -d "$$data/positions" ]; then \
	    echo "No rows in $$data: showing the sample in data-sample"; data=data-sample; \
	    [ -d $$data ] || $(VENV_PYTHON) -m flows.demo --keep $$data || exit; \
	fi; \
	DATA_DIR="$$data" $(VENV_PYTHON) -m jupyterlab --notebook-dir notebooks

pictures: setup  ## make the pictures of docs/pictures.md anew (needs Chromium)
	@$(VENV_PYTHON) -m flows.demo.pictures

lock: setup  ## pin the newest versions that pyproject.toml allows
	@$(VENV_PYTHON) -m uv pip compile pyproject.toml --extra dev --upgrade --quiet \
	    --universal --python-version 3.11 --only-binary :all: --generate-hashes \
	    --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make lock' --output-file requirements.lock

clean:  ## remove .venv and the tools' caches
	@rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
