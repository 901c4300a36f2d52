//! Freezing all that there is, the root with the journal among it: ext4, an xfs on LVM, and an ext4 in a file
//! of that.

use std::fs;

use serde_json::Value;

use super::Guest;
use crate::vm::harness::{PATIENCE, system, wait_until};

/// In the order in which they are to be frozen: what is in a file before what the file is on.
const MOUNTS: [&str; 4] = ["/srv/loop", "/srv/a", "/srv/logs", "/"];

/// Where the writers write.
const PLACES: [&str; 4] = ["/srv/loop", "/srv/a", "/srv/logs", "/var/tmp"];

fn names(report: &Value, state: &str) -> Vec<String> {
    let mounts = report["mounts"].as_array().unwrap().iter();
    let mounts = mounts.filter(|mount| mount["state"] == state);
    mounts
        .map(|mount| mount["mount_point"].as_str().unwrap().to_owned())
        .collect()
}

impl Guest {
    /// How often something has been written there.
    fn written(&self, place: &str) -> usize {
        self.own
            .vm
            .console()
            .matches(&format!("wrote {place}."))
            .count()
    }

    #[track_caller]
    fn wait_writes(&self) {
        for place in PLACES {
            let before = self.written(place);
            wait_until(&format!("a write to {place}"), PATIENCE, || {
                self.written(place) > before + 1
            });
        }
    }

    /// Has this done while all is frozen, when nothing can be started. A new agent has come when it returns.
    fn freeze_and(&self, line: &str) -> Value {
        let waits = || self.own.vm.console().matches("waits").count();
        let before = waits();
        let line = format!(
            "trap '{line}' USR1; echo waits >/dev/console; while :; do sleep 1000000 & wait; done"
        );
        let job = self.ask("exec", &["--detach", "--", &line]).text();
        wait_until("the trigger", PATIENCE, || waits() > before);
        self.ask("freeze", &[]).ok();
        self.own.until_next_agent(|| {
            self.ask("kill", &[&job, "--signal", "USR1"]).ok();
        });
        let mut status = Value::Null;
        wait_until("the thaw", PATIENCE, || {
            status = self.json("freeze-status", &[]);
            status["state"] == "thawed"
        });
        self.wait_writes();
        status
    }
}

#[test]
#[ignore = "issue 6: minutes of an emulated boot; `make check-deep` runs it"]
fn a_debian_is_frozen_with_its_root_its_journal_and_its_volumes() {
    // The last is what a restored volume is looked at on.
    let guest = Guest::boot(&[("lvm", 512), ("data", 64), ("restored", 320)]);
    guest.sh(
        "pvcreate -q /dev/vdb && vgcreate -q data /dev/vdb && lvcreate -q -L 320M -n logs data &&
        mkfs.xfs -q /dev/data/logs && mke2fs -q -t ext4 /dev/vdc &&
        mkdir /srv/logs /srv/a /srv/loop && mount /dev/data/logs /srv/logs && mount /dev/vdc /srv/a &&
        truncate -s 40M /srv/logs/image && mke2fs -q -t ext4 /srv/logs/image &&
        mount -o loop /srv/logs/image /srv/loop",
    );
    disks_are_shown_as_lvm_has_them(&guest);
    for words in [&["/srv/logs"][..], &["/srv/logs", "--dry-run"]] {
        let advice =
            "by hand with pvresize /dev/vdb, then lvextend -r -l +100%FREE /dev/mapper/data-logs";
        guest.ask("grow", words).failed(1, &[advice]);
    }
    for place in PLACES {
        // Of no service of ours, so that nothing that ends that ends them.
        guest.sh(&format!(
            "systemd-run -q sh -c 'while :; do dd if=/dev/zero of={place}/writer bs=1k count=1 conv=fsync \
            2>/dev/null && echo wrote {place}. >/dev/console; logger wrote {place}; sleep 0.2; done'"
        ));
    }
    guest.wait_writes();
    the_images_are_whole_and_writers_wait(&guest);

    let status = guest.freeze_and("systemctl restart quantix-kvm-agent");
    assert_eq!(names(&status, "thawed"), MOUNTS);
    let why = status["error"].as_str().unwrap();
    assert!(why.contains("the agent ended"), "{status}");
    // All of the service, the freezer before it can see to its agent's end: only what is noted in /run is left.
    let status = guest.freeze_and(
        "systemctl kill -s STOP --kill-whom=main quantix-kvm-agent; pkill -KILL -x qx-freezer; \
        systemctl kill -s KILL quantix-kvm-agent",
    );
    assert_eq!(names(&status, "thawed"), MOUNTS);
    let why = status["error"].as_str().unwrap();
    assert!(why.contains("what held it was killed"), "{status}");

    // An end that comes meanwhile is systemd's, too: it ends the agent, which thaws. On a busy machine it may come
    // before.
    let boot = guest.node().vm("db1")["boot_id"].clone();
    guest.ask("reboot", &["--delay", "3"]).ok();
    drop(guest.ask("freeze", &[]));
    wait_until("another boot", 3 * PATIENCE, || {
        guest.node().vm("db1")["boot_id"] != boot
    });
}

fn the_images_are_whole_and_writers_wait(guest: &Guest) {
    let report = guest.json("freeze", &[]);
    assert_eq!(report["state"], "frozen", "{report}");
    assert_eq!(names(&report, "frozen"), MOUNTS);
    let before = PLACES.map(|place| guest.written(place));
    let place = &guest.own.place;
    let copy = |from: &str, to: &str| {
        let (from, to) = (place.file(from), place.file(to));
        system(&[
            "cp",
            "--sparse=always",
            from.to_str().unwrap(),
            to.to_str().unwrap(),
        ]);
    };
    copy("root", "root.copy");
    copy("data", "data.copy");
    // Of the volume's group the volume alone: LVM has put it behind its first MiB.
    let (from, to) = (place.file("lvm"), place.file("restored"));
    let (from, to) = (
        format!("if={}", from.display()),
        format!("of={}", to.display()),
    );
    system(&[
        "dd",
        &from,
        &to,
        "bs=1M",
        "skip=1",
        "count=320",
        "conv=notrunc",
        "status=none",
    ]);
    guest.node().cli(&["ping", "db1"]).ok();
    assert_eq!(PLACES.map(|place| guest.written(place)), before);
    let report = guest.json("thaw", &[]);
    assert_eq!(
        (&report["state"], &report["error"]),
        (&"thawed".into(), &Value::Null)
    );
    assert_eq!(names(&report, "thawed"), MOUNTS);
    guest.wait_writes();
    for name in ["root.copy", "data.copy"] {
        system(&["e2fsck", "-fn", place.file(name).to_str().unwrap()]);
        fs::remove_file(place.file(name)).unwrap();
    }
    // An xfs that was frozen is complete with its log, which a mount reads. That can be done where its kernel is.
    guest.sh(
        "blockdev --flushbufs /dev/vdd && mount -t xfs -o nouuid /dev/vdd /mnt && e2fsck -fn /mnt/image 2>&1 && \
        umount /mnt && xfs_repair -n /dev/vdd 2>&1",
    );
    // The journal goes on.
    wait_until("the journal", PATIENCE, || {
        guest
            .sh("journalctl -q -n 1 --since '-5 s' -t root")
            .contains("wrote ")
    });
}

fn disks_are_shown_as_lvm_has_them(guest: &Guest) {
    let disks = guest.json("disks", &[]);
    let find = |name: &str| {
        let found = disks["devices"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == name);
        found
            .cloned()
            .unwrap_or_else(|| panic!("no {name} in {disks}"))
    };
    assert_eq!(find("vdb")["serial"], "lvm");
    let volume = find("mapper/data-logs");
    assert_eq!(volume["size"], 320 << 20);
    assert_eq!(volume["made_of"], serde_json::json!(["vdb"]));
    assert_eq!(
        find("loop0")["made_of"],
        serde_json::json!(["/srv/logs/image"])
    );
    // A report ago they were not mounted.
    wait_until("their file systems", PATIENCE, || {
        let shown = guest.ask("disks", &[]).text();
        MOUNTS
            .iter()
            .all(|mount| shown.contains(&format!("\n{mount} ")))
            && shown.contains("/dev/mapper/data-logs")
    });
}
