//! Ends of a guest: by its init, without one, and by force; and its sleep.

use serde_json::{Value, json};

use crate::vm::harness::{Options, Own, PATIENCE, wait_until};

fn ready(append: &str) -> Own {
    Own::ready(&Options {
        append,
        ..Default::default()
    })
}

fn boots(own: &Own) -> Value {
    own.node.vm("db1")["boot_id"].clone()
}

#[test]
fn a_guest_starts_again_and_switches_off_and_both_are_followed_to_the_end() {
    let own = ready("");
    let before = boots(&own);
    let said = own.node.cli(&[
        "reboot",
        "db1",
        "--wait",
        "--message",
        "a new\u{1b}[2J kernel",
    ]);
    let said = said.text();
    assert!(said.starts_with("db1: started again after "), "{said}");
    assert_ne!(boots(&own), before);
    let console = own.vm.console();
    let shown = "quantix-kvm-agent: reboot now: a new\\x1b[2J kernel";
    assert!(console.contains(shown), "{console}");
    let said = own
        .node
        .cli(&["shutdown", "db1", "--wait", "--json"])
        .json();
    assert_eq!(said["state"], "switched off");
    own.vm.wait_end();
}

#[test]
fn what_is_put_off_is_known_to_the_next_agent_and_can_be_taken_back() {
    let own = ready("");
    let cli = |words: &[&str]| own.node.cli(words);
    cli(&["shutdown", "db1", "--cancel"]).failed(1, &["nothing is due"]);
    let said = cli(&[
        "shutdown",
        "db1",
        "--delay",
        "3000",
        "--message",
        "good night",
    ])
    .text();
    assert_eq!(said, "db1: switches off in 50m 0s");
    own.vm.wait_console("poweroff in 3000 s: good night");
    cli(&["reboot", "db1"]).failed(1, &["a poweroff is due in", "s; --cancel takes it back"]);
    let agents = own.agents();
    own.node.sh("db1", &format!("kill -KILL {}", agents[0]));
    wait_until("the next agent", PATIENCE, || {
        !own.agents().contains(&agents[0])
    });
    cli(&["reboot", "db1"]).failed(1, &["a poweroff is due in"]);
    assert_eq!(
        cli(&["reboot", "db1", "--cancel"]).text(),
        "db1: taken back"
    );
    wait_until("its end", PATIENCE, || {
        own.node
            .sh("db1", "grep -ls ^qx-power /proc/[0-9]*/comm; true")
            .is_empty()
    });
    cli(&["reboot", "db1", "--cancel"]).failed(1, &["nothing is due"]);
    cli(&["reboot", "db1", "--delay", "86401"]).failed(1, &["86400 s at most"]);
    // Its time comes.
    let before = boots(&own);
    cli(&["reboot", "db1", "--delay", "1"]).ok();
    wait_until("another boot", PATIENCE, || boots(&own) != before);
}

#[test]
fn a_guest_without_an_init_ends_its_processes_writes_out_its_disks_and_goes() {
    let own = ready("qx.init=none");
    let before = boots(&own);
    let line = "trap 'echo told to end >/dev/console; exit' TERM; echo listens >/dev/console; \
        while :; do sleep 1; done";
    own.node.cli(&["exec", "db1", "--detach", "--", line]).ok();
    own.vm.wait_console("listens");
    own.node.cli(&["reboot", "db1", "--wait"]).ok();
    assert_ne!(boots(&own), before);
    assert!(own.vm.console().contains("told to end"));
    own.node.cli(&["shutdown", "db1", "--wait"]).ok();
    own.vm.wait_end();
}

#[test]
fn a_forced_end_asks_no_init() {
    // This one takes no notice of signals: it is a shell.
    let own = ready("qx.init=none");
    let before = boots(&own);
    own.node.cli(&["reboot", "db1", "--force", "--wait"]).ok();
    assert_ne!(boots(&own), before);
    own.node.cli(&["shutdown", "db1", "--force", "--wait"]).ok();
    own.vm.wait_end();
}

#[test]
fn a_guest_that_sleeps_wakes_up_with_its_session() {
    let own = ready("");
    let cli = |words: &[&str]| own.node.cli(words);
    let states = own.node.sh("db1", "cat /sys/power/state");
    cli(&["suspend", "db1", "--disk"]).failed(1, &["no swap to write its memory to"]);
    assert!(states.contains("mem"), "{states}");
    let boot = boots(&own);
    let mut qmp = own.vm.qmp();
    cli(&["suspend", "db1"]).ok();
    qmp.wait_event("SUSPEND");
    qmp.run("system_wakeup", json!({}));
    cli(&["ping", "db1"]).ok();
    assert_eq!(own.node.sh("db1", "echo awake"), "awake");
    assert_eq!(boots(&own), boot);
}
