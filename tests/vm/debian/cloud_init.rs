//! A guest with cloud-init and without an agent, whose seed disk brings the package.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Guest, without_agent};
use crate::util::packages::{self, Kind, run};
use crate::util::recipes::{follow, recipe};
use crate::vm::harness::{PATIENCE, Place};

/// cloud-init from this machine's mirror, into the disk `$0`, which is mounted at `$1`.
const INSTALL: &str = r#"
mount -o loop "$0" "$1"
mount -t tmpfs tmpfs "$1/run"
mkdir -p "$1/var/cache/apt/archives/partial" "$1/var/lib/apt/lists/partial"
cp /etc/resolv.conf "$1/etc/resolv.conf"
apt-get indextargets --no-release-info --format 'deb [trusted=yes] $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Identifier: Packages' | grep ' main$' | sort -u >"$1/etc/apt/sources.list"
export DEBIAN_FRONTEND=noninteractive
chroot "$1" apt-get update -q
chroot "$1" apt-get install -q -y --no-install-recommends cloud-init
chroot "$1" apt-get clean
rm -rf "$1/var/lib/apt/lists" "$1/etc/resolv.conf"
# It has no locales.
echo 'locale: false' >"$1/etc/cloud/cloud.cfg.d/99_test.cfg"
# As an image is before its first boot.
! chroot "$1" dpkg -s quantix-kvm-agent
umount "$1/run" "$1"
"#;

#[test]
#[ignore = "issue 8: minutes: cloud-init from a mirror, and its Python in an emulated guest"]
fn cloud_init_brings_the_agent() {
    let place = Place::new();
    let disk = place.file("root");
    without_agent(&disk);
    let there = place.file("there");
    fs::create_dir(&there).unwrap();
    run(Command::new("unshare")
        .args(["--mount", "sh", "-euc", INSTALL])
        .args([&disk, &there]));

    let seed = place.file("seed");
    fs::create_dir(&seed).unwrap();
    let deb = packages::ours(Kind::Deb, "quantix-kvm-agent");
    follow(&recipe("cloud-init"), &seed, &[("deb", &deb)]);
    let iso = seed.join("seed.iso");
    let drives: [(&Path, &str); 2] = [(&disk, "root"), (&iso, "seed")];
    let guest = Guest::boot_in(place, &drives, 0, 6 * PATIENCE);
    let installed = guest.sh("dpkg-query -W -f '${Status}' quantix-kvm-agent");
    assert_eq!(installed, "install ok installed");
    assert_eq!(guest.sh("systemctl is-active quantix-kvm-agent"), "active");
    let said = guest.says("cloud-init status --wait --long");
    assert!(said.contains("status: done"), "{said}");
}
