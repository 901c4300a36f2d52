#!/bin/sh
# Prints the accelerator VM tests can use here: kvm or tcg.
#
#   usage: tests/vm/accel.sh
#
#   QX_ACCEL     kvm or tcg: printed as it is, nothing is tried
#   QX_VM_CACHE  as for image.sh
#
# That /dev/kvm opens says little: there are machines where a guest hangs on it. So our kernel is booted
# on it once, and the answer kept in the cache until this machine boots again.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${QX_VM_CACHE:-target/vm/cache}
case $cache in /*) ;; *) cache=$here/../../$cache ;; esac

if [ -n "${QX_ACCEL:-}" ]; then
    echo "$QX_ACCEL"
    exit
fi
# Not kept: another user may be allowed to open it.
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
    echo tcg
    exit
fi

boot=$(cat /proc/sys/kernel/random/boot_id)
mkdir -p "$cache"
exec 8>"$cache/accel.lock"
flock 8
if read -r known answer <"$cache/accel" && [ "$known" = "$boot" ]; then
    echo "$answer"
    exit
fi 2>/dev/null

"$here/image.sh" - "$cache/probe" >&2
console=$(mktemp)
answer=tcg
qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -accel kvm -m 128 -display none \
    -serial "file:$console" -kernel "$cache/probe/vmlinuz" -initrd "$cache/probe/initrd" \
    -append 'console=ttyS0 quiet panic=-1 qx.agent=off' >/dev/null 2>&1 8>&- &
qemu=$!
trap 'kill -KILL $qemu 2>/dev/null || :; wait $qemu 2>/dev/null || :; rm -f "$console"' EXIT
trap 'exit 1' INT TERM HUP
turns=80 # of 0.1 s
while [ $turns -gt 0 ] && kill -0 $qemu 2>/dev/null; do
    if grep -q 'qx-guest: init done' "$console"; then
        answer=kvm
        break
    fi
    turns=$((turns - 1))
    sleep 0.1
done
echo "$boot $answer" >"$cache/accel.new"
mv "$cache/accel.new" "$cache/accel"
echo "$answer"
