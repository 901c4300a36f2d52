#!/bin/sh
# Runs one test VM in the foreground; the process becomes QEMU.
#
#   usage: tests/vm/qemu.sh DIR VM_ID [-- QEMU_ARGUMENT...]
#
# Below DIR: VM_ID.console (what the guest prints), VM_ID.qmp (QMP, Unix socket), VM_ID.pid.
# The agent's port is the Unix socket VM_ID.agent.sock in QX_VMS_DIR.
#
#   QX_VMS_DIR    default DIR
#   QX_IMAGE_DIR  where vmlinuz and initrd are; default target/vm/image; a relative path is taken from
#                 the repository's root
#   QX_APPEND     added to the kernel command line; tests/vm/init lists the options
#   QX_VM_MEM     MiB; default 256
#   QX_ACCEL      kvm or tcg; default: what accel.sh finds
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
die() { echo "qemu.sh: $*" >&2; exit 1; }

[ $# -ge 2 ] || die "usage: qemu.sh DIR VM_ID [-- QEMU_ARGUMENT...]"
dir=$1 id=$2
shift 2
[ $# = 0 ] || { [ "$1" = -- ] || die "'--' must stand before QEMU's arguments, not '$1'"; shift; }
case $id in '' | *[!A-Za-z0-9._-]*) die "not a usable VM id: '$id'" ;; esac
vms=${QX_VMS_DIR:-$dir}
image=${QX_IMAGE_DIR:-target/vm/image}
case $image in /*) ;; *) image=$here/../../$image ;; esac

for f in vmlinuz initrd; do
    [ -r "$image/$f" ] || die "no $image/$f; make it with tests/vm/image.sh"
done
command -v qemu-system-x86_64 >/dev/null || die "no qemu-system-x86_64; run tests/vm/install.sh"
mkdir -p "$dir" "$vms"
for s in "$vms/$id.agent.sock" "$dir/$id.qmp"; do
    case $s in *,*) die "a comma in the path divides QEMU's options: $s" ;; esac
    bytes=$(printf %s "$s" | wc -c)
    [ "$bytes" -le 107 ] || die "a socket's path has at most 107 bytes, this one $bytes: $s"
done

accel=$("$here/accel.sh")

# About the processor: qemu64 without its two extras is the first x86-64. Under tcg whatever needs more
# faults in the guest; under kvm only what the guest kernel must switch on first does, as AVX.
# About virtio-rng: this processor has no random instruction, and without any source the first program
# that asks for random bytes waits a second for the kernel to gather them.
exec qemu-system-x86_64 -nodefaults -no-user-config -name "$id" \
    -machine q35 -accel "$accel" -cpu qemu64,-sse3,-cx16 -smp 1 -m "${QX_VM_MEM:-256}" \
    -display none -serial "file:$dir/$id.console" -pidfile "$dir/$id.pid" \
    -qmp "unix:$dir/$id.qmp,server=on,wait=off" \
    -kernel "$image/vmlinuz" -initrd "$image/initrd" \
    -append "console=ttyS0 quiet panic=-1 cryptomgr.notests ${QX_APPEND:-}" \
    -device virtio-serial-pci,id=serial0 \
    -chardev "socket,id=agent,path=$vms/$id.agent.sock,server=on,wait=off" \
    -device virtserialport,bus=serial0.0,nr=1,chardev=agent,name=org.quantix.agent.0,id=agent0 \
    -device virtio-rng-pci \
    "$@"
