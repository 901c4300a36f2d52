# Each target is a call of what does the work.

# How much `make soak` simulates: seeds, each its own run of events.
SEEDS = 20000
# How long `make fuzz` stays with each target.
SECONDS = 60

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1|/p' Makefile | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

build: ## both programs, static, in target/x86_64-unknown-linux-gnu/release
	cargo build --release

demo: ## boot a VM with the agent, start the daemon, show every command
	@tests/vm/demo.sh

demo-stop: ## stop what `make demo` left running
	@tests/vm/demo.sh stop

test: ## install what the tests need, run them all
	tests/vm/install.sh
	cargo test

bench: ## size, memory, wake-ups, round trips and throughput in a VM
	tests/vm/install.sh
	cargo bench --bench port

soak: ## the simulation with many seeds; SEEDS=N
	QX_SIM_SEEDS=$(SEEDS) cargo test --release --test main sim::

fuzz: ## random inputs that learn from the code's paths; SECONDS=N for each target
	@tests/fuzz/run.sh $(SECONDS)

fmt: ## format the sources
	cargo fmt

lint: ## what .ci/run checks before the tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

clean: demo-stop ## remove everything that was made
	cargo clean

.PHONY: help build demo demo-stop test bench soak fuzz fmt lint clean
