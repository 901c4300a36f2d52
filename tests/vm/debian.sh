#!/bin/sh
# Makes the disk of a guest with systemd: a Debian as debootstrap makes it, for the kernel of image.sh, with the agent's
# package baked in as docs/images.md has it done. Prints where it is: a raw image of one ext4, which is not to be
# changed; whoever starts a guest takes a copy.
#
#   usage: tests/vm/debian.sh PACKAGE
#
#   PACKAGE      quantix-kvm-agent_*.deb
#   QX_VM_CACHE  as for image.sh
#
# Packages come from where mirror.sh says. It takes minutes, and is done once, but for the package, which takes
# seconds: until this file or the kernel changes. Needs root, or sudo. Calls may run at the same time: one makes it,
# the others wait.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=${QX_VM_CACHE:-target/vm/cache}
case $cache in /*) ;; *) cache=$root/$cache ;; esac

# What Debian calls standard in a server, and what the tests look at. LVM and XFS have modules of the kernel.
packages=systemd-sysv,dbus,libpam-systemd,udev,kmod,login,passwd,util-linux,e2fsprogs,xfsprogs,lvm2
packages=$packages,iproute2,ifupdown,isc-dhcp-client,openssh-server
# Who else configures interfaces; systemd brings its own.
packages=$packages,network-manager,netplan.io
# What Ansible needs in a guest, and how somebody there becomes root.
packages=$packages,python3,python3-apt,sudo
# Whom the agent is compared with, and who else keeps services.
packages=$packages,qemu-guest-agent,openrc

# Work of every boot that nobody here waits for, each a second or more where a processor is emulated.
masked="apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    e2scrub_reap.service lvm2-monitor.service blk-availability.service getty@tty1.service
    serial-getty@ttyS0.service systemd-pstore.service systemd-binfmt.service networking.service
    xfs_scrub_all.timer"

die() { echo "debian.sh: $*" >&2; exit 1; }
sum() { cat "$@" | sha256sum | cut -c 1-16; }

# Runs in a mount namespace of its own: what debootstrap mounts, and the memory that all is made in, are gone
# with this process, however it ends.
make_disk() {
    tree=$1/tree
    mkdir "$tree"
    mount -t tmpfs -o mode=755,size=3g tree "$tree"
    # shellcheck disable=SC2046 # two words
    set -- "$1" $("$here/mirror.sh")
    debootstrap --variant=minbase --include="$packages" "$3" "$tree" "$2" >"$1/log" 2>&1 || {
        tail -n 20 "$1/log" "$tree/debootstrap/debootstrap.log" >&2 || :
        die "debootstrap cannot make a system of $3"
    }
    rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/*.log \
        "$tree"/usr/share/doc/* "$tree"/usr/share/man/* "$tree"/usr/share/locale/* "$tree"/etc/resolv.conf

    cp -R "$cache"/kernel-*/tree/. "$tree/lib/modules"
    for release in "$tree"/lib/modules/*; do chroot "$tree" depmod "${release##*/}"; done

    echo debian >"$tree/etc/hostname"
    # Not the builder's, and not one that systemd would take for a first boot's.
    echo 0123456789abcdef0123456789abcdef >"$tree/etc/machine-id"
    echo '/dev/vda / ext4 defaults 0 0' >"$tree/etc/fstab"
    chroot "$tree" useradd -m -s /bin/bash alice
    for unit in $masked; do ln -sf /dev/null "$tree/etc/systemd/system/$unit"; done
    chroot "$tree" systemctl -q disable ssh.service NetworkManager.service
    chroot "$tree" systemctl -q set-default multi-user.target
    # Or systemd would do at each boot what it does after an update.
    touch "$tree/etc/.updated" "$tree/var/.updated"

    mke2fs -q -t ext4 -E root_owner=0:0 -d "$tree" "$1/disk" 800M
}

# Also in a mount namespace of its own.
install_package() {
    mkdir "$1/tree"
    mount -o loop "$1/disk" "$1/tree"
    dpkg --root="$1/tree" --install "$2" >"$1/log" 2>&1 || { cat "$1/log" >&2; die "dpkg does not take $2"; }
    umount "$1/tree"
}

# --- main -------------------------------------------------------------------------------------------

PATH=$PATH:/usr/sbin:/sbin
case "${1:-}" in
    --make)
        make_disk "$2" </dev/null
        exit
        ;;
    --install)
        install_package "$2" "$3" </dev/null
        exit
        ;;
esac
[ $# = 1 ] || die "usage: debian.sh PACKAGE"
package=$1
for t in debootstrap mke2fs unshare flock; do
    command -v $t >/dev/null || die "$t is missing; run tests/vm/install.sh"
done
[ "$(id -u)" = 0 ] && sudo='' || sudo=sudo
"$here/image.sh" - "$cache/probe" >&2
exec 7>"$cache/debian.lock"
flock 7
base=$cache/debian-$(sum "$here/debian.sh" "$cache/probe/vmlinuz").ext4
disk=${base%.ext4}-$(sum "$package").ext4
tmp=$(mktemp -d "$cache/debian-tmp.XXXXXX")
trap '$sudo rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP
if [ ! -f "$base" ]; then
    for old in "$cache"/debian-*.ext4; do $sudo rm -f "$old"; done # of other sources
    $sudo env QX_VM_CACHE="$cache" unshare --mount "$0" --make "$tmp" 7>&- >&2
    mv "$tmp/disk" "$base"
    $sudo rm -rf "$tmp/tree"
fi
if [ ! -f "$disk" ]; then
    for old in "${base%.ext4}"-*.ext4; do $sudo rm -f "$old"; done # of other packages
    cp --sparse=always "$base" "$tmp/disk"
    $sudo env QX_VM_CACHE="$cache" unshare --mount "$0" --install "$tmp" "$package" 7>&- >&2
    mv "$tmp/disk" "$disk"
fi
echo "$disk"
