#!/bin/sh
# Fuzzes each target for so many seconds. What it learns stays in target/fuzz; an input that fails is
# named at the end of what it prints.
#
#   usage: [SANITIZER=address] tests/fuzz/run.sh [SECONDS [TARGET...]]
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- frames messages operations

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz: the fuzzer's coverage needs a nightly compiler: rustup toolchain install nightly" >&2
    exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is missing; running: cargo install cargo-fuzz" >&2
    cargo install cargo-fuzz
fi

export CARGO_TARGET_DIR="$PWD/target/fuzz/build"
for target; do
    learnt=target/fuzz/$target
    mkdir -p "$learnt"
    echo "== $target, $seconds s"
    # Without a sanitizer it tries more in the same time, and the core has no `unsafe`; its libraries have.
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer "${SANITIZER:-none}" "$target" \
        "$learnt" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=2048 -print_final_stats=1
done
