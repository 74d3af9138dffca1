# Two commands: `make train` and `make test`. Both set up .venv first and may be run again at no cost.
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
.DEFAULT_GOAL := help

.PHONY: help setup train drill test check format test-gpu test-parity soak bench bench-core bench-network peers clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 22

.venv/.ready: pyproject.toml tools/setup.sh
	@PYTHON=$(PYTHON) bash tools/setup.sh

setup: .venv/.ready ## make .venv and install Holdfast into it (editable, with the developers' tools)

train: setup ## the main job: two workers train a LeNet on Fashion-MNIST (ARGS="--epochs 10" goes to the script)
	@echo "holdfast: fetching Fashion-MNIST if it is not here yet"
	@.venv/bin/holdfast data fetch fashion-mnist
	@echo "holdfast: training on two workers"
	@.venv/bin/holdfast launch --nproc-per-node 2 examples/fashion_lenet.py $(ARGS)

drill: setup ## the main job on three hosts whose links are cut: does it hold? (ARGS="--mtbf 1s")
	@.venv/bin/holdfast drill $(ARGS)

test: setup ## all tests that this machine can run (skips say why)
	@$(PY) -m pytest $(ARGS)

check: setup ## format, lint, types, the rooms' order, and what is in the wheel
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) tools/check_wheel.py

format: setup ## rewrite the code as ruff formats it
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

test-gpu: setup ## the tests that need an NVIDIA GPU and CuPy (pip install 'holdfast[cuda13]')
	@$(PY) -m pytest -m gpu $(ARGS)

test-parity: setup ## values and gradients against PyTorch (pip install torch into .venv)
	@$(PY) -m pytest -m parity $(ARGS)

soak: setup ## the long runs: hundreds of cut links, many seeds
	@$(PY) -m pytest -m soak --timeout 3600 $(ARGS)

peers: setup ## install Gloo (PyTorch), Open MPI and MPICH, each in its own environment under .peers
	@PYTHON=$(PYTHON) bash tools/peers.sh

bench: setup ## all-reduce bandwidth and data-parallel training, beside the peers that are installed
	@.venv/bin/holdfast bench all-reduce --ranks 2 --transport shm,tcp --against gloo,openmpi,mpich
	@$(PY) benchmarks/data_parallel.py

bench-core: setup ## training steps, overhead and memory beside PyTorch (pip install torch into .venv); inference plans
	@for script in train_step primitive_overhead step_memory inference_plan; do $(PY) benchmarks/$$script.py || exit 1; done

bench-network: setup ## TCP between two hosts of the kernel's, and training over 1 Gbit/s (as root)
	@for mode in free shaped rails loss rail-faults memory; do $(PY) benchmarks/network.py $$mode || exit 1; done
	@$(PY) benchmarks/slow_wire.py

clean: ## remove what is made: .venv, .peers, caches, runs are kept
	rm -rf .venv .peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
