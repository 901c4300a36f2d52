//! Either side ends and comes back, with a transfer under way in each direction; the other takes it
//! up again by itself.

use std::time::{Duration, Instant};

use serde_json::json;

use super::transfers::{Moving, nothing_left};
use crate::vm::harness::{Options, Own, Turn, Vm, count, wait_until};

/// Runs a line in the guest a moment after the answer has come.
fn soon(own: &Own, line: &str) {
    let line = format!("sleep 0.3; {line}");
    own.node.cli(&["exec", "db1", "--detach", "--", &line]).ok();
}

#[test]
fn a_killed_agent_is_back_by_itself_and_transfers_fail_cleanly() {
    let own = Own::ready(&Options::default());
    let before = own.node.vm("db1");
    let moving = Moving::start(&own);
    // The oldest: the others are its children, which have to notice.
    soon(&own, &format!("kill -9 {}", own.agents()[0]));
    own.vm.wait_console("agent exited 137");
    moving.have_failed(&own, 4, "session");
    let after = own.node.wait_state("db1", "ready");
    // The same connection serves the next agent.
    assert_eq!(
        count(&after, "connects"),
        count(&before, "connects"),
        "{after}"
    );
    assert_eq!(
        count(&after, "sessions"),
        count(&before, "sessions") + 1,
        "{after}"
    );
    assert_eq!(after["boot_id"], before["boot_id"]);
}

#[test]
fn a_stopped_agent_says_so_and_its_successor_serves() {
    let own = Own::ready(&Options {
        append: "qx.udev=on",
        ..Default::default()
    });
    let moving = Moving::start(&own);
    soon(&own, &format!("kill {}", own.agents()[0]));
    own.vm.wait_console("agent exited 0");
    moving.have_failed(&own, 4, "the agent is stopping");
    assert!(own.node.log().contains("the agent is stopping"));
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);
    // This guest has the links that udev makes.
    let link = own
        .node
        .sh("db1", "readlink /dev/virtio-ports/org.quantix.agent.0");
    assert!(link.contains("vport"), "{link}");
}

#[test]
fn a_killed_daemon_is_followed_by_another_that_serves_at_once() {
    let mut own = Own::ready(&Options::default());
    let moving = Moving::start(&own);
    own.node.kill();
    for outcome in moving.end() {
        assert_eq!(outcome.status, 3, "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("the daemon is gone"),
            "{}",
            outcome.stderr
        );
    }
    // Nor is one needed.
    let socket = own.place.socket("db1");
    let words = [
        "exec",
        "--direct",
        socket.to_str().unwrap(),
        "--",
        "hostname",
    ];
    assert_eq!(own.node.cli(&words).text(), "db1");
    let begun = Instant::now();
    own.node.start();
    own.node.cli(&["ping", "db1"]).ok();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    nothing_left(&own);
    let vm = own.node.vm("db1");
    assert_eq!(count(&vm, "sessions"), 1, "{vm}");
    // The agent is the same.
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

#[test]
fn a_reset_guest_is_served_on_the_same_connection() {
    let own = Own::ready(&Options::default());
    let before = own.node.vm("db1");
    let moving = Moving::start(&own);
    own.vm.qmp().run("system_reset", json!({}));
    // The guest's files are gone with its memory.
    for outcome in moving.end() {
        assert!([4, 125].contains(&outcome.status), "{outcome:?}");
    }
    wait_until("the next boot", 60, || {
        let now = own.node.vm("db1");
        now["state"] == "ready" && now["boot_id"] != before["boot_id"]
    });
    own.node.wait_usable("db1");
    let after = own.node.vm("db1");
    assert!(after["uptime_seconds"].as_u64().unwrap() < 60, "{after}");
}

#[test]
fn a_vm_that_is_started_again_under_its_name_is_found_again() {
    let mut own = Own::ready(&Options::default());
    let first = own.node.vm("db1")["boot_id"].clone();
    // It shuts down: QEMU removes the socket.
    own.node
        .cli(&["exec", "db1", "--detach", "--", "poweroff"])
        .ok();
    own.vm.wait_end();
    own.node.wait_state("db1", "absent");
    own.node
        .cli(&["ping", "db1"])
        .failed(4, &["db1 is absent: no socket"]);
    own.vm.start_again();
    let second = own.node.wait_state("db1", "ready")["boot_id"].clone();
    assert_ne!(first, second);
    own.node.wait_usable("db1");

    // It is killed with a transfer under way: the socket stays and refuses.
    let moving = Moving::start(&own);
    own.vm.kill();
    for outcome in moving.end() {
        assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    }
    wait_until("the daemon to see that", 10, || {
        let vm = own.node.vm("db1");
        let reason = vm["reason"].as_str().unwrap_or_default();
        vm["state"] == "connecting" && reason.starts_with("nothing listens on the socket")
    });
    let begun = Instant::now();
    let out = own.node.cli(&["exec", "db1", "--", "true"]);
    assert_eq!(out.status, 125);
    assert!(begun.elapsed() < Duration::from_secs(15));
    own.vm.start_again();
    let third = own.node.wait_state("db1", "ready")["boot_id"].clone();
    assert_ne!(second, third);
    own.node.wait_usable("db1");
}

#[test]
fn guests_beside_each_other_are_told_apart() {
    let _turn = Turn::wait();
    let mut own = Own::ready(&Options::default());
    let mut second = Vm::start(&own.place, "db2", &Options::default());
    own.node.wait_state("db2", "ready");
    let hostnames = |own: &Own| {
        ["db1", "db2"].map(|vm| {
            let running: Vec<_> = (0..4)
                .map(|_| own.node.begin(&["exec", vm, "--", "hostname"]))
                .collect();
            let mut said: Vec<_> = running.into_iter().map(|r| r.finish().text()).collect();
            said.dedup();
            said.join(" ")
        })
    };
    assert_eq!(hostnames(&own), ["db1", "db2"]);
    let untouched = own.node.vm("db1");
    second.start_again();
    own.node.wait_state("db2", "ready");
    own.node.wait_usable("db2");
    assert_eq!(hostnames(&own), ["db1", "db2"]);
    let now = own.node.vm("db1");
    assert_eq!(count(&now, "sessions"), count(&untouched, "sessions"));
    assert_eq!(now["boot_id"], untouched["boot_id"]);
    own.vm.kill();
    own.node.cli(&["exec", "db2", "--", "true"]).ok();
}
