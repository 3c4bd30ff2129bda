# What one does with this repository. `make` alone lists the targets.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The releases that tests run against; 23 and 27 also build the agent. Of 25 the machine's own is as good.
OTP_RELEASES = 23 27 29 $(shell scripts/otp-run.sh --list | grep -x 25 >/dev/null || echo 25)

export PATH := $(PATH):$(HOME)/.cargo/bin

# Tests compare with the golden vectors; only `make golden` writes them.
unexport RELSYNC_BLESS

.PHONY: help setup setup-build otp-roots agent build demo test crash products soak golden quick-check check clean

help: ## Lists the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	  || sed -nE 's/^([a-z-]+):.*## (.*)/  make \1  \2/p' Makefile

setup: ## Installs what building and testing needs beyond Rust (Erlang, a C compiler, rebar3, Elixir, OpenSSH)
	@scripts/setup.sh --tests

# Without what only the tests need.
setup-build:
	@scripts/setup.sh

otp-roots: setup-build ## Makes roots of other OTP releases under target/otp, from Debian's packages
	@scripts/otp-root.sh $(OTP_RELEASES)

agent: otp-roots ## Rebuilds the agent that the host embeds (engine/agent) from its Erlang sources
	@scripts/build-agent.sh

build: ## Builds the release binary, target/release/relsync
	@cargo build --release --package relsync

demo: setup-build build ## Shows an update of a running release
	@scripts/demo.sh

# Most tests wait for nodes, so more of them run at once than there are processors.
test: setup quick-check ## Runs all tests, against every OTP release that can be had here
	@$(MAKE) --no-print-directory otp-roots \
	  || echo 'note: not all OTP releases could be had; the tests run against those that are here' >&2
	@echo "testing against OTP $$(scripts/otp-run.sh --list | paste -sd ' ' -)"
	cargo test --workspace -- --test-threads 4
	scripts/erl-test.sh test

crash: setup ## Kills, cuts, fills and damages at every moment of an update; takes half an hour or more
	@scripts/crash.sh

products: build ## Pushes changes to a RabbitMQ with AMQP and MQTT clients: none may notice
	@scripts/setup.sh --products
	@scripts/rabbitmq.sh

soak: setup-build build ## Says what 1,400 sessions leave behind in a VM of OTP 25 and 29: nothing may grow; 20 minutes
	@for otp in 25 29; do scripts/soak.sh 1000 200 $$otp || exit 1; done

golden: setup ## Rewrites the golden vectors (tests/data/golden) and what is generated in docs
	env RELSYNC_BLESS=1 cargo test --workspace golden_requests
	env RELSYNC_BLESS=1 scripts/erl-test.sh golden
	env RELSYNC_BLESS=1 cargo test --workspace golden

# The part of `check` that takes no time.
quick-check:
	cargo fmt --all --check

check: setup quick-check ## Formatting, clippy, Erlang warnings, xref, dialyzer: all must be silent
	cargo clippy --workspace --all-targets -- -D warnings
	cd erlang && rebar3 do compile, xref, dialyzer

clean: ## Removes everything built
	rm -rf target
