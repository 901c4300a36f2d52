//! The guest moves to another host while transfers are under way: another QEMU, another directory, and
//! another daemon.

use serde_json::json;

use crate::vm::harness::{Node, Options, Own, PATIENCE, Place, Vm, count, wait_until};

use super::transfers::{ALL, Flowing, files_whole};

/// The host that the guest moves to.
struct Other {
    // In the order in which they end.
    node: Node,
    vm: Vm,
    place: Place,
}

impl Other {
    /// QEMU waits for the guest, and no daemon runs.
    fn wait() -> Self {
        let place = Place::new();
        let incoming = format!("unix:{}", place.file("incoming").display());
        let options = Options {
            qemu: &["-incoming", &incoming],
            ..Default::default()
        };
        let vm = Vm::start(&place, "db1", &options);
        let node = Node::new(&place);
        Self { node, vm, place }
    }

    /// Has the guest come.
    #[track_caller]
    fn take(&self, own: &Own) {
        let mut qmp = own.vm.qmp();
        let uri = format!("unix:{}", self.place.file("incoming").display());
        qmp.run("migrate", json!({ "uri": uri }));
        let mut last = json!(null);
        wait_until("the guest to move", PATIENCE, || {
            last = qmp.run("query-migrate", json!({}));
            assert_ne!(last["status"], "failed", "{last}");
            last["status"] == "completed"
        });
        let mut here = self.vm.qmp();
        wait_until("the guest to run here", PATIENCE, || {
            here.run("query-status", json!({}))["status"] == "running"
        });
    }

    /// The guest is well here: the same agent, its files, and nothing of the transfers.
    #[track_caller]
    fn has_it_well(&self, own: &Own, agent: &str) {
        self.node.wait_state("db1", "ready");
        self.node.wait_usable("db1");
        assert_eq!(self.node.sh("db1", "cut -d' ' -f4 /proc/$PPID/stat"), agent);
        assert_eq!(self.node.sh("db1", "cat /tmp/mark"), "moved with me");
        files_whole(&self.node, &own.place);
        // It was neither started nor reset.
        assert!(!self.vm.console().contains("started"));
        let vm = self.node.vm("db1");
        assert!(count(&vm, "connects") < 10, "{vm}");
    }
}

/// What moves with the guest; its agent.
#[track_caller]
fn mark(own: &Own) -> String {
    own.node.sh(
        "db1",
        "echo moved with me >/tmp/mark; cut -d' ' -f4 /proc/$PPID/stat",
    )
}

#[test]
fn a_guest_that_moves_to_a_daemon_that_waits_is_served_there() {
    let own = Own::ready(&Options::default());
    let agent = mark(&own);
    let mut other = Other::wait();
    other.node.start();
    wait_until("the other daemon to be connected", 10, || {
        count(&other.node.vm("db1"), "connects") > 0
    });
    let flowing = Flowing::begin(&own.node, &own.place);
    other.take(&own);
    // Its QEMU is ended, as who moves guests does.
    own.vm.qmp().run("quit", json!({}));
    assert_eq!(flowing.end(&[4]), ALL);
    own.vm.wait_end();
    wait_until("the guest to be gone here", 20, || {
        own.node.state("db1") == "absent"
    });
    other.has_it_well(&own, &agent);
}

#[test]
fn a_guest_that_moves_before_there_is_a_daemon_is_served_there_too() {
    let own = Own::ready(&Options::default());
    let agent = mark(&own);
    let mut other = Other::wait();
    let flowing = Flowing::begin(&own.node, &own.place);
    other.take(&own);
    other.node.start();
    other.has_it_well(&own, &agent);
    // The QEMU that it has left goes on and keeps its client; nobody hangs on it.
    assert_eq!(flowing.end(&[4]), ALL);
    assert_ne!(own.node.state("db1"), "ready");
}
