#!/bin/sh
# A libvirt of our own in DIR: no /dev/kvm, no system's domains, sockets in DIR/run.
set -eu
dir=$1
mkdir -p "$dir/run" "$dir/lib" "$dir/cache" "$dir/log" "$dir/dev/pts"
cat > "$dir/qemu.conf" <<C
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
C
cat > "$dir/libvirtd.conf" <<C
unix_sock_dir = "$dir/run"
auth_unix_rw = "none"
auth_unix_ro = "none"
C
mount -t tmpfs dev "$dir/dev"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$dir/dev"
mkdir "$dir/dev/pts" "$dir/dev/shm"
mount -t devpts devpts "$dir/dev/pts"
ln -s pts/ptmx "$dir/dev/ptmx"; ln -s /proc/self/fd "$dir/dev/fd"
mount --bind "$dir/qemu.conf" /etc/libvirt/qemu.conf
mkdir -p /run/libvirt
mount -t tmpfs run /run/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --move "$dir/dev" /dev
exec libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/libvirtd.pid"
