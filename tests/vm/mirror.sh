#!/bin/sh
# Where this machine's apt has its Debian packages from, and of which release: `http://deb.debian.org/debian bookworm`.
# What that cannot tell is Debian's own.
#
#   usage: tests/vm/mirror.sh
set -eu

# shellcheck source=/dev/null
wanted=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# Without lists of packages apt has no release information yet.
apt-get indextargets --no-release-info --format "\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
    'Identifier: Packages' 2>/dev/null |
    awk -v release="$wanted" '$1 ~ /^https?:.*\/debian\/?$/ && $2 == release && $3 == "main" { print $1, $2; exit }' |
    grep . || echo http://deb.debian.org/debian bookworm
