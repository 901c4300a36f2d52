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
	cargo build --release --locked
	release/notices

deb: build ## quantix-kvm-agent and quantix-node for dpkg, in target/deb
	deb/build

rpm: build ## the same for rpm, in target/rpm
	rpm/build

dist: build ## what a machine without a network builds both from, in target/dist, with packages and checksums
	release/dist

deny: ## licences and sources of all crates, and what is known to be wrong with them
	release/deny

# What is where: the packages' only list of files. DESTDIR is put in front, BIN is where the programs are.
BIN = target/x86_64-unknown-linux-gnu/release
UNITDIR = /usr/lib/systemd/system
UDEVDIR = /usr/lib/udev/rules.d
SHARE = /usr/share
IN = install -D -m 644
RUN = install -D -m 755

install-agent: ## put the agent and what goes with it below DESTDIR, as its package has it
	$(RUN) $(BIN)/quantix-kvm-agent $(DESTDIR)/usr/sbin/quantix-kvm-agent
	$(IN) $(BIN)/quantix-kvm-agent.notices $(DESTDIR)$(SHARE)/doc/quantix-kvm-agent/NOTICES
	$(IN) agent/agent.conf $(DESTDIR)/etc/quantix-kvm/agent.conf
	install -d -m 755 $(DESTDIR)/etc/quantix-kvm/freeze.d $(DESTDIR)/etc/quantix-kvm/restore.d
	$(IN) agent/service/quantix-kvm-agent.service $(DESTDIR)$(UNITDIR)/quantix-kvm-agent.service
	$(IN) agent/service/99-quantix-kvm-agent.rules $(DESTDIR)$(UDEVDIR)/99-quantix-kvm-agent.rules
	$(RUN) agent/service/openrc $(DESTDIR)/etc/init.d/quantix-kvm-agent
	$(RUN) agent/service/busybox $(DESTDIR)$(SHARE)/quantix-kvm-agent/busybox
	$(IN) agent/service/monitor-only.conf $(DESTDIR)$(SHARE)/quantix-kvm-agent/monitor-only.conf
	$(IN) agent/service/selinux/quantix_kvm_agent.te $(DESTDIR)$(SHARE)/quantix-kvm-agent/selinux/quantix_kvm_agent.te
	$(IN) agent/service/selinux/quantix_kvm_agent.fc $(DESTDIR)$(SHARE)/quantix-kvm-agent/selinux/quantix_kvm_agent.fc
	$(IN) docs/man/quantix-kvm-agent.8 $(DESTDIR)$(SHARE)/man/man8/quantix-kvm-agent.8
	$(IN) docs/man/quantix-kvm-agent.conf.5 $(DESTDIR)$(SHARE)/man/man5/quantix-kvm-agent.conf.5

install-node: ## put the daemon and what goes with it below DESTDIR, as its package has it
	$(RUN) $(BIN)/qx-node $(DESTDIR)/usr/bin/qx-node
	$(IN) $(BIN)/qx-node.notices $(DESTDIR)$(SHARE)/doc/quantix-node/NOTICES
	$(IN) host/node.conf $(DESTDIR)/etc/quantix-kvm/node.conf
	$(IN) host/service/quantix-node.service $(DESTDIR)$(UNITDIR)/quantix-node.service
	$(RUN) host/service/openrc $(DESTDIR)/etc/init.d/quantix-node
	$(IN) host/service/tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/quantix-node.conf
	$(IN) host/service/sysusers.conf $(DESTDIR)/usr/lib/sysusers.d/quantix-node.conf
	$(IN) host/service/logrotate $(DESTDIR)/etc/logrotate.d/quantix-node
	$(IN) host/completions/qx-node.bash $(DESTDIR)$(SHARE)/bash-completion/completions/qx-node
	$(IN) host/completions/_qx-node $(DESTDIR)$(SHARE)/zsh/site-functions/_qx-node
	$(IN) host/completions/qx-node.fish $(DESTDIR)$(SHARE)/fish/vendor_completions.d/qx-node.fish
	$(IN) docs/man/qx-node.8 $(DESTDIR)$(SHARE)/man/man8/qx-node.8
	$(IN) docs/man/quantix-node.conf.5 $(DESTDIR)$(SHARE)/man/man5/quantix-node.conf.5

demo: ## boot a VM with the agent, start the daemon, show every command
	@tests/vm/demo.sh

demo-stop: ## stop what `make demo` left running
	@tests/vm/demo.sh stop

test: ## install what the tests need, run them all; in a real VM what ships
	tests/vm/install.sh
	cargo build --release --locked
	QX_TEST_RELEASE=1 RUST_TEST_THREADS=$(THREADS) cargo test

bench: ## size, memory, wake-ups, round trips and throughput in a VM
	tests/vm/install.sh
	cargo bench --bench port

bench-scale: ## what a daemon with up to 5,000 VMs costs, and how fast it answers then
	cargo bench --bench scale

bench-boot: ## how soon a booting Debian answers, beside qemu-ga
	tests/vm/install.sh
	cargo bench --bench boot

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

check-deep: ## what takes too long for `make test`: freezes, networks, images, kernels, hostile guests, Miri
	tests/vm/install.sh
	tests/images/install.sh
	cargo build --release --locked
	QX_FREEZE_ROUNDS=200 cargo test --test main -- vm::ops::freeze::whenever
	QX_TEST_RELEASE=1 cargo test --test main -- --ignored vm::debian:: images:: packages::
	cargo test --test main -- --ignored vm::kernels:: --test-threads 1
	QX_TEST_KERNEL=3.10 RUST_TEST_THREADS=$(THREADS) cargo test --test main -- agent::
	QX_HOSTILE_LIVES=2000 cargo test --test main -- node::hostile
	tests/fuzz/miri.sh
	SANITIZER=address tests/fuzz/run.sh $(SECONDS)

fuzz: ## random inputs that learn from the code's paths; SECONDS=N for each target
	@tests/fuzz/run.sh $(SECONDS)

fmt: ## format the sources
	cargo fmt --all

lint: ## what .ci/run checks before the tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

clean: demo-stop ## remove everything that was made
	cargo clean

.PHONY: help build deb rpm dist deny install-agent install-node demo demo-stop test bench bench-scale bench-boot soak soak-vm check-deep fuzz fmt lint clean
