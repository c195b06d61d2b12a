# Two commands do all the set-up: `make demo` and `make test`.
#   make demo    virtual environment, install, models, then the main job on them; GPU=cuda or vulkan builds
#                llama.cpp for a graphics processor
#   make test    the same set-up, then the tests; COVERAGE=1 also holds each module to its coverage so far, and
#                WRITE=1 keeps what was measured as the new floors
#   make quick   for every save: the tests that start no process and need no model, under 2 minutes
#   make check   what CI does, before a pull request: the tests and `make lint`
#   make fix     let ruff put right what it can
#   make bench   the measurements of bench/
#   make install VENV=/opt/airdraft   a virtual environment that does without this checkout
#   make wheels  dist/*.whl, which install without a compiler (Linux on x86-64); `make demo` takes them from there
#   make docs    the site of docs/ in build/site; a link that leads nowhere is an error
#   make release VERSION=x.y.z   changelog, version, commit, tag and wheels; DRY_RUN=1 only says what it would do
#   make lock    requirements/*.txt anew from pyproject.toml and *.in; UPGRADE=1 takes newer versions
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
PROMPT ?= The three most useful things to carry on a long walk are

# llama.cpp is compiled once, by the installation of llama-cpp-python. Any flags do: airdraft's own kernels
# are compiled apart from it (nodes/engine/kernels).
CMAKE_ARGS ?= -DLLAVA_BUILD=OFF '-DCMAKE_PROJECT_ggml_INCLUDE=$(CURDIR)/packaging/library_only.cmake'
# GPU=cuda or GPU=vulkan; pip's cache may hold a build without.
ifdef GPU
CMAKE_ARGS += -DGGML_$(shell echo $(GPU) | tr a-z A-Z)=on
export PIP_NO_CACHE_DIR := 1
endif
CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 1)
export CMAKE_ARGS CMAKE_BUILD_PARALLEL_LEVEL

# Wheels in dist/ are taken instead of compiling: llama.cpp if it is of the locked version, and the kernels unless
# their sources are newer. Those for a graphics processor are always compiled.
LLAMA := $(shell sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' requirements/run.txt)
ifndef GPU
LLAMA_WHEEL := $(wildcard dist/llama_cpp_python-$(LLAMA)-*.whl)
OUR_WHEEL := $(lastword $(wildcard dist/airdraft-*-manylinux*.whl))
ifneq ($(shell find nodes/engine/kernels \( -name '*.cpp' -o -name '*.h' \) -newer "$(OUR_WHEEL)" 2>&1),)
OUR_WHEEL :=
endif
endif

VENV := .venv
BIN := $(VENV)/bin
# Versions and hashes are those of requirements/; nothing is fetched for a build beside them.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
LOCKED := $(PIP_INSTALL) --no-build-isolation --require-hashes
OURS := $(PIP_INSTALL) --no-build-isolation --no-deps
RELOCK := build/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

# One more at a time than there are cores, for some tests wait for a limit to pass. Whoever is done takes
# tests from the others.
NUM_WORKERS := $(shell echo $$(($$(nproc 2>/dev/null || echo 1) + 1)))
PYTEST := $(BIN)/python -m pytest -q -n $(NUM_WORKERS) --dist worksteal

.DELETE_ON_ERROR:
.PHONY: demo test quick lint check fix bench install wheels docs release lock models

demo: $(VENV)/installed models
	@$(BIN)/airdraft run "$(PROMPT)" --max-tokens 64

test: $(VENV)/installed-dev models
	$(PYTEST) $(if $(COVERAGE),--cov --cov-report=json:build/coverage.json)
	$(if $(COVERAGE),$(BIN)/python tests/coverage_floors.py build/coverage.json $(if $(WRITE),--write))

quick: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

fix: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev models
	$(BIN)/python -m bench

# An environment of its own, with a compiler from PyPI.
wheels: build/wheels/locked
	build/wheels/venv/bin/python packaging/wheels.py

build/wheels/locked: requirements/build.txt requirements/wheels.txt
	$(PYTHON) -m venv build/wheels/venv
	build/wheels/venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
		--require-hashes -r requirements/build.txt -r requirements/wheels.txt
	@touch $@

# An environment of its own: the site needs nothing of airdraft.
docs: build/docs/locked
	build/docs/bin/python -m mkdocs build --strict

build/docs/locked: requirements/docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --require-hashes \
		-r requirements/docs.txt
	@touch $@

release: $(VENV)/installed-dev
	@$(BIN)/python packaging/release.py $(if $(DRY_RUN),--dry-run) "$(VERSION)"

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --require-hashes \
		-r requirements/lock.txt
	$(RELOCK) requirements/build.in -o requirements/build.txt
	$(RELOCK) -c requirements/build.txt \
		pyproject.toml requirements/run.in -o requirements/run.txt
	$(RELOCK) -c requirements/build.txt -c requirements/run.txt --extra dev \
		pyproject.toml -o requirements/dev.txt
	$(RELOCK) -c requirements/build.txt -c requirements/run.txt -c requirements/dev.txt \
		requirements/docs.in -o requirements/docs.txt
	$(RELOCK) -c requirements/build.txt requirements/wheels.in -o requirements/wheels.txt
	$(RELOCK) requirements/lock.in -o requirements/lock.txt

# Order only: with `make demo` the base installation comes first, with `make test` that of the tools.
models: | $(VENV)/installed
	@$(BIN)/airdraft models pull

$(VENV)/locked: requirements/build.txt requirements/run.txt | $(VENV)/made
	@echo "Installing$(if $(LLAMA_WHEEL),,; compiling llama.cpp takes about three minutes on two cores)."
	$(LOCKED) -r requirements/build.txt
	$(if $(LLAMA_WHEEL),$(PIP_INSTALL) --no-deps $(LLAMA_WHEEL))
	$(LOCKED) -r requirements/run.txt
	@touch $@

$(VENV)/installed: pyproject.toml $(VENV)/kernels
	$(OURS) -e .
	@touch $@

$(VENV)/kernels: $(wildcard nodes/engine/kernels/*.cpp nodes/engine/kernels/*.h) $(VENV)/locked
ifdef OUR_WHEEL
	$(BIN)/python -m zipfile -e $(OUR_WHEEL) build/ours
	find build/ours -name libairdraft-kernels.so -exec install -m 644 {} nodes/engine/kernels/ \;
else
	@echo "Compiling airdraft's kernels takes about half a minute on two cores."
	$(BIN)/python -m airdraft.nodes.engine.kernels.build
endif
	@touch $@

# In another folder, where Python finds what was installed and not this checkout.
install: $(VENV)/locked
	$(OURS) .
	cd $(BIN) && ./python -m airdraft.nodes.engine.kernels.build

$(VENV)/installed-dev: requirements/dev.txt $(VENV)/installed
	$(LOCKED) -r requirements/dev.txt
	@touch $@

# CMake is not asked for: requirements/build.txt brings it.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "airdraft needs Python 3.11 or newer as $(PYTHON): sudo apt-get install python3 python3-venv, or make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "airdraft needs Python's venv module: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(if $(and $(LLAMA_WHEEL),$(OUR_WHEEL)),exit 0;) for c in "$${CXX:-c++}" g++ clang++; do command -v $$c >/dev/null && exit 0; done; echo "airdraft needs a C++ compiler to build llama.cpp: sudo apt-get install g++" >&2; exit 1
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@
