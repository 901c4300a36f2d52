//! Either side stands still for long, and goes on.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::vm::harness::{Options, Own, count, signal, wait_until};

use super::transfers::{ALL, Flowing, well_again};

/// Longer than a guest waits for its host's Pings.
const LONG: u64 = 31;

#[test]
fn a_paused_guest_is_shown_as_stalled_and_goes_on_in_the_same_session() {
    let own = Own::ready(&Options::default());
    let before = own.node.vm("db1");
    own.node.sh("db1", "truncate -s 8M /tmp/out");
    let mut download = own.node.begin(&["cat", "db1", "/tmp/out"]);
    download.read(1_000_000);
    let mut qmp = own.vm.qmp();
    qmp.run("stop", json!({}));
    let begun = Instant::now();
    // A request is not kept waiting by a guest that says nothing.
    let out = own.node.cli(&["exec", "db1", "--", "true"]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
    out.failed(125, &["paused"]);
    let vm = own.node.vm("db1");
    assert_eq!(vm["state"], "stalled", "{vm}");
    let why = vm["reason"].as_str().unwrap();
    assert!(why.contains("paused"), "{why}");
    thread::sleep(Duration::from_secs(12).saturating_sub(begun.elapsed()));
    qmp.run("cont", json!({}));
    let after = own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    assert_eq!(
        count(&after, "connects"),
        count(&before, "connects"),
        "{after}"
    );
    assert_eq!(
        count(&after, "sessions"),
        count(&before, "sessions"),
        "{after}"
    );
    drop(download);
}

#[test]
fn a_host_that_did_not_read_has_its_answer_and_fresh_telemetry_at_once() {
    let mut own = Own::ready(&Options {
        append: "qx.args=--telemetry-interval,1",
        ..Default::default()
    });
    let daemon = own.node.pid();
    let report = |own: &Own| own.node.cli(&["telemetry", "db1", "--json"]).json();
    let before = report(&own);
    signal(daemon, "STOP");
    own.rest(30);
    signal(daemon, "CONT");
    let begun = Instant::now();
    let pong = own.node.cli(&["ping", "db1", "--json"]).json();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let uptime = pong["uptime_seconds"].as_u64().unwrap();
    let mut after = report(&own);
    wait_until("a fresh report", 3, || {
        after = report(&own);
        after["uptime_seconds"].as_u64().unwrap() + 1 >= uptime
    });
    // What could not be sent was replaced by newer reports, and counted.
    let coalesced = |report: &serde_json::Value| report["coalesced"].as_u64().unwrap();
    assert_eq!(coalesced(&before), 0, "{before}");
    assert!(coalesced(&after) >= 10, "{after}");
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

#[test]
fn a_daemon_that_stood_still_in_transfers_goes_on_by_itself() {
    let mut own = Own::ready(&Options::default());
    let daemon = own.node.pid();
    let flowing = Flowing::begin(&own.node, &own.place);
    signal(daemon, "STOP");
    own.rest(LONG);
    signal(daemon, "CONT");
    // The guest has given the session up.
    flowing.end(&[4]);
    soon_well_again(&own);
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);
}

#[test]
fn an_agent_that_stood_still_in_transfers_goes_on_by_itself() {
    let mut own = Own::ready(&Options::default());
    let flowing = Flowing::begin(&own.node, &own.place);
    // The shell that wakes it is no child that the agent would have to look after.
    let line = format!(
        "kill -STOP $(cut -d' ' -f4 /proc/$PPID/stat); sleep {LONG}; kill -CONT $(cut -d' ' -f4 /proc/$PPID/stat); echo awake >/dev/console"
    );
    let sleeper = own.node.begin(&["exec", "db1", "--detach", "--", &line]);
    own.rest(LONG - 10);
    // Nobody has waited for it.
    assert_eq!(flowing.end(&[4]), ALL);
    drop(sleeper);
    assert_ne!(own.node.state("db1"), "ready");
    assert!(!own.vm.console().contains("awake"));
    own.rest(10);
    own.vm.wait_console("awake");
    soon_well_again(&own);
}

#[test]
fn a_qemu_that_stood_still_in_transfers_goes_on_by_itself() {
    let mut own = Own::ready(&Options::default());
    let flowing = Flowing::begin(&own.node, &own.place);
    signal(own.vm.pid(), "STOP");
    own.rest(LONG);
    assert_eq!(flowing.end(&[4]), ALL);
    assert_ne!(own.node.state("db1"), "ready");
    signal(own.vm.pid(), "CONT");
    soon_well_again(&own);
}

/// Without many connects on the way.
#[track_caller]
fn soon_well_again(own: &Own) {
    well_again(own);
    let vm = own.node.vm("db1");
    assert!(count(&vm, "connects") < 20, "{vm}");
}
