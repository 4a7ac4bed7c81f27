# make demo   the main job, from text to circuit    make test   all tests    make check   the fast part
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# A core each, and a file's tests on one of them, where they share what they train.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: setup demo check test format asan triton clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard src/openwork/kernels/*.cpp src/openwork/kernels/*.h)
	$(PYTHON) -c 'import sys; sys.exit("Openwork needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/openwork demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST) -m 'not slow'

test: setup browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST)

# The page is tested in headless Chromium: installed where that is possible, else named, and its tests are skipped.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no Chromium here and no way to install it: the tests of the page in a browser are skipped"

# The kernels' tests with a build that fails on the first access out of bounds.
asan: setup
	$(BIN)/python tests/kernels/asan.py

# The GPU's kernels in Triton's interpreter, some minutes; `make check` tests them where there is a GPU.
triton: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'triton>=3.6'
	CUDA_VISIBLE_DEVICES= TRITON_INTERPRET=1 $(BIN)/python -m pytest -k gpu tests/kernels/test_abs_topk.py tests/kernels/test_keep_topk.py tests/kernels/test_passes.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist src/*.egg-info src/openwork/kernels/*.so
