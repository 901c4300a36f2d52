//! The guest goes back to what it was: its memory, its sessions, its half-written files. The host does
//! not.

use std::thread;
use std::time::Duration;

use crate::vm::harness::{Options, Own, count, signal, wait_until};
use crate::vm::qmp::Qmp;

use super::transfers::{ALL, Flowing, files_whole, well_again};

/// The monitor of a guest that snapshots can be taken of.
#[track_caller]
fn with_disk(own: &Own) -> Qmp {
    let mut qmp = own.vm.qmp();
    qmp.add_snapshot_disk(&own.place.file("snapshots"));
    qmp
}

#[test]
fn a_guest_that_goes_back_into_transfers_is_served_by_the_same_daemon() {
    let own = Own::ready(&Options::default());
    let mut qmp = with_disk(&own);
    let mut flowing = Flowing::begin(&own.node, &own.place);
    qmp.human("savevm middle");
    // The same transfers, further on.
    flowing.wait_moved(8_000_000);
    qmp.human("loadvm middle");
    assert_eq!(flowing.end(&[4]), ALL);
    well_again(&own);
    // Again, with others under way.
    let mut flowing = Flowing::start(&own.node, &own.place);
    flowing.wait_moved(2_000_000);
    qmp.human("loadvm middle");
    flowing.end(&[4]);
    well_again(&own);
    // And with none: nothing tells of it but the guest's answers.
    qmp.human("loadvm middle");
    well_again(&own);
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);
}

#[test]
fn a_guest_that_goes_back_to_before_the_session_is_served() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let mut qmp = with_disk(&own);
    qmp.human("savevm before");
    own.node.start();
    own.node.wait_state("db1", "ready");
    let flowing = Flowing::begin(&own.node, &own.place);
    qmp.human("loadvm before");
    flowing.end(&[4]);
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    // Its files are those of then.
    assert_eq!(own.node.sh("db1", "ls /tmp"), "");
    assert_eq!(own.vm.console().matches("started").count(), 1);
    wait_until("the transfers' processes to be gone", 20, || {
        own.agents().len() == 1
    });
}

#[test]
fn a_guest_that_goes_back_to_another_daemons_transfers_is_served() {
    let mut own = Own::ready(&Options::default());
    let mut qmp = with_disk(&own);
    let flowing = Flowing::begin(&own.node, &own.place);
    qmp.human("savevm middle");
    own.node.kill();
    flowing.end(&[3]);
    own.node.start();
    own.node.wait_state("db1", "ready");
    files_whole(&own.node, &own.place);
    let mut flowing = Flowing::start(&own.node, &own.place);
    flowing.wait_moved(2_000_000);
    qmp.human("loadvm middle");
    flowing.end(&[4]);
    well_again(&own);
    // The same with the daemon away, which was there when the snapshot was taken.
    own.node.kill();
    qmp.human("loadvm middle");
    own.node.start();
    well_again(&own);
}

#[test]
fn a_snapshot_of_a_guest_whose_host_did_not_read_leaves_a_device_that_works() {
    let own = Own::ready(&Options::default());
    let mut qmp = with_disk(&own);
    let mut flowing = Flowing::begin(&own.node, &own.place);
    // The guest writes as much as it may while nobody reads.
    signal(own.node.pid(), "STOP");
    // Nothing tells when it has.
    thread::sleep(Duration::from_millis(500));
    qmp.human("savevm full");
    qmp.human("loadvm full");
    signal(own.node.pid(), "CONT");
    // All that was on its way is in the host's hands, and nothing of it comes twice: the transfers
    // just go on.
    flowing.wait_moved(10_000_000);
    assert_eq!(count(&own.node.vm("db1"), "sessions"), 1);
    qmp.human("loadvm full");
    assert_eq!(flowing.end(&[4]), ALL);
    well_again(&own);
}
