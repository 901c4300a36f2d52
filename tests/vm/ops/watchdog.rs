//! Guests whose agent answers, and whose disk or process 1 does not.

use serde_json::{Value, json};

use crate::vm::harness::{Node, Options, Own, PATIENCE, drive, wait_for};

fn watched(options: &Options) -> Own {
    let mut own = Own::boot(options);
    own.node.options(&["--watchdog"]);
    own.node.start();
    own.node.wait_state("db1", "ready");
    own
}

#[track_caller]
fn wait_event(node: &Node, kind: &str) -> String {
    wait_for(kind, PATIENCE, || {
        let text = node.cli(&["events", "db1", "--json"]).text();
        let mut events = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = events.find(|event| event["event"] == kind)?;
        Some(found["reason"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_disk_that_does_not_answer_is_told_of_and_so_is_its_return() {
    let disk = std::env::temp_dir().join(format!("qx-watchdog-{}", std::process::id()));
    let own = watched(&Options {
        append: "qx.args=--telemetry-interval,1",
        qemu: &[
            "-drive",
            &drive(&disk, 64),
            "-device",
            "virtio-blk-pci,drive=disk0",
        ],
    });
    std::fs::remove_file(&disk).unwrap();
    own.node.sh(
        "db1",
        "mkdir -p /srv/a && mount -t ext4 /dev/vda /srv/a && ls /srv/a",
    );
    let report = || own.node.cli(&["telemetry", "db1", "--json"]).json();
    wait_for("a report of the disk", PATIENCE, || {
        let report = report();
        let disks = report["disks"].as_array().unwrap().clone();
        disks
            .iter()
            .any(|disk| disk["mount_point"] == "/srv/a")
            .then_some(())
    });
    assert_eq!(own.node.vm("db1")["ills"], Value::Null);

    // So slow that nothing comes back. What the kernel keeps of it in memory still answers.
    let mut qmp = own.vm.qmp();
    let mut throttle = |bytes: u64| {
        let limits = json!({ "device": "disk0", "bps": bytes, "bps_rd": 0, "bps_wr": 0,
            "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        qmp.run("block_set_io_throttle", limits);
    };
    throttle(1);
    let why = wait_event(&own.node, "guest_sick");
    assert_eq!(why, "its disk at /srv/a does not answer");
    own.node.sh("db1", "df /srv/a >/dev/null");
    own.node.cli(&["ping", "db1"]).ok();
    let vm = own.node.vm("db1");
    assert_eq!((&vm["state"], &vm["ills"]), (&"ready".into(), &why.into()));
    let table = own.node.cli(&["vms"]).text();
    assert!(
        table.contains("its disk at /srv/a does not answer"),
        "{table}"
    );

    throttle(0);
    assert_eq!(wait_event(&own.node, "guest_well"), "");
    assert_eq!(own.node.vm("db1")["ills"], Value::Null);
    assert!(report()["stuck_mounts"].as_array().unwrap().is_empty());
}

#[test]
fn a_process_1_that_takes_no_dead_children_is_told_of() {
    let own = watched(&Options {
        append: "qx.args=--telemetry-interval,1 qx.init=deaf",
        ..Options::default()
    });
    let why = wait_event(&own.node, "guest_sick");
    assert_eq!(why, "its process 1 takes no process that has died");
    let text = own.node.cli(&["telemetry", "db1"]).text();
    assert!(text.contains("takes no process that has died"), "{text}");
    // One is left lying, however long that lasts.
    let zombies = own
        .node
        .sh("db1", "grep -l ') Z 1 ' /proc/[0-9]*/stat | wc -l");
    assert_eq!(zombies, "1");
}
