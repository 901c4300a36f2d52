//! A guest that has nothing left: no process, no memory, no sense of time. The agent lives, answers Ping, and says what
//! it could not do.

use super::harness::{Own, PATIENCE, wait_until};

fn answers_pings(own: &Own) {
    own.node.cli(&["ping", "db1", "-c", "1"]).ok();
}

#[test]
fn a_guest_without_processes_is_told_and_the_bomb_is_ended() {
    let own = Own::ready(&Default::default());
    // As few as the kernel has it: 300 are kept for processes of its own.
    own.node.sh("db1", "echo 400 >/proc/sys/kernel/pid_max");
    let bomb = "b() { b | b & b | b; }; b";
    let running = own.node.begin(&["exec", "db1", "--", bomb]);
    wait_until("no process to be left", PATIENCE, || {
        let said = own.node.cli(&["exec", "db1", "--", "true"]);
        said.status != 0 && said.stderr.contains("Resource temporarily unavailable")
    });
    answers_pings(&own);
    // The one who began it takes it back, and with it all that it has become.
    drop(running);
    wait_until("the bomb to be gone", PATIENCE, || {
        let said = own
            .node
            .cli(&["exec", "db1", "--", "ls -d /proc/[0-9]* | wc -l"]);
        let count = String::from_utf8(said.stdout).unwrap();
        count.trim().parse().is_ok_and(|count: u32| count < 100)
    });
}

#[test]
fn an_agent_in_16_mib_lives_and_what_takes_more_is_ended() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    sh(
        "mkdir -p /tmp/cg && mount -t cgroup2 none /tmp/cg && echo +memory >/tmp/cg/cgroup.subtree_control \
        && mkdir /tmp/cg/small && echo 16M >/tmp/cg/small/memory.max",
    );
    sh("dd if=/dev/zero of=/tmp/large bs=1M count=24 2>/dev/null");
    // The agent, and the keeper that stands by for the next command.
    sh(
        "for p in $(pidof quantix-kvm-agent; grep -ls quantix-keeper /proc/[0-9]*/comm | cut -d/ -f3); do \
        echo $p >/tmp/cg/small/cgroup.procs; done",
    );
    assert!(sh("cat /proc/self/cgroup").contains("/small"));
    let agent = sh("pidof quantix-kvm-agent | tr ' ' '\n' | sort -n | head -n 1");
    for _ in 0..3 {
        let said = own.node.cli(&["exec", "db1", "--", "tail /dev/zero"]);
        assert_ne!(said.status, 0, "{}", said.stderr);
        answers_pings(&own);
    }
    // More than all of its memory goes through it.
    let copy = own.place.file("large");
    let words = ["cp", "db1:/tmp/large", copy.to_str().unwrap()];
    own.node.cli(&words).ok();
    assert_eq!(std::fs::metadata(copy).unwrap().len(), 24 << 20);
    let still = sh("pidof quantix-kvm-agent | tr ' ' '\n' | sort -n | head -n 1");
    assert_eq!(still, agent);
}

#[test]
fn clocks_that_jump_by_years_end_no_session_and_no_command() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    let session = own.node.vm("db1")["sessions"].clone();
    let running = own.node.begin(&[
        "exec",
        "db1",
        "--timeout",
        "600",
        "--",
        "sleep 4; echo whole",
    ]);
    for date in [
        "2040-01-01 00:00:00",
        "1975-01-01 00:00:00",
        "2026-06-01 00:00:00",
    ] {
        sh(&format!("date -s '{date}' >/dev/null"));
        answers_pings(&own);
    }
    assert_eq!(running.finish().text(), "whole");
    assert_eq!(own.node.vm("db1")["sessions"], session);
}
