//! What a port can do to a channel that no socket can: hosts that come late or in pairs, hosts that
//! were never there, ports that go away, guests that stand still.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Options, Own, PATIENCE, count, wait_for, wait_until};

/// Nothing comes within the client's time.
#[track_caller]
fn silent(client: &mut UnixStream) {
    let mut byte = [0];
    let read = client.read(&mut byte);
    let kind = read.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "{byte:?}");
}

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
fn an_agent_without_a_host_sleeps_and_then_serves_at_once() {
    // The hold script starts the measurement, which goes on beside the agent.
    let append = "qx.hold=(sleep,3;probe,wakeups,$(pidof,quantix-kvm-agent),10)>/dev/console&";
    let mut own = Own::boot(&Options {
        append,
        ..Default::default()
    });
    own.vm.wait_agent();
    own.vm.wait_console("vmhwm_kb");
    let console = own.vm.console();
    let line = console
        .lines()
        .find(|line| line.contains("switches "))
        .unwrap();
    let number = |name: &str| -> u64 {
        let mut words = line.split(' ').skip_while(|word| *word != name);
        words.nth(1).unwrap().parse().unwrap()
    };
    assert!(number("voluntary") <= 1, "{line}");
    assert!(number("switches") <= 2, "{line}");

    let begun = Instant::now();
    own.node.start();
    own.node.cli(&["ping", "db1"]).ok();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(count(&own.node.vm("db1"), "connects"), 1);

    // The same after its host has left: 30 s later it has given the session up, at the latest.
    let agent = own.agents()[0];
    let line = format!("(sleep 1; probe wakeups {agent} 10) >/tmp/wakeups");
    own.node.cli(&["exec", "db1", "--detach", "--", &line]).ok();
    own.node.kill();
    thread::sleep(Duration::from_secs(13));
    own.node.start();
    let mut said = String::new();
    wait_until("the measurement", PATIENCE, || {
        said = own.node.sh("db1", "cat /tmp/wakeups");
        said.contains("switches")
    });
    let voluntary = said.split(' ').nth(3).unwrap();
    assert!(voluntary.parse::<u32>().unwrap() <= 2, "{said}");
}

#[test]
fn garbage_gets_no_answer_and_the_next_host_a_session() {
    let mut own = Own::boot(&Options::default());
    own.vm.wait_agent();
    let mut client = own.place.raw_client("db1");
    silent(&mut client);
    // Lengths that are legal and never filled, lengths that are not, text, and idle bytes between.
    let mut garbage = Vec::with_capacity(1 << 20);
    let mut state = 88_172_645_463_325_252_u64;
    while garbage.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        match state >> 60 {
            0 => garbage.extend_from_slice(&[0xFF; 7]),
            1 => garbage.extend_from_slice(&[0, 1, bytes[0], bytes[1]]),
            2 => garbage.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n"),
            _ => garbage.extend_from_slice(&bytes),
        }
    }
    client.write_all(&garbage).unwrap();
    silent(&mut client);
    // It has read it all: the socket's buffer and the port's hold less.
    own.vm.wait_console("bytes of garbage");
    drop(client);
    own.node.start();
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    assert_eq!(own.vm.console().matches("started").count(), 1);
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

#[test]
fn a_port_that_another_process_has_is_waited_for_and_the_process_named() {
    // The other process sends every byte back: our own Ping is no answer to our Ping.
    let append = "qx.hold=timeout,8,probe,echo,org.quantix.agent.0&";
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
fn a_client_that_leaves_a_paused_guest_does_not_leave_it_mute() {
    let mut own = Own::ready(&Options::default());
    let mut qmp = own.vm.qmp();
    // QEMU does not see a client leave that leaves now, and tells the guest nothing of it.
    qmp.run("stop", json!({}));
    own.node.kill();
    qmp.run("cont", json!({}));
    thread::sleep(Duration::from_millis(500));
    own.node.start();
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
    // And with its whole life in the pause.
    qmp.run("stop", json!({}));
    own.node.kill();
    own.node.start();
    thread::sleep(Duration::from_secs(2));
    assert_ne!(own.node.state("db1"), "ready");
    qmp.run("cont", json!({}));
    own.node.wait_state("db1", "ready");
    own.node.wait_usable("db1");
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
