# What people run, what hooks run, what CI runs. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Outside the checkout, so that a fresh clone need not build everything anew.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/servable
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RUST_SOURCES := $(shell find crates proto -type f) Cargo.toml Cargo.lock
ENGINE := $(VENV)/.engine
TOOLS := $(VENV)/.tools
BENCH_TOOLS := $(VENV)/.bench-tools
HELM_VERSION := v3.19.0

.PHONY: own-target help install demo test test-rust test-python test-compat helm fuzz soak check format wheel sbom clean
.PHONY: bench bench-quick bench-guard

help: ## List what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(ENGINE) ## Make .venv with the console scripts servable and tensorflow_model_server

$(TOOLS): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --group dev
	$(BIN)/pip install --quiet --no-deps tensorflow-serving-api tensorflow-text
	touch $@

$(BENCH_TOOLS): $(TOOLS)
	$(BIN)/pip install --quiet --group bench
	touch $@

# Checkouts share the target folder, and Cargo knows files by their time alone: after another checkout has built there,
# our own crates have to be looked at afresh. The crates of others stay built.
own-target:
	@mkdir -p $(CARGO_TARGET_DIR)
	@if [ "$$(cat $(CARGO_TARGET_DIR)/.checkout 2>/dev/null)" != "$(CURDIR)" ]; then \
	  touch crates/*/src/lib.rs crates/wire/build.rs; echo "$(CURDIR)" > $(CARGO_TARGET_DIR)/.checkout; fi

$(ENGINE): $(TOOLS) $(RUST_SOURCES) | own-target
	@command -v cargo >/dev/null || { echo 'Rust is needed: install it from https://rustup.rs'; exit 1; }
	VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(BIN)/maturin develop --release --locked --quiet
	touch $@

demo: install ## Serve the bundled models on 8500 (gRPC) and 8501 (REST)
	$(BIN)/servable demo

test: test-rust test-python ## All tests

test-rust: own-target
	cargo test --workspace --locked --quiet

test-python: install
	$(BIN)/pytest

test-compat: install ## End-to-end tests on the oldest and the newest TensorFlow
	PYTHON=$(PYTHON) tools/test_compat.sh

helm: ## Build helm for the tests of the chart, if Go is here; takes minutes, once
	tools/make_helm.sh $(HELM_VERSION) $(CACHE)/bin/helm-$(HELM_VERSION)

# A folder of its own: what is built there counts what it reaches.
fuzz: export CARGO_TARGET_DIR := $(CARGO_TARGET_DIR)-fuzz
fuzz: ## Odd bytes for every decoder, FUZZ_SECONDS (20) each
	fuzz/run.sh $(FUZZ_SECONDS)

check: install own-target ## Format, lint, types, licences, known weaknesses
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	tools/audit_rust.sh
	$(BIN)/python tools/audit_python.py
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	$(BIN)/ruff format --check python tests tools benches fuzz
	$(BIN)/ruff check python tests tools benches fuzz
	$(BIN)/mypy
	$(BIN)/python tools/make_flag_reference.py --check
	$(BIN)/python tools/make_dashboard.py --check
	$(BIN)/python -m mypy.stubtest servable._engine --allowlist tests/boundary/stub_allowlist.txt

format: install ## Put everything into shape
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(BIN)/ruff check --fix python tests tools benches fuzz
	$(BIN)/ruff format python tests tools benches fuzz

soak: install $(BENCH_TOOLS) ## Versions come and go while everything goes wrong (SOAK_SWAPS, 200), then an hour of mixed load (SOAK_MINUTES)
	SERVABLE_SOAK_SWAPS=$(or $(SOAK_SWAPS),200) $(BIN)/pytest tests/e2e/test_never_lose.py --timeout=3600 -s
	$(BIN)/python benches/soak.py --minutes=$(or $(SOAK_MINUTES),60)

bench: install $(BENCH_TOOLS) ## Measure: speed, latency, growth, changes of versions, many models, batching, a steady workload
	$(BIN)/python benches/run.py
	$(BIN)/python benches/latency.py
	$(BIN)/python benches/growth.py
	$(BIN)/python benches/quiet.py
	$(BIN)/python benches/many.py
	$(BIN)/python benches/batching.py
	$(BIN)/python benches/steady.py

bench-guard: install ## Compare instruction counts of a request's path with those that are kept (GUARD=--update keeps new ones)
	$(BIN)/python benches/guard.py $(GUARD)

bench-quick: install $(BENCH_TOOLS) ## The same, briefly: does it still work?
	$(BIN)/python benches/run.py --quick
	$(BIN)/python benches/latency.py --quick
	$(BIN)/python benches/growth.py --quick
	$(BIN)/python benches/quiet.py --quick
	$(BIN)/python benches/many.py --models=20 --seconds=1
	$(BIN)/python benches/batching.py --quick
	$(BIN)/python benches/steady.py --quick
	$(BIN)/python benches/soak.py --quick

wheel: $(TOOLS) own-target ## Build the abi3 wheel into dist/
	$(BIN)/maturin build --release --locked --out dist

sbom: $(TOOLS) ## What a release is made of, as CycloneDX, into dist/; needs cargo-cyclonedx
	tools/make_sbom.sh $(BIN) dist

clean: ## Remove what was built here
	rm -rf $(VENV) dist python/servable/*.so
