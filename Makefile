# Set-up is part of each target: the first one makes .venv with the pinned development environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# the oldest PyTorch that runs the kernels, and one that machines with a GPU often have
OLD_TORCH ?= 2.10 2.11
# the oldest that runs the losses in PyTorch, and what is tried there
OLDEST_TORCH ?= 2.6
OLDEST_TESTS := tests/distributed tests/losses tests/miners tests/reductions tests/routes tests/tiled tests/test_*.py

.PHONY: help build build-for-tests test test-python test-faults test-kernels test-torch test-examples docs lint format \
	demo bench limits clean gpu-build gpu-before gpu-check gpu-rehearse emulation wheel

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip compiles on one core, and the packages' own tests, too.
$(VENV)/.installed: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	-$(BIN)/python -m compileall -qq -j $(JOBS) -x '/tests/|/testing/_internal/' $(VENV)/lib
	touch $@

build:  ## compile the CUDA kernels into this folder, where there is nvcc
# Machine code of fp16 for sm_90a and of fp32 for sm_80 alone, and PTX: three tenths less to compile.
# Where `make build` has made all of it, that stays; and where there is a GPU, it is needed.
HAS_ALL_CODE := $(shell grep -qs 'FUSEDML_ONE_MACHINE_CODE:BOOL=OFF' build/native/CMakeCache.txt && echo yes)
NEEDS_ALL_CODE := $(HAS_ALL_CODE)$(wildcard /dev/nvidia0 /dev/dxg)
build-for-tests: export FUSEDML_CMAKE_ARGS += $(if $(NEEDS_ALL_CODE),,-DFUSEDML_ONE_MACHINE_CODE=ON)
build build-for-tests: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" MAX_JOBS=$(JOBS) $(BIN)/python setup.py build_ext --inplace

gpu-build: $(VENV)/.installed  ## what gpu-check needs, compiled here for sm_90a; prints what to carry there
	PATH="$(abspath $(BIN)):$$PATH" MAX_JOBS=$(JOBS) $(BIN)/python -m scripts.gpu_check.binaries

gpu-before: $(VENV)/.installed  ## keep what gpu-build made, for `gpu-check second` to compare with
	$(BIN)/python -m scripts.gpu_check.binaries --keep-as-before

gpu-check:  ## all that a machine with a GPU can check in 6.5 minutes; needs torch and pytest there
	$(PYTHON) -m scripts.gpu_check

gpu-rehearse: $(VENV)/.installed  ## gpu-check on this machine, with emulated kernels and small sizes
	$(BIN)/python -m scripts.gpu_check --rehearse

# Each build leaves cores idle while its last compilers run: side by side they fill them.  The tests in
# C++, many and short, give way to the compilers of the kernels for GPUs, few and long.
test: $(VENV)/.installed  ## all tests
	$(MAKE) --jobs build-for-tests test-kernels
	$(MAKE) test-python

test-python: $(VENV)/.installed  ## the tests in Python
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-faults: $(VENV)/.installed  ## every fault seeded into the kernels is noticed; test tries a twentieth
	FUSEDML_ALL_FAULTS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/mutations

# The kernels compiled by the host compiler and executed by the emulator.  NVIDIA's headers come
# from the environment, so no CUDA toolkit is needed.
emulation: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cmake -S . -B build/emulation -G Ninja --log-level=WARNING \
		-DCMAKE_PREFIX_PATH="$$(echo $(abspath $(VENV))/lib/python3*/site-packages/nvidia/cu13)"

test-kernels: emulation  ## the C++ tests: kernels on the emulator, plain and sanitized
	nice $(BIN)/cmake --build build/emulation --parallel $(JOBS)
	nice $(BIN)/ctest --test-dir build/emulation --parallel $(JOBS) --output-on-failure

# The extension and the emulated binding, built beside the torch of .venv, under older ones.  pip may
# offer these as CUDA builds of several GB only; those do as well.
build/torch-%/.installed:
	$(PYTHON) -m venv build/torch-$*
	build/torch-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		'torch==$*.*' $$(grep -E '^(numpy|pytest|pytorch-metric-learning|hypothesis)' requirements-dev.txt)
	touch $@

test-torch: build emulation $(OLD_TORCH:%=build/torch-%/.installed) build/torch-$(OLDEST_TORCH)/.installed  ## import, torch.compile and emulated GPU tests under older PyTorch
	$(BIN)/cmake --build build/emulation --parallel $(JOBS) --target fusedml_emulated_binding
	@for version in $(OLD_TORCH); do \
		python=build/torch-$$version/bin/python && echo "== torch $$version" && \
		$$python -c "from fusedml import _build_info as built, HAS_NATIVE, NATIVE_ERROR; \
			assert built.native == HAS_NATIVE, NATIVE_ERROR" && \
		FUSEDML_GPU_TESTS=emulated $$python -m pytest -n $(JOBS) tests/gpu && \
		$$python -m pytest -n $(JOBS) tests/packaging/test_binary.py tests/losses/test_compile.py \
		|| exit 1; \
	done
	build/torch-$(OLDEST_TORCH)/bin/python -m pytest -n $(JOBS) $(OLDEST_TESTS)

wheel: build $(OLD_TORCH:%=build/torch-%/.installed)  ## wheel and sdist in dist/, the wheel tried beside older PyTorch
	PATH="$(abspath $(BIN)):$$PATH" MAX_JOBS=$(JOBS) $(BIN)/python -m scripts.wheel \
		$(OLD_TORCH:%=build/torch-%/bin/python) $(BIN)/python

build/examples/.installed: requirements-examples.txt requirements-dev.txt
	$(PYTHON) -m venv build/examples
	build/examples/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-examples.txt
	touch $@

test-examples: build/examples/.installed  ## the examples within Lightning, accelerate and sentence-transformers
	build/examples/bin/python -m pytest tests/examples/test_frameworks.py tests/site/test_guides.py

docs: $(VENV)/.installed  ## the documentation site, into site/; warnings are errors
	$(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed  ## ruff, mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.h' '*.cuh' '*.cu' '*.cpp' | xargs -r $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.installed  ## let ruff and clang-format write
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files '*.h' '*.cuh' '*.cu' '*.cpp' | xargs -r $(BIN)/clang-format -i

demo: $(VENV)/.installed  ## train on handwritten digits with several losses; table and pictures
	PYTHONPATH=. $(BIN)/python examples/train_digits.py --output demo_output

limits: $(VENV)/.installed  ## n = 65536 on this machine: time and memory of a step
	PYTHONPATH=. $(BIN)/python examples/limits.py

bench: $(VENV)/.installed  ## time and memory against other implementations: a table, CSV and pictures
	PYTHONPATH=. $(BIN)/python benchmarks/bench.py

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist site demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
