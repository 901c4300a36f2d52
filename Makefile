# Each target is a call of what does the work.

# Tests of a VM that wait for a time to pass leave the processors to others, so more than one for each of
# two processors may run. How many VMs are at work at once the tests decide themselves.
THREADS = $(shell n=$$(nproc); [ $$n -gt 4 ] && echo $$n || echo 4)

# How much `make soak` simulates: seeds, each its own run of events.
SEEDS = 20000
# How long `make fuzz` stays with each target.
SECONDS = 60

# How often `make soak-vm` has every fault happen.
ROUNDS = 20

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1|/p' Makefile | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

build: ## both programs, static, in target/x86_64-unknown-linux-gnu/release
	cargo build --release

demo: ## boot a VM with the agent, start the daemon, show every command
	@tests/vm/demo.sh

demo-stop: ## stop what `make demo` left running
	@tests/vm/demo.sh stop

test: ## install what the tests need, run them all; in a real VM what ships
	tests/vm/install.sh
	cargo build --release
	QX_TEST_RELEASE=1 RUST_TEST_THREADS=$(THREADS) cargo test

bench: ## size, memory, wake-ups, round trips and throughput in a VM
	tests/vm/install.sh
	cargo bench --bench port

bench-scale: ## what a daemon with up to 5,000 VMs costs, and how fast it answers then
	cargo bench --bench scale

soak: ## the simulation with many seeds; SEEDS=N
	QX_SIM_SEEDS=$(SEEDS) cargo test --release --test main sim::

soak-vm: ## all faults in a real VM, again and again until one test fails; ROUNDS=N
	tests/vm/install.sh
	cargo build --release
	@round=1; while [ $$round -le $(ROUNDS) ]; do \
	    echo "round $$round of $(ROUNDS)"; \
	    QX_TEST_RELEASE=1 RUST_TEST_THREADS=$(THREADS) cargo test --test main -- vm::faults:: vm::states:: || \
	        { echo "failed in round $$round"; exit 1; }; \
	    round=$$((round + 1)); \
	done

check-deep: ## what takes too long for `make test`: 200 freezes with the host killed, a Debian's networks
	tests/vm/install.sh
	QX_FREEZE_ROUNDS=200 cargo test --test main -- vm::ops::freeze::whenever
	cargo test --test main -- --ignored vm::debian::network

fuzz: ## random inputs that learn from the code's paths; SECONDS=N for each target
	@tests/fuzz/run.sh $(SECONDS)

fmt: ## format the sources
	cargo fmt --all

lint: ## what .ci/run checks before the tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

clean: demo-stop ## remove everything that was made
	cargo clean

.PHONY: help build demo demo-stop test bench soak soak-vm check-deep fuzz fmt lint clean
