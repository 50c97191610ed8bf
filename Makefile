# Set-up is part of each target: the first one makes .venv with the pinned development environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: help build gpu-check test test-python test-kernels lint format demo bench limits clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

build: $(VENV)/.installed  ## compile the CUDA kernels into this folder, where there is nvcc
	PATH="$(abspath $(BIN)):$$PATH" MAX_JOBS=$(JOBS) $(BIN)/python setup.py build_ext --inplace

gpu-check:  ## all that a machine with a GPU can check, in ten minutes; needs torch and pytest there
	$(PYTHON) scripts/gpu_check.py

test: build test-kernels test-python  ## all tests

test-python: $(VENV)/.installed  ## the tests in Python
	$(BIN)/python -m pytest -n $(JOBS)

# The kernels compiled by the host compiler and executed by the emulator.  NVIDIA's headers come
# from the environment, so no CUDA toolkit is needed.
test-kernels: $(VENV)/.installed  ## the C++ tests: kernels on the emulator, plain and sanitized
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cmake -S . -B build/emulation -G Ninja --log-level=WARNING \
		-DCMAKE_PREFIX_PATH="$$(echo $(abspath $(VENV))/lib/python3*/site-packages/nvidia/cu13)"
	$(BIN)/cmake --build build/emulation --parallel $(JOBS)
	$(BIN)/ctest --test-dir build/emulation --parallel $(JOBS) --output-on-failure

lint: $(VENV)/.installed  ## ruff, mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cuh' '*.cu' '*.cpp' | xargs -r $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.installed  ## let ruff and clang-format write
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files '*.h' '*.cuh' '*.cu' '*.cpp' | xargs -r $(BIN)/clang-format -i

demo: $(VENV)/.installed  ## train on handwritten digits with each loss; table and pictures
	PYTHONPATH=. $(BIN)/python examples/train_digits.py --output demo_output

limits: $(VENV)/.installed  ## n = 65536 on this machine: time and memory of a step
	PYTHONPATH=. $(BIN)/python examples/limits.py

bench: $(VENV)/.installed  ## time and memory against other implementations: a table, CSV and pictures
	PYTHONPATH=. $(BIN)/python benchmarks/bench.py

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
