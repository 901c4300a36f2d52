//! Freezing, on real disks of a real guest: an ext4, an xfs, and a file system in a file of the first.
//!
//! Whether a writer goes on is seen on the console, since nothing can be run in the guest meanwhile.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::vm::harness::{Node, Options, Own, PATIENCE, make_disk, system, wait_for, wait_until};

/// A guest with an ext4 at /srv/a, an xfs at /srv/b and an ext4 at /srv/loop in a file of /srv/a, and a
/// writer on each.
struct Guest {
    own: Own,
    disk: PathBuf,
}

const MOUNTS: [&str; 3] = ["/srv/loop", "/srv/b", "/srv/a"];

impl Guest {
    fn start() -> Self {
        let names = ["ext4", "xfs"].map(|name| {
            let name = format!(
                "qx-freeze-{}-{:?}-{name}",
                std::process::id(),
                std::thread::current().id()
            );
            std::env::temp_dir().join(name)
        });
        let inside = names[0].with_extension("d");
        fs::create_dir(&inside).unwrap();
        make_disk(&inside.join("image"), 24, &["mke2fs", "-q", "-t", "ext4"]);
        let from = inside.to_str().unwrap();
        make_disk(&names[0], 64, &["mke2fs", "-q", "-t", "ext4", "-d", from]);
        fs::remove_dir_all(&inside).unwrap();
        make_disk(&names[1], 320, &["mkfs.xfs", "-q"]);
        let mut qemu = Vec::new();
        for (at, disk) in names.iter().enumerate() {
            let drive = format!("file={},format=raw,if=none,id=disk{at}", disk.display());
            let device = format!("virtio-blk-pci,drive=disk{at},serial=disk{at}");
            qemu.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
        }
        let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
        let own = Own::ready(&Options {
            qemu: &qemu,
            ..Default::default()
        });
        // QEMU has it open.
        fs::remove_file(&names[1]).unwrap();
        own.node.sh(
            "db1",
            "while read -r m; do insmod /lib/modules/$m.ko; done </lib/modules/fs.list
            mkdir -p /srv/a /srv/b /srv/loop
            mount -t ext4 /dev/vda /srv/a && mount -t xfs /dev/vdb /srv/b &&
            losetup /dev/loop0 /srv/a/image && mount -t ext4 /dev/loop0 /srv/loop",
        );
        Self {
            own,
            disk: names[0].clone(),
        }
    }

    fn node(&self) -> &Node {
        &self.own.node
    }

    fn sh(&self, line: &str) -> String {
        self.node().sh("db1", line)
    }

    /// Starts a process that writes to this mount again and again, and says so.
    fn writer(&self, mount: &str) {
        let line = format!(
            "n=0; while :; do n=$((n + 1)); echo $n >{mount}/writer; sync; echo \"writer {mount} $n.\" >/dev/console; done"
        );
        self.node()
            .cli(&["exec", "db1", "--detach", "--", &line])
            .ok();
        self.wait_writes(mount);
    }

    /// How often it has written.
    fn written(&self, mount: &str) -> u64 {
        let console = self.own.vm.console();
        let said = format!("writer {mount} ");
        let lines = console.lines().rev().filter_map(|line| {
            line.trim_end()
                .strip_suffix('.')?
                .rsplit_once(&said)?
                .1
                .parse()
                .ok()
        });
        lines.max().unwrap_or(0)
    }

    /// It does so once more, and again.
    #[track_caller]
    fn wait_writes(&self, mount: &str) {
        let before = self.written(mount);
        wait_until(&format!("a write to {mount}"), PATIENCE, || {
            self.written(mount) > before + 1
        });
    }

    fn freeze(&self, words: &[&str]) -> Value {
        let words = [&["freeze", "db1", "--json"], words].concat();
        self.node().cli(&words).json()
    }

    fn status(&self) -> Value {
        self.node().cli(&["freeze-status", "db1", "--json"]).json()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.disk);
    }
}

/// The mount points that are so, in their order.
fn which<'a>(report: &'a Value, state: &str) -> Vec<&'a str> {
    let mounts = report["mounts"].as_array().unwrap().iter();
    let mounts = mounts.filter(|mount| mount["state"] == state);
    mounts
        .map(|mount| mount["mount_point"].as_str().unwrap())
        .collect()
}

#[test]
fn writers_wait_the_image_is_clean_and_the_thaw_lets_them_go_on() {
    let guest = Guest::start();
    for mount in MOUNTS {
        guest.writer(mount);
    }
    let report = guest.freeze(&[]);
    assert_eq!(report["state"], "frozen", "{report}");
    assert_eq!(which(&report, "frozen"), MOUNTS);
    let before = MOUNTS.map(|mount| guest.written(mount));
    // Signs of life and reports go on; what would touch a disk is refused at once, with what to do.
    guest.node().cli(&["ping", "db1", "-c", "2"]).ok();
    for words in [
        &["exec", "db1", "--", "true"][..],
        &["cp", "db1:/etc/passwd", "/dev/null"],
        &["freeze", "db1"],
    ] {
        let status = if words[0] == "exec" { 125 } else { 1 };
        let said = guest.node().cli(words);
        said.failed(
            status,
            &["file systems are frozen, for", "`qx-node thaw` ends it"],
        );
    }
    let status = guest.status();
    assert_eq!(status["state"], "frozen");
    assert!(status["remaining_ms"].as_u64().unwrap() <= 60_000);
    let vms = guest.node().cli(&["vms"]).text();
    assert!(vms.contains("its file systems are frozen"), "{vms}");
    // What a snapshot of the disk would be.
    let copy = guest.disk.with_extension("copy");
    fs::copy(&guest.disk, &copy).unwrap();
    let checked = std::panic::catch_unwind(|| system(&["e2fsck", "-fn", copy.to_str().unwrap()]));
    fs::remove_file(&copy).unwrap();
    checked.unwrap();
    assert_eq!(MOUNTS.map(|mount| guest.written(mount)), before);

    let report = guest.node().cli(&["thaw", "db1", "--json"]).json();
    assert_eq!(
        (&report["state"], &report["error"]),
        (&"thawed".into(), &Value::Null)
    );
    assert!(report["frozen_ms"].as_u64().unwrap() > 0);
    assert_eq!(which(&report, "thawed"), MOUNTS);
    for mount in MOUNTS {
        guest.wait_writes(mount);
    }
    let said = guest.node().cli(&["thaw", "db1"]);
    said.failed(1, &["nothing is frozen"]);
}
