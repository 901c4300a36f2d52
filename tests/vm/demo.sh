#!/bin/sh
# Shows the whole: builds both programs, boots a VM with the agent, starts the daemon, runs every
# command against them, and leaves VM and daemon running.
#
#   usage: tests/vm/demo.sh [stop]
#
#   QX_DEMO_DIR       where sockets, logs and the image are; default demo/ in cargo's target directory
#   CARGO_TARGET_DIR  as for cargo
#
# A demo that still runs is stopped first. Needs no root but for what tests/vm/install.sh installs.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$root/$target ;; esac
bin=$target/x86_64-unknown-linux-gnu/release
dir=${QX_DEMO_DIR:-$target/demo}
case $dir in /*) ;; *) dir=$root/$dir ;; esac
vms=$dir/vms
control=$dir/qx-node.sock

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '\ndemo.sh: %s\n' "$*" >&2
    exit 1
}

# --- what runs ----------------------------------------------------------------------------------------

# The process in the file $1, if it is still the one that was started with the word $2: numbers are
# used again.
alive() {
    [ -s "$1" ] && read -r pid <"$1" && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$2"
}

# Ends it, and waits until it has ended.
end() {
    alive "$1" "$2" || return 0
    kill "$pid" 2>/dev/null || :
    turns=50 # of 0.1 s
    while alive "$1" "$2"; do
        [ $turns -gt 0 ] || kill -KILL "$pid" 2>/dev/null || :
        turns=$((turns - 1))
        sleep 0.1
    done
}

stop_daemon() { end "$dir/daemon.pid" "$control"; }
stop_vm() { end "$dir/demo.pid" "$dir/demo.pid"; }

start_daemon() {
    setsid "$bin/qx-node" serve --vms-dir "$vms" --control "$control" </dev/null >>"$dir/daemon.log" 2>&1 &
    echo $! >"$dir/daemon.pid"
    turns=50 # of 0.1 s
    until [ -S "$control" ] && qx-node vms >/dev/null 2>&1; do
        turns=$((turns - 1))
        if [ $turns = 0 ] || ! kill -0 "$(cat "$dir/daemon.pid")" 2>/dev/null; then
            die "the daemon does not run; its log, $dir/daemon.log:
$(tail -n 20 "$dir/daemon.log")"
        fi
        sleep 0.1
    done
}

start_vm() {
    # So that there is an interface to see. It leads nowhere: some QEMUs are built without "user".
    net=hubport,hubid=0
    if qemu-system-x86_64 -netdev help | grep -qx user; then net=user,restrict=on; fi
    rm -f "$dir/demo.console"
    QX_VMS_DIR=$vms QX_IMAGE_DIR=$dir/image QX_APPEND=qx.hostname=demo \
        setsid "$here/qemu.sh" "$dir" demo -- -netdev "$net,id=net0" \
        -device virtio-net-pci,netdev=net0,romfile= </dev/null >"$dir/qemu.log" 2>&1 &
    started=$!
}

wait_for_agent() {
    turns=12 # of 5 s, for that long a ping waits itself; less if the VM is not found yet
    until qx-node ping demo >/dev/null 2>&1; do
        turns=$((turns - 1))
        if [ $turns = 0 ] || ! kill -0 "$started" 2>/dev/null; then
            die "no agent answers; \`qx-node vms\` says:
$(qx-node vms 2>&1)
QEMU, $dir/qemu.log:
$(tail -n 10 "$dir/qemu.log")
the guest's console, $dir/demo.console:
$(tail -n 20 "$dir/demo.console" 2>/dev/null)"
        fi
        sleep 0.2
    done
}

# --- what is shown ------------------------------------------------------------------------------------

# Shows a command line and runs it. It must end with the status $1.
show_status() {
    wanted=$1
    printf '\n$ %s\n' "$2"
    status=0
    sh -c "$2" </dev/null 2>&1 || status=$?
    [ "$status" = 0 ] || printf '[exit status %s]\n' "$status"
    [ "$status" = "$wanted" ] || die "that should have ended with status $wanted; logs are in $dir"
}
show() { show_status 0 "$1"; }

tour() {
    say "which VMs there are, and one of them more closely"
    show 'qx-node vms'
    show 'qx-node ping demo -c 3'
    show 'qx-node info demo'
    show 'qx-node events demo'

    say "commands: stdout, stderr and the exit status are the command's own"
    show 'qx-node exec demo -- uname -a'
    show "qx-node exec demo --user alice --cwd /tmp --env GREETING=hello -- 'id; pwd; echo \$GREETING'"
    show_status 7 "qx-node exec demo -- 'echo this goes to stderr >&2; exit 7'"
    show_status 124 "qx-node exec demo --timeout 1 -- 'echo begun; sleep 60; echo done'"
    show_status 125 'qx-node exec demo --user nobody-knows -- true'

    say "files, both ways"
    show 'head -c 5000000 /dev/urandom > here.bin'
    show 'qx-node cp here.bin demo:/tmp/there.bin'
    show 'qx-node cp demo:/tmp/there.bin back.bin && cmp here.bin back.bin && echo the same'
    show 'echo "a line from stdin" | qx-node cp - demo:/tmp/a/new/directory/note --parents'
    show 'qx-node cat demo /tmp/a/new/directory/note'
    show_status 1 'qx-node cat demo /no/such/file'

    say "what the guest reports"
    show 'qx-node telemetry demo'
    show 'qx-node time demo'
    show 'qx-node ps demo --sort memory'
    show 'qx-node reboot demo --wait'

    say "the same for programs"
    show 'qx-node ping demo --json'
    show "qx-node exec demo --json -- 'echo out; echo err >&2'"

    say "how a VM gets its channel"
    show 'qx-node channel web1'

    say "without a daemon: QEMU serves one client, so the daemon is stopped for this"
    stop_daemon
    show 'qx-node ping demo --direct vms/demo.agent.sock'
    start_daemon
    wait_for_agent
}

# --- main ---------------------------------------------------------------------------------------------

case "$#:${1:-}" in
    0:) ;;
    1:stop)
        if alive "$dir/daemon.pid" "$control" || alive "$dir/demo.pid" "$dir/demo.pid"; then
            stop_daemon
            stop_vm
            echo "stopped the demo in $dir"
        else
            echo "no demo runs in $dir"
        fi
        exit
        ;;
    *)
        echo "usage: demo.sh [stop]" >&2
        exit 2
        ;;
esac

[ "$(uname -m)" = x86_64 ] || die "this needs an x86-64 machine, not $(uname -m)"
if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
fi
command -v cargo >/dev/null || die "no cargo in PATH; install Rust 1.88 or newer first (https://rustup.rs)"

say "install what is missing"
"$here/install.sh"

say "build"
cargo build --release

say "boot the VM, start the daemon"
stop_daemon
stop_vm
mkdir -p "$vms"
: >"$dir/daemon.log"
"$here/image.sh" "$bin/quantix-kvm-agent" "$dir/image"
export PATH="$bin:$PATH" QX_NODE_SOCK="$control"
# A demo that fails halfway leaves nothing running.
trap 'stop_daemon; stop_vm' EXIT
trap 'exit 1' INT TERM HUP
echo "accelerator: $("$here/accel.sh")"
start_daemon
start_vm
wait_for_agent
cd "$dir"
tour

trap - EXIT
rm -f here.bin back.bin
say "VM and daemon go on. To try more:

  export QX_NODE_SOCK=$control
  export PATH=$bin:\$PATH
  qx-node help
  qx-node exec demo -- 'ps; df'

Logs: $dir/daemon.log, $dir/demo.console
To stop both: make demo-stop"
