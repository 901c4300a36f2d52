//! What QEMU and the guest's driver believe of each other when they have missed something, and that the
//! daemon puts it right.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::vm::harness::{Options, Own, count, wait_until};
use crate::vm::qmp::Qmp;

use super::transfers::{Flowing, files_whole};

#[test]
fn a_client_that_leaves_a_paused_guest_does_not_leave_it_mute() {
    let mut own = Own::ready(&Options {
        append: "qx.args=--telemetry-interval,1",
        ..Default::default()
    });
    let mut qmp = own.vm.qmp();
    Flowing::prepare(&own.node, &own.place);
    for _ in 0..3 {
        let mut flowing = Flowing::start(&own.node, &own.place);
        flowing.wait_moved(2_000_000);
        // QEMU does not see a client leave that leaves now, and tells the guest nothing of it.
        qmp.run("stop", json!({}));
        own.node.kill();
        flowing.end(&[3]);
        qmp.run("cont", json!({}));
        // For the guest to write to nobody, of which nobody would tell.
        thread::sleep(Duration::from_millis(500));
        own.node.start();
        own.node.wait_state("db1", "ready");
        own.node.wait_usable("db1");
        files_whole(&own.node, &own.place);
    }
    // And with its whole life in the pause.
    qmp.run("stop", json!({}));
    own.node.kill();
    own.node.start();
    thread::sleep(Duration::from_secs(2));
    assert_ne!(own.node.state("db1"), "ready");
    qmp.run("cont", json!({}));
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

/// Whether QEMU has a client on the agent's socket.
fn is_connected(qmp: &mut Qmp) -> bool {
    let all = qmp.run("query-chardev", json!({}));
    let agent = all
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["label"] == "agent");
    let file = agent.unwrap()["filename"].as_str().unwrap();
    !file.starts_with("disconnected:")
}

#[test]
fn hosts_that_a_starved_driver_has_missed_do_not_leave_it_mute() {
    let mut own = Own::ready(&Options::default());
    // From here the driver does nothing, and QEMU goes on. Stopping the thread of the processor would
    // stop all of QEMU.
    let line = "sleep 0.5; echo hogging >/dev/console; probe hog 10; echo hogged >/dev/console";
    own.node.cli(&["exec", "db1", "--detach", "--", line]).ok();
    own.vm.wait_console("hogging\n");
    own.node.kill();
    let mut qmp = own.vm.qmp();
    // More than the driver's queue has room for.
    for _ in 0..40 {
        wait_until("no client", 10, || !is_connected(&mut qmp));
        let client = own.place.raw_client("db1");
        wait_until("the client", 10, || is_connected(&mut qmp));
        drop(client);
    }
    own.node.start();
    wait_until("the daemon", 10, || is_connected(&mut qmp));
    assert!(!own.vm.console().contains("hogged"), "too slow");
    own.vm.wait_console("hogged\n");
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    let vm = own.node.vm("db1");
    // The first was the one that was missed.
    assert!((2..10).contains(&count(&vm, "connects")), "{vm}");
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

#[test]
fn many_hosts_in_a_row_leave_a_port_that_works() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let mut qmp = own.vm.qmp();
    // More comings and goings than the port's queue for them holds, unseen by a guest that stands.
    qmp.run("stop", json!({}));
    for _ in 0..40 {
        if let Ok(mut client) = UnixStream::connect(own.place.socket("db1")) {
            let _ = client.write_all(b"\0\0\0\x05gone");
            thread::sleep(Duration::from_millis(5));
        }
    }
    qmp.run("cont", json!({}));
    own.node.start();
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    let vm: Value = own.node.vm("db1");
    assert!(count(&vm, "connects") < 20, "{vm}");
}
