//! Ports that go away, and ports that others have.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::vm::harness::{Options, Own, PATIENCE, wait_until};

#[test]
fn a_port_that_another_process_has_is_waited_for_and_the_process_named() {
    // The other process has the port before the agent begins, and sends every byte back: our own Ping
    // is no answer to our Ping.
    let append = "qx.hold=timeout,8,probe,echo,org.quantix.agent.0&\
        until,ls,-l,/proc/[0-9]*/fd,2>&1|grep,-q,vport;do,usleep,50000;done";
    let mut own = Own::boot(&Options {
        append,
        ..Default::default()
    });
    own.node.start();
    own.vm.wait_console("held by probe, pid ");
    let console = own.vm.console();
    assert!(console.contains("waiting: open /dev/vport"), "{console}");
    let vm = own.node.vm("db1");
    assert_ne!(vm["state"], "ready", "{vm}");
    assert_ne!(vm["reason"], "", "{vm}");
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    // Named once, however often it was tried.
    assert_eq!(own.vm.console().matches("held by probe").count(), 1);
    assert_eq!(own.vm.console().matches("started").count(), 1);
}

#[test]
fn a_port_that_was_taken_while_the_agent_was_away_is_waited_for() {
    let own = Own::ready(&Options::default());
    // What stands in the hold file runs before the next agent, and leaves behind who has the port.
    let line = "echo 'timeout 12 probe echo org.quantix.agent.0 &
        until ls -l /proc/[0-9]*/fd 2>&1 | grep -q vport; do usleep 50000; done' >/run/agent.new
        mv /run/agent.new /run/agent.hold; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)";
    let killer = own.node.begin(&["exec", "db1", "--detach", "--", line]);
    own.vm.wait_console("held by probe, pid ");
    drop(killer);
    assert_ne!(own.node.state("db1"), "absent");
    own.node
        .cli(&["exec", "-i", "db1", "--", "true"])
        .failed(125, &[]);
    wait_until("the agent to have the port", PATIENCE, || {
        own.vm.console().matches("is open").count() == 2
    });
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    assert_eq!(own.vm.console().matches("held by probe").count(), 1);
    assert_eq!(own.vm.console().matches("started").count(), 2);
}

#[test]
fn a_port_that_is_unplugged_in_use_is_served_when_it_is_plugged_again() {
    let own = Own::ready(&Options::default());
    let mut qmp = own.vm.qmp();
    own.node.sh("db1", "truncate -s 64M /tmp/out");
    for round in 1..=2 {
        let mut download = own.node.begin(&["cat", "db1", "/tmp/out"]);
        download.read(1_000_000);
        qmp.run("device_del", json!({ "id": "agent0" }));
        qmp.wait_event("DEVICE_DELETED");
        wait_until("the agent to notice", PATIENCE, || {
            own.vm
                .console()
                .matches("port lost: No such device")
                .count()
                == round
        });
        let out = download.finish();
        assert_ne!(out.status, 0);
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.stderr);
        let vm = own.node.vm("db1");
        assert_ne!(vm["state"], "ready", "{vm}");
        assert_ne!(vm["reason"], "", "{vm}");
        let port = json!({
            "driver": "virtserialport",
            "id": "agent0",
            "bus": "serial0.0",
            "nr": 1,
            "chardev": "agent",
            "name": "org.quantix.agent.0",
        });
        qmp.run("device_add", port);
        let begun = Instant::now();
        wait_until("the agent to have the port", 10, || {
            own.vm.console().matches("is open").count() == round + 1
        });
        own.node.wait_state("db1", "ready");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "{took:?}");
        own.node.wait_usable("db1");
    }
    assert_eq!(own.vm.console().matches("started").count(), 1);
    wait_until("the transfers' processes to be gone", 20, || {
        own.agents().len() == 1
    });
}
