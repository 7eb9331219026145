# Everything that is done with this checkout. `make help` lists it.
#
# Build output is kept outside the checkout, so that a fresh clone need not compile the AWS SDK again; it works without.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo sandbox test check unit policies promises soak bench measure interop conformance conformance-client mcpb deploy-check tools-python tools-interop tools-deploy clean tools

export CARGO_TARGET_DIR ?= $(HOME)/.cache/whitelistmcp/target
export CARGO_TERM_COLOR ?= always
export WHITELISTMCP := $(CARGO_TARGET_DIR)/debug/whitelistmcp
DEMO := examples/demo
INSTALL := python3 $(DEMO)/tools/install.py
export INTEROP_RMCP := $(CARGO_TARGET_DIR)/interop/debug/interop-rmcp

help: ## Lists what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

build: ## Builds the binary and the tests, in the one profile that demo and test share.
	cargo build --locked --bins --tests

demo: tools-python build ## Does the whole job, step by step, and ends by itself.
	python3 $(DEMO)/demo.py

sandbox: tools-python build ## Starts the same and stays, for you to try.
	python3 $(DEMO)/sandbox.py

test: ## Runs every check, the fast ones first.
	@bash scripts/test.sh

bench: ## Measures the edge and the core against the same hop with nothing in it; prints ratios.
	cargo bench --locked --bench hop

measure: tools-python ## Measures what edge, core and bridge take of memory and CPU, of a release build (docs/deploy/cost.md).
	cargo build --locked --release --bin whitelistmcp
	WHITELISTMCP=$(CARGO_TARGET_DIR)/release/whitelistmcp python3 scripts/measure.py

mcpb: ## Builds the bundle for Claude Desktop, for this machine's platform, in target/mcpb.
	cargo build --locked --release --bin whitelistmcp
	python3 scripts/mcpb.py $(CARGO_TARGET_DIR)/release/whitelistmcp target/mcpb

conformance-client: tools-interop build ## Runs the official conformance suite's client side against the bridge, and against mcp-remote.
	python3 tests/conformance/client.py

soak: tools-python build ## Calls at every door for SECONDS (120), and fails if memory, descriptors, threads or latency grow.
	python3 scripts/soak.py $(SECONDS)

interop: tools-interop ## Drives real MCP clients and a gateway, in every era that each speaks: login, list, call, errors, expiry.
	cargo build --locked --bins
	cargo build --locked --manifest-path tests/interop/rust/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/interop
	python3 tests/interop/run.py $(ROWS)
	python3 tests/interop/features.py

conformance: tools-interop ## Runs the official MCP conformance suite, for 2025-03-26 to 2026-07-28, against the edge.
	cargo build --locked --bins
	python3 tests/conformance/run.py $(SCENARIOS)

promises: tools-python build ## Runs the command behind every promise that is kept (docs/PROMISES.md).
	python3 scripts/promises.py

deploy-check: tools-deploy build ## Judges all of deploy/ by the tools of its field, and runs what can run here.
	python3 scripts/deploy_check.py $(SUBJECTS)

tools: ## Installs what the tests need and the machine lacks from Debian (as root); Rust comes from elsewhere.
	@bash scripts/tools.sh

tools-python: # The emulators, the provider and the clients, pinned, in .tools; never in the system.
	@$(INSTALL)

tools-interop: # MCP clients of other makes and the conformance suite, and what of the above they need.
	@$(INSTALL) moto python node interop interop-old interop-node

tools-deploy: # The checkers of what is in deploy/.
	@$(INSTALL) python deploy checkov deploy-node

clean: ## Removes what was installed and built in the checkout.
	rm -rf .tools .sandbox target
