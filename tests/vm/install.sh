#!/bin/sh
# Installs what the VM tests need and this machine lacks: QEMU for x86, a static busybox, cpio, a C
# compiler with a static libc, make, mke2fs, mkfs.xfs, mkfs.btrfs, sfdisk, sgdisk, socat, tmux, libvirt,
# debootstrap, ssh, Ansible, Prometheus, zsh, fish, mandoc, what makes packages for dpkg and rpm, what compiles modules for
# SELinux, and the tools that unpack kernel packages.
#
#   usage: tests/vm/install.sh
#
# Works with apt-get, dnf or apk, through sudo when not root. Asks nothing, prints nothing when all is
# well, and touches no package manager when nothing is missing.
set -eu

die() { echo "install.sh: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

static_busybox() {
    have readelf || return 1
    for path in /usr/bin/busybox /bin/busybox.static /bin/busybox /usr/sbin/busybox /sbin/busybox; do
        [ -x "$path" ] || continue
        readelf -l "$path" 2>/dev/null | grep -q INTERP || return 0
    done
    return 1
}

static_libc() {
    have gcc || return 1
    # Without a libc.a the compiler echoes the bare name.
    case $(gcc -print-file-name=libc.a) in */*) ;; *) return 1 ;; esac
}

# The names are apt's; the other managers' names stand beside them below.
missing() {
    have qemu-system-x86_64 || echo qemu-system-x86
    static_busybox || echo busybox-static
    have cpio || echo cpio
    have gcc && have readelf || echo gcc
    static_libc || echo libc6-dev
    have make || echo make
    have socat || echo socat
    have tmux || echo tmux
    have virsh || echo libvirt-clients
    PATH=$PATH:/usr/sbin:/sbin have libvirtd || echo libvirt-daemon-system
    have flock || echo util-linux
    have xz || echo xz-utils
    have zstd || echo zstd
    PATH=$PATH:/usr/sbin:/sbin have mke2fs || echo e2fsprogs
    PATH=$PATH:/usr/sbin:/sbin have mkfs.xfs || echo xfsprogs
    PATH=$PATH:/usr/sbin:/sbin have mkfs.btrfs || echo btrfs-progs
    PATH=$PATH:/usr/sbin:/sbin have debootstrap || echo debootstrap
    PATH=$PATH:/usr/sbin:/sbin have sfdisk || echo fdisk
    PATH=$PATH:/usr/sbin:/sbin have sgdisk || echo gdisk
    have python3 || echo python3
    have prometheus && have promtool || echo prometheus
    have ssh && have ssh-keygen || echo openssh-client
    have dh || echo debhelper
    have dpkg-buildpackage || echo dpkg-dev
    have rpmbuild || echo rpm
    have ansible-playbook && have ansible-doc || echo ansible-core
    have zsh || echo zsh
    have fish || echo fish
    have mandoc || echo mandoc
    [ -f /usr/share/selinux/devel/Makefile ] || echo selinux-policy-dev
    have checkmodule || echo checkpolicy
    have semodule_package || echo semodule-utils
}

translate() {
    case $manager:$1 in
        dnf:qemu-system-x86) echo qemu-system-x86-core ;;
        dnf:busybox-static) echo busybox ;;
        dnf:libc6-dev) echo glibc-static ;;
        apk:qemu-system-x86) echo qemu-system-x86_64 ;;
        apk:libc6-dev) echo musl-dev ;;
        apk:util-linux) echo flock ;;
        dnf:rpm) echo rpm-build ;;
        dnf:selinux-policy-dev) echo selinux-policy-devel ;;
        dnf:semodule-utils) echo policycoreutils ;;
        apk:selinux-policy-dev | apk:semodule-utils) ;;
        apk:debhelper) ;;
        apk:dpkg-dev) echo dpkg-dev ;;
        dnf:fdisk) echo util-linux ;;
        dnf:prometheus) echo golang-github-prometheus ;;
        apk:fdisk) echo sfdisk ;;
        apk:gdisk) echo sgdisk ;;
        dnf:libvirt-clients | apk:libvirt-clients) echo libvirt-client ;;
        dnf:libvirt-daemon-system) echo libvirt-daemon-driver-qemu libvirt-daemon ;;
        apk:libvirt-daemon-system) echo libvirt-daemon libvirt-qemu ;;
        dnf:xz-utils | apk:xz-utils) echo xz ;;
        dnf:openssh-client) echo openssh-clients ;;
        apk:openssh-client) echo openssh-client-default openssh-keygen ;;
        *) echo "$1" ;;
    esac
}

if have apt-get; then manager=apt
elif have dnf; then manager=dnf
elif have apk; then manager=apk
else die "none of apt-get, dnf, apk is here"
fi

packages=$(for p in $(missing); do translate "$p"; done)
# In dnf 4 "download" is a plugin, and so is the kernel's way into the image.
if [ "$manager" = dnf ]; then
    dnf download --help >/dev/null 2>&1 || packages="$packages dnf-command(download)"
    have rpm2cpio || packages="$packages rpm"
fi
[ -n "$packages" ] || exit 0

[ "$(id -u)" = 0 ] && sudo= || sudo=sudo
[ -z "$sudo" ] || have sudo || die "not root, no sudo, and these are missing:" $packages
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { "$@" </dev/null >"$log" 2>&1 || { cat "$log" >&2; die "failed: $*"; }; }

case $manager in
    apt)
        # It fails for any broken source of this machine; the installation tells whether that matters.
        $sudo apt-get update -q >"$log" 2>&1 || :
        # Recommended packages would pull in qemu-utils, which must stay as the machine has it.
        run $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends $packages
        ;;
    dnf)
        set -f # the parentheses of dnf-command() are no pattern
        run $sudo dnf install -q -y --setopt=install_weak_deps=False $packages
        ;;
    apk) run $sudo apk add -q --no-progress --update-cache $packages ;;
esac

left=$(missing)
[ -z "$left" ] || die "still missing after the installation:" $left
