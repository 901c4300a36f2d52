//! How a daemon comes to a channel: before the agent, and behind another client of the socket.

use std::thread;
use std::time::{Duration, Instant};

use super::harness::{Options, Own, PATIENCE, count, wait_for, wait_until};

#[test]
fn a_daemon_that_waits_serves_a_guest_as_soon_as_its_agent_runs() {
    // The guest boots for seconds, the agent waits for more, and the daemon's Ping with it.
    let mut own = Own::boot(&Options {
        append: "qx.delay=4",
        ..Default::default()
    });
    own.node.start();
    own.node.wait_state("db1", "waiting for agent");
    wait_until("QEMU to take the connection", 5, || {
        let vm = own.node.vm("db1");
        let why = vm["reason"].as_str().unwrap_or_default();
        why.contains("is quantix-kvm-agent running there?")
    });
    let out = own.node.cli(&["exec", "db1", "--", "true"]);
    if out.status != 0 {
        out.failed(125, &["nothing in the guest has taken our Ping"]);
    }
    let begun = wait_for("the agent's first line", PATIENCE, || {
        own.vm.console().contains("started").then(Instant::now)
    });
    let ping = own.node.cli(&["ping", "db1"]);
    let took = begun.elapsed();
    ping.ok();
    assert!(took < Duration::from_secs(1), "{took:?}");
    // The Ping that waited was the one that was answered: nothing was sent again, nobody connected
    // twice, and the agent has not seen a byte too many.
    let vm = own.node.vm("db1");
    assert_eq!(count(&vm, "connects"), 1, "{vm}");
    assert_eq!(count(&vm, "sessions"), 1, "{vm}");
    assert!(!own.vm.console().contains("dropped so far"));
}

#[test]
fn behind_another_client_the_daemon_waits_and_is_next() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let other = own.place.raw_client("db1");
    own.node.start();
    thread::sleep(Duration::from_secs(3));
    let vm = own.node.vm("db1");
    assert_ne!(vm["state"], "ready", "{vm}");
    assert_ne!(vm["reason"], "", "{vm}");
    own.node
        .cli(&["exec", "db1", "--", "true"])
        .failed(125, &[]);
    drop(other);
    let begun = Instant::now();
    own.node.wait_state("db1", "ready");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    own.node.wait_usable("db1");
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);
}

#[test]
fn behind_another_client_the_daemon_says_so() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let _other = own.place.raw_client("db1");
    own.node.start();
    wait_until("the reason", 5, || {
        let vm = own.node.vm("db1");
        vm["reason"].as_str().unwrap_or_default().contains("client")
    });
}
