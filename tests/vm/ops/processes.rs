//! The guest's processes, and signals to them.

use serde_json::Value;

use crate::vm::harness::{Node, Own, PATIENCE, wait_for, wait_until};

fn ps(node: &Node, words: &[&str]) -> Vec<Value> {
    let all = node.cli(&[&["ps", "db1", "--json"], words].concat()).json();
    all.as_array().unwrap().clone()
}

fn named(all: &[Value], name: &str) -> Option<Value> {
    all.iter().find(|one| one["name"] == name).cloned()
}

#[test]
fn processes_are_told_apart_and_signalled() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    // The kernel calls a script by its file's name.
    sh(
        "mkdir /tmp/p && cd /tmp/p && printf '#!/bin/sh\nsleep 1000; :\n' >quantix-keeper && \
        echo 'while :; do :; done' >spinner && chmod 755 . *",
    );
    sh("cd /tmp/p && cp quantix-keeper \"$(printf 'e\\033[2J\\nvil')\"");
    let detached = |words: &[&str]| {
        let words = [&["exec", "db1", "--detach", "--"], words].concat();
        own.node.cli(&words).text()
    };
    let spinner = detached(&["sh", "/tmp/p/spinner"]);
    let evil = "cd /tmp/p && exec ./e*vil";
    detached(&["sh", "-c", evil]);
    // 100 KB of arguments, one of them with what a terminal would take for orders.
    let long = "x=$(head -c 100000 /dev/zero | tr '\\0' x); \
        exec sh -c 'sleep 1000; :' \"$(printf '\\033]0;a\\007')\" \"$x\"";
    detached(&["sh", "-c", long]);

    // The first of all by what it takes, as soon as a whole window lies within it.
    let busy = wait_for("a busy process on top", PATIENCE, || {
        let all = ps(&own.node, &["--sort", "cpu"]);
        let first = all.first().cloned().unwrap();
        first["command"]
            .as_str()
            .unwrap()
            .contains("spinner")
            .then_some(first)
    });
    assert!(busy["cpu_percent"].as_f64().unwrap() > 20.0, "{busy}");
    assert_eq!((&busy["user"], &busy["uid"]), (&"root".into(), &0.into()));
    assert!(busy["memory_bytes"].as_u64().unwrap() > 0, "{busy}");

    let all = ps(&own.node, &[]);
    let named_evil = named(&all, "e\u{1b}[2J\nvil").unwrap();
    assert!(named_evil["command"].as_str().unwrap().ends_with("\nvil"));
    let is_long = |one: &&Value| one["command_cut"] == true;
    let long = all.iter().find(is_long).unwrap();
    assert_eq!(long["command"].as_str().unwrap().len(), 256, "{long}");
    let kernel = all.iter().find(|one| one["pid"] == 2).unwrap();
    assert_eq!(
        (&kernel["name"], &kernel["command"]),
        (&"kthreadd".into(), &"".into())
    );
    // Nothing of it reaches a terminal.
    let text = own.node.cli(&["ps", "db1"]).text();
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    assert!(text.contains("./e\\x1b[2J\\x0avil\n"), "{text}");
    assert!(
        text.contains("\\x1b]0;a\\x07 xxx") && text.contains("xxx...\n"),
        "{text}"
    );
    assert!(text.contains("  [kthreadd]\n"), "{text}");
    assert!(!text.contains("defunct"));

    // By whoever it belongs to.
    sh("setsid su alice -c 'exec sleep 1001' >/dev/null 2>&1 </dev/null &");
    let hers = wait_for("her process", PATIENCE, || {
        let found = ps(&own.node, &["--user", "alice"]);
        found.into_iter().find(|one| one["command"] == "sleep 1001")
    });
    assert_eq!(
        (&hers["user"], &hers["uid"]),
        (&"alice".into(), &1000.into())
    );

    // A signal, to the process that is meant.
    let pid = hers["pid"].to_string();
    let started = hers["started_ms"].to_string();
    let other = (hers["started_ms"].as_u64().unwrap() + 10).to_string();
    let signal = |words: &[&str]| own.node.cli(&[&["signal", "db1"], words].concat());
    signal(&[&pid, "--started", &other]).failed(1, &["its number belongs to another now"]);
    assert_eq!(sh(&format!("cat /proc/{pid}/comm")), "sleep");
    let said = signal(&[&pid, "--signal", "stop", "--json"]).json();
    assert_eq!(
        (&said["name"], &said["signal"]),
        (&"sleep".into(), &19.into())
    );
    let stopped = |state: &str| {
        let all = ps(&own.node, &["--user", "1000"]);
        all.iter()
            .any(|one| one["pid"] == hers["pid"] && one["state"] == state)
    };
    wait_until("it to stop", PATIENCE, || stopped("stopped"));
    signal(&[&pid, "--signal", "SIGCONT"]).ok();
    wait_until("it to go on", PATIENCE, || stopped("sleeping"));
    let text = signal(&[&pid, "--started", &started]).text();
    assert_eq!(text, format!("process {pid} (sleep): sent SIGTERM"));
    let gone = format!("[ ! -e /proc/{pid} ] && echo gone || echo there");
    wait_until("its end", PATIENCE, || sh(&gone) == "gone");
    signal(&[&pid]).failed(1, &["is not there, or has ended", "`qx-node ps VM`"]);

    // One that has ended, and whose parent does not look.
    sh("setsid sh -c 'true & exec sleep 1002' >/dev/null 2>&1 </dev/null &");
    let zombie = wait_for("a zombie", PATIENCE, || {
        let all = ps(&own.node, &[]);
        all.into_iter().find(|one| one["state"] == "zombie")
    });
    assert_eq!(zombie["command"], "");
    signal(&[&zombie["pid"].to_string()]).failed(1, &["has ended, and its parent has not looked"]);

    // Those that nobody may end like this, and are still there.
    let agents = own.agents();
    signal(&["1", "--signal", "KILL"]).failed(5, &["process 1 is the guest's init"]);
    signal(&["2", "--signal", "KILL"]).failed(5, &["the kernel's own"]);
    let agent = agents[0].to_string();
    signal(&[&agent, "--signal", "KILL"]).failed(5, &["is the agent that answers this"]);
    let keeper = named(&ps(&own.node, &[]), "quantix-keeper").unwrap();
    signal(&[&keeper["pid"].to_string()]).failed(5, &["keeps a command; `qx-node kill VM JOB`"]);
    assert_eq!(own.agents()[0], agents[0]);
    // Any user's process may call itself so.
    sh("setsid su alice -c 'exec /tmp/p/quantix-keeper' >/dev/null 2>&1 </dev/null &");
    let faked = wait_for("a faked keeper", PATIENCE, || {
        named(&ps(&own.node, &["--user", "alice"]), "quantix-keeper")
    });
    signal(&[&faked["pid"].to_string(), "--signal", "9"]).ok();

    // What is kept is ended by its job, as before.
    own.node.cli(&["kill", "db1", &spinner]).ok();
}

#[test]
fn thousands_of_processes_come_in_parts() {
    let own = Own::ready(&Default::default());
    let sh = |line: &str| own.node.sh("db1", line);
    let line = "i=0; while [ $i -lt 1200 ]; do sleep 3000 & i=$((i+1)); done; exec sleep 3000";
    sh(&format!(
        "setsid sh -c '{line}' >/dev/null 2>&1 </dev/null &"
    ));
    let count = || {
        let all = ps(&own.node, &[]);
        let pids: Vec<u64> = all.iter().map(|one| one["pid"].as_u64().unwrap()).collect();
        assert!(pids.is_sorted_by(|one, next| one < next));
        all.iter()
            .filter(|one| one["command"] == "sleep 3000")
            .count()
    };
    wait_until("all of them", PATIENCE, || count() == 1201);
    // Those that go while they are listed are left out.
    let killer = own.node.begin(&["exec", "db1", "--", "killall sleep"]);
    wait_until("their end", PATIENCE, || count() == 0);
    drop(killer);
}
