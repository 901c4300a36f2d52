//! Guests that were put back, or are clones.

use serde_json::Value;

use crate::vm::harness::{Node, Own, PATIENCE, wait_until};

/// The steps, as `name: detail`.
fn steps(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap().iter();
    let word = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    steps
        .map(|step| format!("{}: {}", word(step, "name"), word(step, "detail")))
        .collect()
}

#[test]
fn a_clone_gets_what_is_its_own_and_a_step_that_fails_keeps_no_other() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    let cli = |words: &[&str]| own.node.cli(words);
    sh("date -s '2020-01-01 00:00:00' >/dev/null; mkdir -p /etc/ssh /etc/quantix-kvm/restore.d");
    sh(
        "echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo old >/etc/ssh/ssh_host_rsa_key",
    );
    sh(
        "printf '#!/bin/sh\\necho put back: $1\\n' >/etc/quantix-kvm/restore.d/10-app; chmod 755 /etc/quantix-kvm/restore.d/*",
    );
    // Without the program there is no key, and the old one stays; all else is done.
    let said = cli(&["restored", "db1", "--clone", "--json"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.stderr
            .contains("ssh-host-keys: ssh-keygen: No such file"),
        "{said:?}"
    );
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    let told = steps(&report);
    assert!(told[0].starts_with("clock: stepped by +"), "{told:?}");
    assert_eq!(told[1], "random: reseeded with 64 bytes of the host");
    assert!(told[2].starts_with("machine-id: another one"), "{told:?}");
    assert_eq!(told[4], "dhcp: nobody here has leases");
    assert_eq!(told[5], "hooks: 1 called");
    assert_eq!(report["hooks"][0]["output"], "put back: restore\n");
    assert_eq!(
        sh("cat /etc/ssh/ssh_host_rsa_key; ls -a /etc/ssh | wc -l"),
        "old\n3"
    );
    let id = sh("cat /etc/machine-id");
    assert!(
        id.len() == 32 && id != "0123456789abcdef0123456789abcdef",
        "{id}"
    );
    let time = cli(&["time", "db1", "--json"]).json();
    assert!(time["ahead_seconds"].as_f64().unwrap().abs() < 1.0);

    // What ssh-keygen -q -N PASSPHRASE -t KIND -f FILE does. A client of a lease is told.
    sh(
        "printf '#!/bin/sh\\n[ \"$3$5\" = rsa ] && echo new >$7 && echo new >$7.pub\\n' >/bin/ssh-keygen; chmod 755 /bin/ssh-keygen",
    );
    let line = "trap 'echo renews >/dev/console' USR1; echo udhcpc >/proc/self/comm; echo listens >/dev/console; while :; do sleep 1; done";
    cli(&["exec", "db1", "--detach", "--", line]).ok();
    own.vm.wait_console("listens");
    let report = cli(&["restored", "db1", "--ssh-host-keys", "--no-hooks", "--json"]).json();
    let told = steps(&report);
    assert_eq!(told[2], "ssh-host-keys: 1 new ones: rsa");
    assert_eq!(
        sh("cat /etc/ssh/ssh_host_rsa_key; ls -a /etc/ssh | wc -l"),
        "new\n4"
    );
    assert_eq!(told[3], "dhcp: told udhcpc");
    own.vm.wait_console("renews");
    assert_eq!(told.len(), 4);
    assert_eq!(sh("cat /etc/machine-id"), id);
}

#[test]
fn a_guest_that_is_put_back_is_told_by_the_daemon() {
    let mut own = Own::ready(&Default::default());
    own.node.options(&["--time-sync", "restored"]);
    own.node.start();
    own.node.wait_state("db1", "ready");
    let sh = |line: &str| own.node.sh("db1", line);
    sh(
        "mkdir -p /etc/quantix-kvm/restore.d; printf '#!/bin/sh\\necho was put back >/dev/console\\n' >/etc/quantix-kvm/restore.d/app; chmod 755 /etc/quantix-kvm/restore.d/app",
    );
    let mut qmp = own.vm.qmp();
    qmp.add_snapshot_disk(&own.place.file("snapshots"));
    qmp.human("savevm then");
    // On goes the session, and back.
    sh("true");
    qmp.human("loadvm then");
    let corrected = |node: &Node| -> Vec<String> {
        let text = node.cli(&["events", "db1", "--json"]).text();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let events = events.filter(|event: &Value| event["event"] == "clock_corrected");
        events
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect()
    };
    wait_until("the correction", PATIENCE, || {
        !corrected(&own.node).is_empty()
    });
    let why = corrected(&own.node);
    assert!(why[0].ends_with("and all else done"), "{why:?}");
    own.vm.wait_console("was put back");
    let time = own.node.cli(&["time", "db1", "--json"]).json();
    assert!(
        time["ahead_seconds"].as_f64().unwrap().abs() < 1.0,
        "{time}"
    );
}
