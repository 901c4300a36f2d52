#!/bin/sh
# Makes the image the VM tests boot: a distribution's kernel and an initramfs with busybox, the virtio
# modules, our init, the probe and the agent.
#
#   usage: tests/vm/image.sh AGENT_BINARY OUT_DIR
#
#   AGENT_BINARY  becomes /usr/sbin/quantix-kvm-agent; "-" makes an image without an agent
#   OUT_DIR       receives vmlinuz and initrd; each appears whole, by rename
#   QX_VM_CACHE   where the kernel and the part of the initramfs that does not depend on the agent are
#                 kept; default target/vm/cache; a relative path is taken from the repository's root
#   QX_VM_KERNEL  default, this machine's distribution's; oldest or newest: of all that Debian's archive still
#                 offers, which needs apt
#
# The kernel package is downloaded and unpacked, never installed. It stays as it is until the cache is
# removed. Calls may run at the same time: a lock in the cache serializes them.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=${QX_VM_CACHE:-target/vm/cache}
case $cache in /*) ;; *) cache=$root/$cache ;; esac

# Which modules, by the occasion on which init loads them. What they depend on is found out below.
port_modules="virtio_pci virtio_console"
rng_modules="virtio_rng"
disk_modules="virtio_blk ext4 crc32c_generic"
net_modules="virtio_net"
# Tests load these themselves.
fs_modules="xfs btrfs loop"

die() { echo "image.sh: $*" >&2; exit 1; }
sum() { cat "$@" | sha256sum | cut -c 1-16; }
is_dynamic() { readelf -l "$1" 2>/dev/null | grep -q INTERP; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
pack() { LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0; }

# --- the kernel package: each fetch_* leaves its content below $tmp/tree ----------------------------

# Has apt know the packages of more suites than this machine's, in a place of its own: $apt_options.
know_suites() {
    case $which in
        oldest) suites="oldoldstable oldstable" ;;
        *) suites="stable-backports trixie-backports sid experimental" ;;
    esac
    mkdir -p "$tmp/apt/lists/partial" "$tmp/apt/archives/partial"
    mirror=$("$here/mirror.sh")
    mirror=${mirror% *}
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    for suite in $suites; do echo "deb [arch=amd64 signed-by=$keys] $mirror $suite main"; done >"$tmp/apt/sources.list"
    apt_options="-o Dir::Etc::SourceList=$tmp/apt/sources.list -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State=$tmp/apt -o Dir::State::status=/dev/null -o Dir::Cache=$tmp/apt
        -o Acquire::Languages=none -o APT::Sandbox::User=root"
    # A suite that has left the mirror makes it fail; whether there is a kernel shows after it.
    # shellcheck disable=SC2086 # several words
    apt-get $apt_options update -q || :
}

apt_kernel() { # the real package behind Debian's or Ubuntu's meta package
    if [ "$which" != default ]; then
        # shellcheck disable=SC2086 # several words
        apt-cache $apt_options pkgnames linux-image- |
            grep -E '^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^ ]*-cloud-amd64$' | sort -V >"$tmp/kernels"
        case $which in
            oldest) head -n 1 "$tmp/kernels" ;;
            *) tail -n 1 "$tmp/kernels" ;;
        esac | grep .
        return
    fi
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        apt-cache depends "$meta" 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1 | grep . && return
    done
    return 1
}

apt_options=''
apt_download() {
    [ "$which" = default ] || [ -n "$apt_options" ] || know_suites
    kernel_package=$(apt_kernel) || return 1
    # Ubuntu keeps the modules in a package of their own, Debian since 7 the image, too. The sandbox user could not enter our
    # directory, and the package's signature is checked either way.
    # shellcheck disable=SC2046,SC2086 # none, one or several names
    (cd "$tmp/pkg" && apt-get $apt_options download -q -o APT::Sandbox::User=root "$kernel_package" \
        $(apt-cache $apt_options pkgnames "linux-modules-${kernel_package#linux-image-}") \
        $(apt-cache $apt_options pkgnames "linux-binary-${kernel_package#linux-image-}"))
}

fetch_apt() {
    # Empty or outdated lists make the first try fail. An update fails for any broken source; whether it
    # did what we need shows after it.
    apt_download || { as_root apt-get update -q || :; apt_download; } || return 1
    for p in "$tmp"/pkg/*.deb; do dpkg-deb -x "$p" "$tmp/tree" || return 1; done
}

fetch_dnf() {
    # Older releases have no kernel-modules-core and ship those modules in kernel-core.
    dnf download -q --arch x86_64 --destdir "$tmp/pkg" kernel-core || return 1
    dnf download -q --arch x86_64 --destdir "$tmp/pkg" kernel-modules-core || true
    for p in "$tmp"/pkg/*.rpm; do
        (cd "$tmp/tree" && rpm2cpio "$p" | cpio --quiet -idm) || return 1
    done
}

fetch_apk() {
    apk fetch -q --no-cache -o "$tmp/pkg" linux-virt || return 1
    for p in "$tmp"/pkg/*.apk; do tar -xzf "$p" -C "$tmp/tree" || return 1; done
}

# Copies module $1 and, before it in list $2, all that it depends on. One that is not there is taken
# for built in. The body is a subshell because the function calls itself.
add_module() (
    pattern="/$(echo "$1" | sed 's/[-_]/[-_]/g')\\.ko(\\.[a-z]+)?\$"
    path=$(grep -E "$pattern" "$tmp/index" | head -n 1)
    [ -n "$path" ] || exit 0
    ko=$tmp/kernel/modules/$1.ko
    case $path in
        *.gz) gzip -dc "$path" >"$ko" ;;
        *.xz) xz -dc "$path" >"$ko" ;;
        *.zst) zstd -qdc "$path" >"$ko" ;;
        *) cp "$path" "$ko" ;;
    esac
    for d in $(tr '\0' '\n' <"$ko" | LC_ALL=C sed -n 's/^depends=//p' | tr ',' ' '); do
        add_module "$d" "$2"
    done
    grep -qx "$1" "$2" 2>/dev/null || echo "$1" >>"$2"
)

make_kernel() {
    mkdir -p "$tmp/pkg" "$tmp/tree" "$tmp/kernel/modules"
    if command -v apt-get; then fetch=fetch_apt
    elif [ "$which" != default ]; then die "the $which kernel comes by apt-get, which is not here"
    elif command -v dnf; then fetch=fetch_dnf
    elif command -v apk; then fetch=fetch_apk
    else die "none of apt-get, dnf, apk is here to fetch a kernel"
    fi >/dev/null
    $fetch >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; die "cannot fetch a kernel"; }

    find "$tmp/tree" -name '*.ko*' >"$tmp/index"
    for m in $port_modules; do add_module "$m" "$tmp/kernel/modules/port.list"; done
    for m in $rng_modules; do add_module "$m" "$tmp/kernel/modules/rng.list"; done
    for m in $disk_modules; do add_module "$m" "$tmp/kernel/modules/disk.list"; done
    for m in $net_modules; do add_module "$m" "$tmp/kernel/modules/net.list"; done
    for m in $fs_modules; do add_module "$m" "$tmp/kernel/modules/fs.list"; done
    image=$(find "$tmp/tree" -type f -name 'vmlinuz*' | head -n 1)
    [ -n "$image" ] || die "no vmlinuz in the kernel package"
    cp "$image" "$tmp/kernel/vmlinuz"
    chmod 644 "$tmp/kernel/vmlinuz"
    # All of them, with their indices' sources, for a guest that loads them by itself: debian.sh.
    tree=$(find "$tmp/tree" -type d -path '*/lib/modules/*' -prune | head -n 1)
    rm -f "$tree/build" "$tree/source"
    mkdir "$tmp/kernel/tree"
    mv "$tree" "$tmp/kernel/tree/"
    rm -rf "$cache/$prefix"kernel-*
    mv "$tmp/kernel" "$kernel"
}

# --- the part of the initramfs that all agents share ------------------------------------------------

find_busybox() {
    for path in /usr/bin/busybox /bin/busybox.static /bin/busybox /usr/sbin/busybox /sbin/busybox; do
        if [ -x "$path" ] && ! is_dynamic "$path"; then
            echo "$path"
            return
        fi
    done
    die "no static busybox; run tests/vm/install.sh"
}

make_base() {
    fs=$tmp/fs
    mkdir -p "$fs/bin" "$fs/lib" "$fs/usr"
    # One directory for all programs, so that no PATH and no script can miss one.
    ln -s bin "$fs/sbin"
    ln -s ../bin "$fs/usr/bin"
    cp "$busybox" "$fs/bin/busybox"
    for a in $("$busybox" --list); do
        [ "$a" = busybox ] || ln -s busybox "$fs/bin/$a"
    done
    cp "$here/init" "$fs/init"
    cp "$here/supervise" "$here/port-links" "$fs/bin/"
    "${CC:-gcc}" -O2 -Wall -Wextra -static -o "$fs/bin/probe" "$here/probe.c"
    chmod 755 "$fs/init" "$fs/bin/supervise" "$fs/bin/port-links" "$fs/bin/busybox"
    cp -R "$kernel/modules" "$fs/lib/modules"
    (cd "$fs" && find . | pack) >"$tmp/base"
    rm -f "$cache/$prefix"base-*.cpio
    mv "$tmp/base" "$base"
}

# --- main -------------------------------------------------------------------------------------------

[ $# = 2 ] || die "usage: image.sh AGENT_BINARY OUT_DIR"
agent=$1 out=$2 which=${QX_VM_KERNEL:-default}
case $which in
    default) prefix='' ;; # debian.sh looks for it by this name
    oldest | newest) prefix=$which- ;;
    *) die "QX_VM_KERNEL is default, oldest or newest, not '$which'" ;;
esac
for t in cpio flock readelf sha256sum; do
    command -v $t >/dev/null || die "$t is missing; run tests/vm/install.sh"
done
if [ "$agent" != - ]; then
    [ -f "$agent" ] || die "no such file: $agent"
    ! is_dynamic "$agent" || die "$agent is not static: it would not start in the image"
fi
mkdir -p "$cache" "$out"
exec 9>"$cache/lock"
flock 9
rm -rf "$cache"/tmp.* # left by a killed run; ours is made under the lock
tmp=$(mktemp -d "$cache/tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

kernel=$cache/${prefix}kernel-$(echo "tree:$port_modules:$rng_modules:$disk_modules:$net_modules:$fs_modules" | sum)
[ -d "$kernel" ] || make_kernel
busybox=$(find_busybox)
key=$(sum "$here/image.sh" "$here/init" "$here/supervise" "$here/port-links" "$here/probe.c" \
    "$busybox" "$kernel/vmlinuz")
base=$cache/${prefix}base-$key.cpio
[ -f "$base" ] || make_base

# The kernel unpacks concatenated archives in order. Not compressed: loading the bytes is cheaper than
# unpacking them, most of all under emulation.
mkdir -p "$tmp/agent/usr/sbin"
if [ "$agent" != - ]; then
    cp "$agent" "$tmp/agent/usr/sbin/quantix-kvm-agent"
    chmod 755 "$tmp/agent/usr/sbin/quantix-kvm-agent"
fi
(cd "$tmp/agent" && find usr | pack) | cat "$base" - >"$out/.initrd.$$"
mv "$out/.initrd.$$" "$out/initrd"
if ! cmp -s "$kernel/vmlinuz" "$out/vmlinuz"; then
    cp "$kernel/vmlinuz" "$out/.vmlinuz.$$"
    mv "$out/.vmlinuz.$$" "$out/vmlinuz"
fi
