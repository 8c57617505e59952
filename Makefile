# make demo   install, then a made clip and a photo speak with the model that ships
# make demo-train   install, then raw videos -> trained model -> talking video -> scores, on clips that are made here
# make test   install, then the test suite; make test-long: what takes minutes each
#
# Needs Python 3.11 or newer with venv, make and git; nothing else, no root, no ffmpeg, no GPU.
# To keep pip from fetching torch's CUDA build on a machine without a GPU, give it PyTorch's CPU index:
#   make demo PIP_ARGS="--extra-index-url <PyTorch's CPU wheels>"

# The first of these that runs and is new enough.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13,\
	$(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3.11)
TORCH ?= torch==2.13.0
PIP_ARGS ?=
VENV ?= .venv
DEMO ?= demo
BIN = $(VENV)/bin
GPU := $(shell nvidia-smi -L 2>/dev/null | head -1)

.PHONY: install demo demo-train test test-long clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --upgrade pip
	$(BIN)/python -m pip install $(PIP_ARGS) $(TORCH)
	$(BIN)/python -m pip install $(PIP_ARGS) -e ".[test]"
ifneq ($(GPU),)
	$(BIN)/python -m pip uninstall -y onnxruntime
	$(BIN)/python -m pip install $(PIP_ARGS) -e ".[gpu]"
	$(BIN)/python -m pip install $(PIP_ARGS) --force-reinstall --no-deps onnxruntime-gpu
endif
	touch $@

demo: install
	$(BIN)/python -m tests.demo --out $(DEMO)

demo-train: install
	$(BIN)/python -m tests.demo --train --out $(DEMO)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test-long: install
	$(BIN)/python -m pytest -q -m long

clean:
	rm -rf $(VENV) $(DEMO) *.egg-info .pytest_cache .ruff_cache
