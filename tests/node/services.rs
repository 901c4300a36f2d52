//! `qx-node ps`, `signal`, `services`, `service` and `logs`, as far as they only look at this machine.

use std::process::Command;

use serde_json::Value;

use crate::util::node::Node;
use crate::util::{Process, until};

#[test]
fn processes_are_listed_sorted_and_chosen() {
    let (node, vm) = Node::with_vm("vm");
    let log = node.dir.join("sleep.log");
    let sleeper = Process::start(Command::new("sleep").arg("1000"), log);
    // It is its parent's image until its exec.
    let found = until("the process", || {
        let all = node.run(&["ps", "vm", "--json"]).json();
        let found = by_pid(&all, sleeper.pid()).cloned();
        found.filter(|one| one["command"] == "sleep 1000")
    });
    assert_eq!(found["state"], "sleeping", "{found}");
    assert_eq!(found["parent"], std::process::id());
    assert_eq!(
        (&found["name"], &found["threads"]),
        (&"sleep".into(), &1.into())
    );
    assert!(found["memory_bytes"].as_u64().unwrap() > 0);
    assert!(found["age_seconds"].as_u64().unwrap() < 60, "{found}");

    let by = |key: &str, sort: &str| {
        let all = node.run(&["ps", "vm", "--sort", sort, "--json"]).json();
        let all = all.as_array().unwrap();
        all.iter()
            .map(|one| one[key].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(by("pid", "pid").is_sorted());
    assert!(by("memory_bytes", "memory").is_sorted_by(|a, b| a >= b));
    assert!(by("cpu_percent", "cpu").is_sorted_by(|a, b| a >= b));

    let own = found["uid"].to_string();
    let mine = node.run(&["ps", "vm", "--user", &own, "--json"]).json();
    assert!(by_pid(&mine, sleeper.pid()).is_some());
    assert!(
        mine.as_array()
            .unwrap()
            .iter()
            .all(|one| one["uid"] == found["uid"])
    );
    let said = node.run(&["ps", "vm", "--user", "no\x1bbody"]);
    assert_eq!(said.fine(), "no processes of no\\x1bbody\n");

    let said = node.run(&["ps", "vm"]);
    let line = said
        .fine()
        .lines()
        .find(|line| line.ends_with("sleep 1000"));
    assert!(
        line.is_some_and(|line| line.contains("sleeping")),
        "{}",
        said.text()
    );

    // The agent's, and none of ours, are spared. These signals do nothing, should they be sent.
    let refused = |pid: u32, words: &[&str], status| {
        let pid = pid.to_string();
        let said = node.run(&[&["signal", "vm", &pid, "--signal", "23"], words].concat());
        said.trouble(status).to_owned()
    };
    assert!(refused(vm.agent.pid(), &[], 5).contains("is the agent that answers this"));
    assert!(refused(1, &[], 5).contains("process 1 is the guest's init"));
    assert!(refused(0, &[], 1).contains("process 0 is none"));
    assert!(refused(u32::MAX, &[], 1).contains("is none"));
    let later = (found["started_ms"].as_u64().unwrap() + 10).to_string();
    let why = refused(sleeper.pid(), &["--started", &later], 1);
    assert!(why.contains("its number belongs to another now"), "{why}");
}

fn by_pid(all: &Value, pid: u32) -> Option<&Value> {
    all.as_array().unwrap().iter().find(|one| one["pid"] == pid)
}

#[test]
fn what_is_typed_wrong_is_not_sent() {
    let (node, _vm) = Node::with_vm("vm");
    for (words, why) in [
        (
            &["ps", "vm", "--sort", "name"][..],
            "--sort takes cpu, memory or pid",
        ),
        (
            &["signal", "vm", "sshd"],
            "a process is named by its number",
        ),
        (&["signal", "vm"], "a word is missing"),
        (&["signal", "vm", "7", "--started", "x"], "--started takes"),
        (
            &["service", "vm", "sshd", "reload"],
            "reload is none of status",
        ),
        (
            &["service", "vm", "../sshd", "status"],
            "a service's name has",
        ),
        (
            &["service", "vm", "--", "--root=/", "status"],
            "a word is missing",
        ),
        (
            &["service", "vm", "a", "stop", "--timeout", "0"],
            "--timeout takes",
        ),
        (&["service", "vm", "sshd"], "a word is missing"),
        (&["logs", "vm", "$(reboot)"], "a service's name has"),
        (
            &["logs", "vm", "a", "-n", "x"],
            "--lines takes a whole number",
        ),
        (&["logs", "vm", "a", "-f", "--json"], "cannot --follow"),
    ] {
        let said = node.run(words);
        assert!(said.trouble(2).contains(why), "{words:?}: {}", said.text());
    }
    let said = node.run(&["signal", "vm", "7", "--signal", "NOPE"]);
    assert!(said.trouble(1).contains("NOPE: not a signal"));
}
