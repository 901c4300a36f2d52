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
            "n=0; while :; do n=$((n + 1)); dd if=/dev/zero of={mount}/writer bs=1k count=1 conv=fsync \
            2>/dev/null && echo \"writer {mount} $n.\" >/dev/console; done"
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

    /// Something to be done while the guest is frozen, when nothing can be started in it: a process that waits
    /// for a signal.
    fn trigger(&self, line: &str) -> impl Fn() + use<'_> {
        let line =
            format!("trap '{line}' USR1; echo waits >/dev/console; while :; do sleep 1000; done");
        let said = self
            .node()
            .cli(&["exec", "db1", "--detach", "--", &line])
            .text();
        let job = said.trim().to_owned();
        let waits = || self.own.vm.console().matches("waits").count();
        let jobs: usize = job.parse().unwrap();
        // All detached commands are of these tests; the writer comes first.
        wait_until("the trigger", PATIENCE, || waits() + 1 >= jobs);
        move || {
            self.node()
                .cli(&["kill", "db1", &job, "--signal", "USR1"])
                .ok();
        }
    }

    fn freeze(&self, words: &[&str]) -> Value {
        let words = [&["freeze", "db1", "--json"], words].concat();
        self.node().cli(&words).json()
    }

    /// It fails with these words, and tells all the same what it did.
    #[track_caller]
    fn freeze_fails(&self, words: &[&str], why: &str) -> Value {
        let failed = self
            .node()
            .cli(&[&["freeze", "db1", "--json"], words].concat());
        assert!(matches!(failed.status, 1 | 5), "{failed:?}");
        assert!(failed.stderr.contains(why), "{failed:?}");
        serde_json::from_slice(&failed.stdout).unwrap()
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
    // What the agent has to say of it is not written before it may be.
    let says = || guest.own.vm.console().contains("file systems are frozen");
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
    let listed = guest.node().cli(&["vms"]).text();
    assert!(listed.contains("its file systems are frozen"), "{listed}");
    let vms = guest.own.place.file("vms");
    let words = [
        "doctor",
        "db1",
        "--json",
        "--vms-dir",
        vms.to_str().unwrap(),
    ];
    let found = guest.node().cli(&words);
    assert_eq!(found.status, 1, "{found:?}");
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("qx-node thaw db1"), "{found}");
    // The last writes have been told of by now.
    let before = MOUNTS.map(|mount| guest.written(mount));
    // What a snapshot of the disk would be.
    let copy = guest.disk.with_extension("copy");
    fs::copy(&guest.disk, &copy).unwrap();
    let checked = std::panic::catch_unwind(|| system(&["e2fsck", "-fn", copy.to_str().unwrap()]));
    fs::remove_file(&copy).unwrap();
    checked.unwrap();
    assert_eq!(MOUNTS.map(|mount| guest.written(mount)), before);
    assert!(!says());

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
    assert!(says());
    let said = guest.node().cli(&["thaw", "db1"]);
    said.failed(1, &["nothing is frozen"]);
}

/// The reason for a thaw that nobody asked for.
#[track_caller]
fn wait_thawed(guest: &Guest) -> String {
    let status = wait_for("the thaw", PATIENCE, || {
        let status = guest.status();
        (status["state"] == "thawed").then_some(status)
    });
    assert_eq!(which(&status, "frozen"), [""; 0], "{status}");
    status["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn whoever_leaves_a_guest_frozen_it_thaws_by_itself() {
    let mut guest = Guest::start();
    guest.writer("/srv/a");

    // The host is gone, and does not come back before the time is up.
    guest.freeze(&["--timeout", "2"]);
    guest.own.node.kill();
    guest.wait_writes("/srv/a");
    guest.own.node.start();
    guest.own.node.wait_state("db1", "ready");
    let said = guest.node().cli(&["thaw", "db1"]);
    said.failed(
        1,
        &["nothing is frozen any more: thawed by itself: its time was up"],
    );

    // The host comes back before: what it froze is still frozen, and its thaw as good as before.
    guest.freeze(&[]);
    guest.own.node.kill();
    guest.own.node.start();
    guest.own.node.wait_state("db1", "ready");
    assert_eq!(guest.status()["state"], "frozen");
    guest.node().cli(&["thaw", "db1"]).ok();

    // The agent ends, or is killed, or what holds it frozen is, or both at once.
    let kill = |signal: &str, name: &str| {
        format!("kill -{signal} $(grep -ls ^{name} /proc/[0-9]*/comm | cut -d/ -f3)")
    };
    let (agent, freezer) = ("quantix-kvm-age", "qx-freezer");
    // In this order neither has time to do anything about the other's end.
    let both = [
        kill("STOP", agent),
        kill("KILL", freezer),
        kill("KILL", agent),
    ];
    for (line, has_new_agent, why) in [
        (kill("TERM", agent), true, "the agent ended"),
        (kill("KILL", agent), true, "the agent ended"),
        (kill("KILL", freezer), false, "what held it was killed"),
        (both.join("; "), true, "what held it was killed"),
    ] {
        let trigger = guest.trigger(&line);
        guest.freeze(&[]);
        match has_new_agent {
            true => guest.own.until_next_agent(trigger),
            false => trigger(),
        }
        let said = wait_thawed(&guest);
        assert!(said.contains(why), "{line}: {said}");
        guest.wait_writes("/srv/a");
    }
    // What it has to say comes when it may be written.
    let console = guest.own.vm.console();
    assert!(console.contains("file systems are frozen"), "{console}");
}

#[test]
fn what_cannot_be_frozen_is_named_and_nothing_else_stays_frozen() {
    let guest = Guest::start();
    guest.writer("/srv/b");
    let fail = |words: &[&str], what: &[&str]| {
        let words = [&["freeze", "db1"], words].concat();
        guest.node().cli(&words).failed(1, what);
        assert_eq!(guest.status()["state"], "thawed");
        guest.wait_writes("/srv/b");
    };
    fail(
        &["/srv/nothing"],
        &["/srv/nothing: nothing is mounted there"],
    );
    fail(&["/srv/a", "/tmp"], &["/tmp: a tmpfs is on no disk"]);
    fail(&["srv/a"], &["srv/a: nothing is mounted there"]);
    fail(&["--timeout", "3601"], &["frozen for 3600 s at most"]);

    // Somebody else has frozen one. The first of the order is thawed again.
    guest.sh("fsfreeze --freeze /srv/a");
    let why = "db1 is not frozen: /srv/a: somebody else has frozen it";
    let report = guest.freeze_fails(&["/srv/a", "/srv/b"], why);
    assert_eq!(which(&report, "thawed"), ["/srv/b"]);
    guest.wait_writes("/srv/b");
    let report = guest.freeze(&["--skip-failed", "/srv/a", "/srv/b"]);
    assert_eq!(which(&report, "failed"), ["/srv/a"]);
    assert_eq!(which(&report, "frozen"), ["/srv/b"]);
    guest.node().cli(&["thaw", "db1"]).ok();
    guest.wait_writes("/srv/b");
    let report = guest
        .node()
        .cli(&["thaw", "db1", "--force", "--json"])
        .json();
    assert_eq!(which(&report, "thawed"), ["/srv/a"]);
    guest.sh("echo >/srv/a/file");

    // Nothing is left of it where all that is asked for is left out.
    guest.sh("mount -o remount,ro /srv/loop");
    let nothing = "there is no file system that can be frozen";
    let report = guest.freeze_fails(&["/srv/loop"], nothing);
    assert_eq!(report["mounts"][0]["reason"], "read-only");
    // Two mounts of one file system are one; one may be read-only.
    guest.sh(
        "mkdir /srv/bind && mount -o bind /srv/a /srv/bind && mount -o remount,bind,ro /srv/bind",
    );
    let report = guest.freeze(&["/srv/bind", "/srv/a"]);
    assert_eq!(which(&report, "frozen"), ["/srv/a"]);
    guest.node().cli(&["thaw", "db1"]).ok();
    // A mount point that cannot be entered any more: another file system is on top.
    guest.sh("mkdir /srv/b/x && mount -t tmpfs none /srv");
    guest.freeze_fails(&["--skip-failed"], nothing);
}

#[test]
fn hooks_are_called_in_order_their_failure_counts_and_their_output_is_told() {
    let guest = Guest::start();
    let hook = |name: &str, body: &str| {
        guest.sh(&format!(
            "mkdir -p /etc/quantix-kvm/freeze.d; cd /etc/quantix-kvm/freeze.d; printf '%s\\n' '#!/bin/sh' '{body}' >{name}; chmod 755 {name}"
        ));
    };
    let said = |report: &Value| -> Vec<String> {
        let hooks = report["hooks"].as_array().unwrap().iter();
        let text = |hook: &Value, key: &str| hook[key].as_str().unwrap().trim().to_owned();
        hooks
            .map(|hook| {
                format!(
                    "{} {} {} {}",
                    text(hook, "name"),
                    text(hook, "argument"),
                    hook["exit_code"],
                    text(hook, "output")
                )
            })
            .collect()
    };
    hook("10-first", "echo first $1; echo $1 >/srv/a/first");
    // A daemon that keeps its output open is not waited for.
    hook(
        "20-second",
        "echo second $1 >&2; setsid sleep 1000 & exit 0",
    );
    let report = guest.freeze(&["/srv/a"]);
    assert_eq!(
        said(&report),
        [
            "10-first freeze 0 first freeze",
            "20-second freeze 0 second freeze"
        ]
    );
    let report = guest.node().cli(&["thaw", "db1", "--json"]).json();
    let expected = ["20-second thaw 0 second thaw", "10-first thaw 0 first thaw"];
    assert_eq!(said(&report)[2..], expected);
    // It could write: it was called before, and after.
    assert_eq!(guest.sh("cat /srv/a/first"), "thaw");

    hook("15-bad", "[ $1 = thaw ] || { echo no database; exit 3; }");
    let report = guest.freeze_fails(&[], "hook 15-bad freeze failed with status 3");
    let expected = [
        "10-first freeze 0 first freeze",
        "15-bad freeze 3 no database",
        "15-bad thaw 0",
        "10-first thaw 0 first thaw",
    ];
    assert_eq!(
        said(&report)
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>(),
        expected
    );
    assert!(which(&report, "frozen").is_empty());
    let report = guest.freeze(&["--no-hooks", "/srv/a"]);
    assert_eq!(report["hooks"], Value::Array(vec![]));
    guest.node().cli(&["thaw", "db1"]).ok();

    // One that hangs is killed when the time for all of it is up.
    hook("15-bad", "[ $1 = thaw ] || exec sleep 1000");
    let why = "hook 15-bad freeze did not end in time, and was killed";
    guest.freeze_fails(&["--timeout", "1"], why);
    // Who may change it may do what root may.
    guest.sh("chmod 777 /etc/quantix-kvm/freeze.d/15-bad");
    guest.freeze_fails(&[], "15-bad: others than root may change it");
}

#[test]
fn a_disk_that_does_not_answer_holds_up_its_own_file_system_and_no_other() {
    let guest = Guest::start();
    guest.writer("/srv/b");
    // A byte a second: what is to be written out takes for ever.
    let throttle = |bytes: u64| {
        let limits = serde_json::json!({ "device": "disk0", "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        guest.own.vm.qmp().run("block_set_io_throttle", limits);
    };
    guest.sh("dd if=/dev/zero of=/srv/a/dirty bs=64k count=64 2>/dev/null");
    throttle(1);
    let failed = guest
        .node()
        .cli(&["freeze", "db1", "--timeout", "2", "/srv/a", "/srv/b"]);
    failed.failed(4, &["/srv/a does not come to an end; all else is thawed"]);
    guest.wait_writes("/srv/b");
    // The agent serves all the while, and says why it does not do more.
    guest.node().cli(&["ping", "db1"]).ok();
    assert_eq!(guest.status()["state"], "freezing");
    throttle(0);
    let said = wait_thawed(&guest);
    assert!(
        said.contains("its time was up before all was frozen"),
        "{said}"
    );
    guest.sh("echo >/srv/a/again && sync");
}

#[test]
fn a_guest_that_is_reset_while_frozen_comes_back_thawed() {
    let guest = Guest::start();
    guest.freeze(&[]);
    let boot = guest.node().vm("db1")["boot_id"].clone();
    guest
        .own
        .vm
        .qmp()
        .run("system_reset", serde_json::json!({}));
    wait_until("another boot", PATIENCE, || {
        let vm = guest.node().vm("db1");
        vm["boot_id"] != boot && vm["state"] == "ready"
    });
    assert_eq!(guest.status()["state"], "thawed");
    guest.sh("mkdir -p /srv/a; mount -t ext4 /dev/vda /srv/a && echo >/srv/a/file && sync");
}

#[test]
fn whenever_the_host_is_killed_the_guest_writes_on() {
    // `make check-deep` does it 200 times.
    let rounds: u32 = std::env::var("QX_FREEZE_ROUNDS").map_or(12, |text| text.parse().unwrap());
    let mut guest = Guest::start();
    guest.writer("/srv/a");
    for round in 0..rounds {
        let mut frozen = guest.own.node.begin(&["freeze", "db1", "--timeout", "1"]);
        match round % 4 {
            // At any moment of it.
            0 => {
                std::thread::sleep(std::time::Duration::from_micros(
                    u64::from(round * 7919 % 40) * 1000,
                ));
                guest.own.node.kill();
                guest.own.node.start();
            }
            1 => {
                frozen.child.wait().unwrap();
                guest.own.node.kill();
                guest.own.node.start();
            }
            2 => {
                frozen.child.kill().unwrap();
            }
            _ => {
                frozen.child.wait().unwrap();
                guest.node().cli(&["thaw", "db1"]).ok();
            }
        }
        let _ = frozen.child.wait();
        guest.own.node.wait_state("db1", "ready");
        guest.wait_writes("/srv/a");
    }
}
