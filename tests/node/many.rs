use std::fs;

use serde_json::Value;

use crate::util::node::{Node, Vm};
use crate::util::{is_alive, pid_in, signal, until_so};

/// A daemon with these VMs, all of them ready.
fn with_vms(names: &[&str]) -> (Node, Vec<Vm>) {
    let node = Node::start();
    let vms = names.iter().map(|name| node.vm(name)).collect();
    for name in names {
        node.wait_state(name, "ready");
    }
    (node, vms)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_command_runs_in_each_and_its_lines_are_told_apart() {
    let (node, vms) = with_vms(&["db", "web1", "web2"]);
    let pid = "cut -d' ' -f4 /proc/$PPID/stat";
    let said = node.run(&["exec", "--all", "--", pid]);
    let line = |at: usize, name: &str| format!("{name:6}{}", vms[at].agent.pid());
    let expected = [line(0, "db:"), line(1, "web1:"), line(2, "web2:")];
    assert_eq!(sorted(said.fine()), expected);
    assert_eq!(said.stderr, "");

    let said = node.run(&[
        "exec",
        "--match",
        "web*",
        "--",
        "printf 'a\\nb'; echo oops >&2",
    ]);
    let expected = ["web1: a", "web1: b", "web2: a", "web2: b"];
    assert_eq!(sorted(said.fine()), expected);
    assert_eq!(sorted(&said.stderr), ["web1: oops", "web2: oops"]);

    let said = node.run(&[
        "exec",
        "--match=web1",
        "--match=db",
        "--collect",
        "--",
        "echo a; echo b",
    ]);
    let blocks = [
        "== db\na\nb\n== web1\na\nb\n",
        "== web1\na\nb\n== db\na\nb\n",
    ];
    assert!(blocks.contains(&said.fine()), "{said:?}");
    // Its own name in front of its line is one name enough.
    for line in node.run(&["ping", "--all"]).fine().lines() {
        assert_eq!(line.matches(": ").count(), 1, "{line}");
    }
}

#[test]
fn the_worst_status_is_ours_and_each_failure_has_its_line() {
    let (node, vms) = with_vms(&["a", "b", "c"]);
    let line = format!(
        "case $(cut -d' ' -f4 /proc/$PPID/stat) in {}) echo no such thing >&2; exit 7;; {}) exit 3;; esac",
        vms[0].agent.pid(),
        vms[1].agent.pid()
    );
    // In the order of their names: the last ends well.
    let said = node.run(&["exec", "--all", "--parallel", "1", "--", &line]);
    assert_eq!(said.status, 7, "{said:?}");
    let (told, list) = said.stderr.split_once("qx-node: ").unwrap();
    assert_eq!(told, "a: no such thing\n");
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "failed in 2 of 3 VMs:");
    let expected = ["  a  exit status 7: no such thing", "  b  exit status 3"];
    assert_eq!(sorted(&lines[1..].join("\n")), expected);

    // What we have to say ourselves is said once.
    let said = node.run(&["cat", "--all", "/nowhere"]);
    assert_eq!(said.status, 1);
    assert_eq!(
        said.stderr.matches("No such file or directory").count(),
        3,
        "{said:?}"
    );
    assert!(
        said.stderr.starts_with("qx-node: failed in 3 of 3 VMs:\n"),
        "{said:?}"
    );
}

#[test]
fn programs_get_a_value_for_each() {
    let (node, _vms) = with_vms(&["a", "b"]);
    let said = node.run(&["exec", "--all", "--json", "--", "echo out; exit 4"]);
    assert_eq!(
        (said.status, said.stderr.contains("failed in 2")),
        (4, true),
        "{said:?}"
    );
    for (line, name) in sorted(said.text()).into_iter().zip(["a", "b"]) {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["vm"], name);
        assert_eq!(value["status"], 4);
        assert_eq!(value["error"], "exit status 4");
        assert_eq!(value["result"]["stdout"], "out\n");
    }
    let said = node.run(&["ping", "--all", "--count", "2", "--json"]);
    let value: Value = serde_json::from_str(said.fine().lines().next().unwrap()).unwrap();
    assert_eq!(value["result"].as_array().unwrap().len(), 2);
    assert_eq!(value["error"], Value::Null);
}

#[test]
fn vms_that_are_off_are_left_out_and_counted() {
    let (node, vms) = with_vms(&["off", "on"]);
    fs::remove_file(node.socket("off")).unwrap();
    node.wait_state("off", "absent");
    let said = node.run(&["ping", "--all"]);
    assert!(said.fine().starts_with("on: seq=1 "), "{said:?}");
    assert_eq!(said.stderr, "qx-node: 1 VM is off, and left out\n");
    let why = node.run(&["ping", "--match", "of*"]);
    assert!(why.trouble(1).contains("all 1 VMs that are meant are off"));
    let why = node.run(&["ping", "--match", "nope*"]);
    assert!(why.trouble(1).contains("no VM is named nope*"));
    drop(vms);
}

#[test]
fn files_go_into_each_and_come_from_each_into_a_directory_of_its_own() {
    let (node, _vms) = with_vms(&["a", "b"]);
    let from = node.dir.file("from", "content");
    let there = node.dir.text("there");
    node.run(&["cp", &from, &format!("--all:{there}")]).fine();
    assert_eq!(fs::read(&there).unwrap(), b"content");
    fs::remove_file(&there).unwrap();
    node.run(&["cp", "--match", "?", &from, &format!(":{there}")])
        .fine();
    assert_eq!(fs::read(&there).unwrap(), b"content");

    let gathered = node.dir.text("gathered");
    node.run(&["cp", "--all", &format!(":{there}"), &gathered])
        .fine();
    for name in ["a", "b"] {
        let file = node.dir.join(&format!("gathered/{name}/there"));
        assert_eq!(fs::read(file).unwrap(), b"content");
    }
}

#[test]
fn a_signal_ends_those_that_run_and_no_other_begins() {
    let (node, _vms) = with_vms(&["a", "b", "c"]);
    let pids = node.dir.join("pids");
    fs::create_dir(&pids).unwrap();
    let line = format!("echo $$ > {}/$PPID; exec sleep 60", pids.display());
    let many = node.begin(&["exec", "--all", "--parallel", "2", "--", &line]);
    until_so("two commands", || fs::read_dir(&pids).unwrap().count() == 2);
    let files: Vec<_> = fs::read_dir(&pids)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let commands: Vec<u32> = files.iter().map(|file| pid_in(file)).collect();
    signal(many.pid(), "INT");
    let said = many.end();
    assert_eq!(said.status, 130, "{said:?}");
    assert!(said.stderr.contains("failed in 2 of 3 VMs:\n"), "{said:?}");
    assert!(said.stderr.contains("not begun in 1 VM\n"), "{said:?}");
    until_so("their end", || !commands.iter().any(|pid| is_alive(*pid)));
    assert_eq!(fs::read_dir(&pids).unwrap().count(), 2);
}

#[test]
fn what_can_be_for_one_vm_only_is_refused_once() {
    let (node, _vms) = with_vms(&["a", "b"]);
    for (words, why) in [
        (&["shell", "--all"][..], "invalid option '--all'"),
        (&["exec", "--all", "-t", "--", "sh"], "--tty is for one VM"),
        (
            &["exec", "--all", "a", "--", "true"],
            "a is one word too many",
        ),
        (&["exec", "--all"], "no command"),
        (&["exec", "--all", "--match", "a", "--", "true"], "not both"),
        (&["ping", "--parallel", "2"], "in which VMs?"),
        (&["ip", "--all", "--parallel", "2"], "in which VMs?"),
        (
            &["ping", "--all", "--parallel", "0"],
            "takes a number from 1",
        ),
        (&["logs", "--all", "-f", "cron"], "--follow is for one VM"),
        (&["cp", "--all", "x", "y"], "one side is in each VM"),
        (&["cp", "--all", "-", ":/x"], "- is for one VM"),
    ] {
        let said = node.run(words);
        assert!(said.trouble(2).contains(why), "{words:?}: {said:?}");
    }
}
