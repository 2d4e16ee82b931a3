# `make demo` and `make test` do all their set-up on a fresh machine: Python >= 3.10, a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
# Any torch from 2.11 on works; one that is already in $(VENV) is kept.
TORCH ?= torch==2.13.0
RUN := runs/demo
BIN := $(VENV)/bin

.PHONY: help demo test test-cuda bench bench-cuda check cuda-check clean
help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.corpus ## build a small real corpus, train k=20 D=320 on it, evaluate on unseen attacks
	@rm -rf $(RUN)
	$(BIN)/python scripts/train.py --k 20 --dim 320 --preset demo --output $(RUN)
	$(BIN)/python scripts/evaluate.py $(RUN)/best.safetensors --split eval

test: $(VENV)/.dev ## the whole test suite
	$(BIN)/python -m pytest -q --benchmark-skip

test-cuda: $(VENV)/.dev ## the suite on a machine with a GPU; a missing GPU is a failure
	FAIL_WITHOUT_CUDA=1 $(BIN)/python -m pytest -q --benchmark-skip

bench: $(VENV)/.dev ## all benchmarks, or SUITE=topk|graph|model|analysis, on this CPU; ISA=avx2 limits it
	$(call run_benchmarks,cpu)

bench-cuda: $(VENV)/.dev ## the same on a GPU; REPRESENTATIVE=1 measures few sizes, a minute per suite
	$(call run_benchmarks,cuda)

# Each benchmark is written as it finishes: the second command alone shows a run that was cut off.
define run_benchmarks
	$(BIN)/python -m pytest $(if $(SUITE),benchmarks/bench_$(SUITE).py,benchmarks) -q --device $(1) \
	  --results build/bench_$(1).jsonl $(if $(REPRESENTATIVE),--representative) $(if $(ISA),--isa $(ISA))
	$(BIN)/python benchmarks/report.py build/bench_$(1).jsonl \
	  "make $@$(if $(SUITE), SUITE=$(SUITE))$(if $(REPRESENTATIVE), REPRESENTATIVE=1)$(if $(ISA), ISA=$(ISA))"
endef

check: $(VENV)/.dev ## format and lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*' 'tests/simt/*')

cuda-check: ## compile every CUDA source (needs nvcc, neither GPU nor torch); warnings are errors
	$(PYTHON) build_backend/cuda_check.py

clean: ## remove the environment and what the build left
	rm -rf $(VENV) build dist *.egg-info sparse_aasist/*.so

# One stamp per set of extras, so that each is installed once and again when its list changes.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install "$(TORCH)"
	@touch $@

SOURCES := pyproject.toml setup.py $(wildcard build_backend/*.py csrc/*.* csrc/*/*.*)
$(VENV)/.dev: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@

$(VENV)/.corpus: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install -q -e ".[corpus]"
	@touch $@
