#!/bin/sh
# Installs what the slow tests of docs/images.md need and this machine lacks, beside what tests/vm/install.sh does:
# mkosi, libguestfs, genisoimage, lintian, rpmlint. All of it is some 200 MB.
#
#   usage: tests/images/install.sh
#
# For apt alone, as those tests are; through sudo when not root. Prints nothing when all is well.
set -eu

die() { echo "install.sh: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

missing() {
    have mkosi || echo mkosi
    have systemd-nspawn || echo systemd-container
    have virt-customize || echo libguestfs-tools
    have genisoimage || echo genisoimage
    have uuidgen || echo uuid-runtime
    have lintian || echo lintian
    have rpmlint || echo rpmlint
}

[ "$(id -u)" = 0 ] && sudo='' || sudo=sudo
# supermin, of libguestfs, wants to see it, though the kernel comes from elsewhere.
[ -d /lib/modules ] || $sudo mkdir /lib/modules
packages=$(missing)
[ -n "$packages" ] || exit 0
have apt-get || die "these are missing: $packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# It fails for any broken source of this machine; the installation tells whether that matters.
$sudo apt-get update -q >"$log" 2>&1 || :
# shellcheck disable=SC2086 # words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages \
    </dev/null >"$log" 2>&1 || { cat "$log" >&2; die "cannot install $packages"; }
