#!/bin/sh
# Runs a libvirt of our own in the foreground, beside any that the machine has: other sockets, other
# domains, its own idea of /dev, without KVM, which libvirt would try out for a minute where it does not work.
#
#   usage: unshare --mount --pid --fork --kill-child --mount-proc tests/vm/libvirt.sh DIR
#
# Below DIR: run/libvirt-sock, to be reached as qemu+unix:///system?socket=DIR/run/libvirt-sock. QEMU runs
# as root. What libvirt starts ends with this script, which is process 1 of a namespace.
set -eu

[ $# = 1 ] || { echo "usage: libvirt.sh DIR" >&2; exit 1; }
dir=$1
for name in run lib cache log dev etc; do mkdir -p "$dir/$name"; done

cat >"$dir/etc/qemu.conf" <<'.'
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
.
cat >"$dir/libvirtd.conf" <<.
unix_sock_dir = "$dir/run"
auth_unix_rw = "none"
auth_unix_ro = "none"
.

mount -t tmpfs dev "$dir/dev"
for node in null zero full random urandom tty; do cp -a "/dev/$node" "$dir/dev/"; done
mkdir "$dir/dev/pts" "$dir/dev/shm"
mount -t devpts devpts "$dir/dev/pts"
ln -s pts/ptmx "$dir/dev/ptmx"
ln -s /proc/self/fd "$dir/dev/fd"
mkdir -p /run/libvirt /etc/libvirt
mount -t tmpfs run /run/libvirt
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --move "$dir/dev" /dev
libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/libvirtd.pid" &
# Process 1 is the parent of QEMUs that have left theirs, and has to take note of their ends.
wait $!
