#!/bin/sh
# Makes an initramfs archive with Debian's qemu-ga, and with what it needs of this machine's libraries.
#
#   usage: tests/bench/qemu-ga.sh OUT
#
# The package is downloaded and unpacked, never installed. Fails where there is no apt-get.
set -eu

die() { echo "qemu-ga.sh: $*" >&2; exit 1; }

[ $# = 1 ] || die "usage: qemu-ga.sh OUT"
out=$1
command -v apt-get >/dev/null || die "no apt-get to download qemu-guest-agent with"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

mkdir "$tmp/pkg" "$tmp/tree"
download() { (cd "$tmp/pkg" && apt-get download -q -o APT::Sandbox::User=root qemu-guest-agent); }
download >/dev/null 2>&1 || { apt-get update -q >/dev/null 2>&1 && download >/dev/null; } ||
    die "cannot download qemu-guest-agent"
dpkg-deb -x "$tmp"/pkg/*.deb "$tmp/unpacked"
mkdir -p "$tmp/tree/usr/sbin"
cp "$tmp/unpacked/usr/sbin/qemu-ga" "$tmp/tree/usr/sbin/"
for library in $(ldd "$tmp/tree/usr/sbin/qemu-ga" | grep -o '/[^ ]*'); do
    mkdir -p "$tmp/tree$(dirname "$library")"
    cp -L "$library" "$tmp/tree$library"
done
(cd "$tmp/tree" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$out"
