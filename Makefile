# Two commands for a new user: `make demo` and `make test`. Both build .venv when it is missing or stale.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# the servers of `make test-interop`, and the tools that read our exports; vllm takes 3.5 GB of disk and 2.5 GB of memory, guidellm 1.5 GB
ENGINES ?= llamacpp litellm otel vllm aiperf guidellm inference_perf sglang_bench dynamo
# the engines of `make test-engines`, whose own cache code or server our models are held against
CACHES  ?= llamacpp mlx_lm vllm_mlx vllm sglang sglang_server lmdeploy routers dynamo litellm

.PHONY: setup demo test test-interop test-engines lint docs bench schemas clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("traceprof needs Python 3.11 or newer: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

demo: setup
	$(BIN)/traceprof run samples/chat.jsonl -o out/demo

test: $(VENV)/.tested
	$(BIN)/python -m pytest

# one environment a server, made once; one that cannot be made fails its tests, which show the end of .engines/NAME.log
test-interop: $(VENV)/.tested
	-@$(MAKE) --no-print-directory --keep-going .engines/model/.made $(ENGINES:%=.engines/%/.installed)
	$(BIN)/python -m pytest tests/interop --engines "$(ENGINES)"

test-engines: $(VENV)/.tested
	-@$(MAKE) --no-print-directory --keep-going .engines/model/.made $(CACHES:%=.engines/%/.installed)
	$(BIN)/python -m pytest tests/engines --engines "$(CACHES)"

.engines/%/.installed: tests/interop/requirements/%.txt tests/interop/requirements/%.lock
	rm -rf .engines/$*
	mkdir -p .engines
	$(PYTHON) -m venv .engines/$*
	nice tests/interop/install $* > .engines/$*.log 2>&1
	@touch $@

.engines/model/.made: tests/interop/tiny_model.py .engines/llamacpp/.installed
	.engines/llamacpp/bin/python tests/interop/tiny_model.py .engines/model/tiny > .engines/model.log 2>&1
	@touch $@

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.tested
	$(BIN)/python docs/generate.py

schemas: setup
	$(BIN)/python -m traceprof.contracts schemas

bench: $(VENV)/.tested
	$(BIN)/python -m benchmarks.bench_kernel
	$(BIN)/python -m benchmarks.bench_run
	$(BIN)/python -m benchmarks.bench_peers
	$(BIN)/python -m benchmarks.bench_caches --small
	$(BIN)/python -m benchmarks.bench_replay
	$(BIN)/python -m benchmarks.bench_published
	$(BIN)/python -m benchmarks.bench_simulate

clean:
	rm -rf $(VENV) .engines out build dist
