# make demo                  learn a person from 8 frames of a clip and animate the rest of it, into out/demo
# make demo VIDEO=mine.mp4   the same on a video of yours; MODEL=none starts from random weights, MODEL=FILE from a model of yours
# make test                  lint, types and the tests that are not marked slow
# make test-all              lint, types and every test
# make bench                 time networks, training steps and ops against what else there is
# Each sets up .venv when it is missing or older than pyproject.toml, setup.py or csrc/; after that nothing is fetched.
# PYTHON=python3.12 chooses the interpreter of .venv; TALKINGHEAD_BUILD and MAX_JOBS reach setup.py, which explains them.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := app,dlib,landmarks,train,demo,evaluate,synthetic,test,bench,dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all bench lint clean

demo: $(READY)
	$(BIN)/python -m talkinghead demo $(if $(VIDEO),"$(VIDEO)") $(if $(MODEL),--model "$(MODEL)")

# One thread a process: as many processes as cores share them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

bench: $(READY)
	$(BIN)/python -m pytest bench/networks
	$(BIN)/python -m pytest bench/kernels

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv out build *.egg-info .*_cache kernels/talkinghead_kernels/*.so

# The stamp is written last: a set-up that failed or was interrupted is done again.
$(READY): pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
	@command -v $(PYTHON) >/dev/null \
		|| { echo "$(PYTHON): not found, Python 3.10 or newer is needed; sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON): older than Python 3.10; sudo apt install python3.11 python3.11-venv, then make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON): cannot make virtual environments; sudo apt install python3-venv" >&2; exit 1; }
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
		|| $(PYTHON) -m venv $$($(BIN)/python -c '' 2>/dev/null || echo --clear) .venv
	@echo "setting up .venv, once (some minutes, most of them for torch)"
	$(PIP) torch  # first: the kernels are built against it
	$(PIP) -e '.[$(EXTRAS)]'
	@$(BIN)/python -m talkinghead_kernels
	@touch $@
