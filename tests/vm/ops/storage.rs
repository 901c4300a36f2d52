//! The guest's disks.

use serde_json::Value;

use crate::vm::harness::{Options, Own, PATIENCE, drive, wait_for};

#[test]
fn disks_are_listed_and_trimmed_and_one_that_cannot_be_says_so() {
    let disks = ["a", "b"]
        .map(|name| std::env::temp_dir().join(format!("qx-storage-{}-{name}", std::process::id())));
    let (a, b) = (drive(&disks[0], 64), drive(&disks[1], 16));
    let a = format!("{a},discard=unmap");
    let b = b.replace("disk0", "disk1");
    let own = Own::ready(&Options {
        append: "qx.args=--telemetry-interval,1",
        qemu: &[
            "-drive",
            &a,
            "-device",
            "virtio-blk-pci,drive=disk0,serial=first,discard=on",
            "-drive",
            &b,
            "-device",
            "virtio-blk-pci,drive=disk1,discard=off",
        ],
    });
    std::fs::remove_file(&disks[1]).unwrap();
    let sh = |line: &str| own.node.sh("db1", line);
    let cli = |words: &[&str]| own.node.cli(words);
    sh("mkdir -p /srv/a /srv/b && mount -t ext4 /dev/vda /srv/a && mount -t ext4 /dev/vdb /srv/b");
    let found: Value = wait_for("a report with the disks", PATIENCE, || {
        let found = cli(&["disks", "db1", "--json"]).json();
        let mounts = found["filesystems"].to_string();
        mounts.contains("/srv/b").then_some(found)
    });
    let devices = found["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "{found}");
    assert_eq!(
        (&devices[0]["name"], &devices[0]["serial"]),
        (&"vda".into(), &"first".into())
    );
    assert_eq!(devices[0]["size"], 64 << 20);
    let address = sh("readlink -f /sys/block/vda")
        .rsplit('/')
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(devices[0]["address"], address.as_str());
    assert_eq!(
        (&devices[0]["discards"], &devices[1]["discards"]),
        (&true.into(), &false.into())
    );
    let filesystem = found["filesystems"].as_array().unwrap().iter();
    let mut filesystem = filesystem.filter(|filesystem| filesystem["mount_point"] == "/srv/a");
    let filesystem = filesystem.next().unwrap();
    let used = sh("df -Pi /srv/a | awk 'NR == 2 { print $3 }'");
    assert_eq!(filesystem["inodes_used"].to_string(), used);

    // What was written and removed is given back to the host.
    use std::os::unix::fs::MetadataExt;
    let blocks = || std::fs::metadata(&disks[0]).unwrap().blocks() * 512;
    sh(
        "dd if=/dev/urandom of=/srv/a/file bs=1M count=32 2>/dev/null && sync && rm /srv/a/file && sync",
    );
    assert!(blocks() > 32 << 20);
    let found = cli(&["trim", "db1", "/srv/a", "--json"]).json();
    assert!(
        found["mounts"][0]["trimmed"].as_u64().unwrap() >= 32 << 20,
        "{found}"
    );
    assert!(blocks() < 32 << 20);
    let all = cli(&["trim", "db1"]).text();
    let line = all.lines().find(|line| line.starts_with("/srv/b")).unwrap();
    assert!(line.ends_with("its disk takes no discards"), "{all}");
    let said = cli(&["trim", "db1", "/srv/b"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("/srv/b: its disk takes no discards"),
        "{said:?}"
    );
    cli(&["trim", "db1", "/tmp"]).failed(1, &["/tmp: a tmpfs is on no disk"]);
    cli(&["trim", "db1", "/none"]).failed(1, &["/none: nothing is mounted there"]);
    std::fs::remove_file(&disks[0]).unwrap();
}
