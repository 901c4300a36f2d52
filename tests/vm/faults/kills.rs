//! A process is killed in the middle, again and again in one guest.

use crate::vm::harness::{Options, Own, count, shared, wait_until};

use super::transfers::{ALL, Flowing, files_whole};

const ROUNDS: usize = 50;

/// Where a round's transfers are cut: somewhere else in each.
fn moved(round: usize) -> u64 {
    100_000 + (round as u64 * 618_034) % 3_000_000
}

#[test]
fn fifty_killed_daemons_are_each_followed_by_one_that_serves() {
    let mut own = Own::ready(&Options::default());
    Flowing::prepare(&own.node, &own.place);
    let mut cut = 0;
    for round in 0..ROUNDS {
        eprintln!("round {round}");
        let mut flowing = Flowing::start(&own.node, &own.place);
        flowing.wait_moved(moved(round));
        own.node.kill();
        cut += flowing.end(&[3]);
        own.node.start();
        own.node.cli(&["ping", "db1"]).ok();
        files_whole(&own.node, &own.place);
    }
    assert!(cut > ROUNDS * ALL - ROUNDS / 2, "uploads were too fast");
    assert_eq!(own.vm.console().matches("started").count(), 1);
    assert_eq!(own.agents().len(), 1);
}

#[test]
fn fifty_killed_agents_are_each_followed_by_one_that_serves() {
    let own = Own::ready(&Options::default());
    Flowing::prepare(&own.node, &own.place);
    let mut cut = 0;
    for round in 0..ROUNDS {
        eprintln!("round {round}");
        let mut flowing = Flowing::start(&own.node, &own.place);
        flowing.wait_moved(moved(round));
        // Its answer may get lost with the agent.
        let line = format!(
            "sleep 0.0{}; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)",
            round % 10
        );
        let killer = own.node.begin(&["exec", "db1", "--detach", "--", &line]);
        wait_until("the agent to be killed", 20, || {
            own.vm.console().matches("agent exited 137").count() == round + 1
        });
        // In each tenth round nobody asks, and the daemon finds out by itself.
        if round % 10 != 0 {
            own.node.cli(&["ping", "db1"]);
        }
        cut += flowing.end(&[4]);
        drop(killer);
        own.node.wait_usable("db1");
        files_whole(&own.node, &own.place);
    }
    assert!(cut > ROUNDS * ALL - ROUNDS / 2, "uploads were too fast");
    let vm = own.node.vm("db1");
    assert_eq!(count(&vm, "connects"), 1, "{vm}");
    assert!(count(&vm, "sessions") > ROUNDS as u64, "{vm}");
    assert_eq!(own.agents().len(), 1);
}

#[test]
fn a_client_that_is_gone_takes_its_command_with_it_and_no_other() {
    let host = shared();
    let line = "sleep 3073 & (sleep 3074; true) & sh -c 'sleep 3075; true'; true";
    let command = host.node.begin(&["exec", "web1", "--", line]);
    let line = "while [ ! -e /tmp/go ]; do sleep 0.1; done; rm /tmp/go; echo well";
    let other = host.node.begin(&["exec", "web1", "--", line]);
    let running = || host.node.processes("web1", "sleep 307").len();
    wait_until("the command to run", 20, || running() == 3);
    drop(command);
    wait_until("the command to be gone", 20, || running() == 0);
    host.node.sh("web1", "touch /tmp/go");
    assert_eq!(other.finish().text(), "well");
}
