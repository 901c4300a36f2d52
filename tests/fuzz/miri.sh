#!/bin/sh
# What `unsafe` does with memory, watched by Miri: the readers of what the kernel says, and what they stand on. System
# calls that Miri does not know are left out; tests of the programs make those.
#
#   usage: tests/fuzz/miri.sh
set -eu
cd "$(dirname "$0")/../.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: it needs a nightly compiler with it: rustup toolchain install nightly --component miri,rust-src" >&2
    exit 1
fi
export CARGO_TARGET_DIR="$PWD/target/miri"
# Files and the clock are the machine's.
export MIRIFLAGS=-Zmiri-disable-isolation
cargo +nightly miri test --lib -- \
    rt::sys::netlink rt::sys::sock_diag::tests::odd rt::sys::uname::tests::text \
    rt::sys::inotify::tests::a_piece rt::authorized rt::zone rt::conf rt::stat action text rate chunk credit
