use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::util::node::Node;
use crate::util::{Dir, Process, until_so};

/// A daemon that may have so many descriptors.
fn with_descriptors(limit: u32) -> Node {
    let dir = Dir::new();
    fs::create_dir(dir.join("vms")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh"]);
    command.arg(limit.to_string());
    command.args([env!("CARGO_BIN_EXE_qx-node"), "serve", "--vms-dir"]);
    command
        .arg(dir.join("vms"))
        .arg("--control")
        .arg(dir.join("control"));
    let process = Process::start(&mut command, dir.join("node.log"));
    let node = Node { process, dir };
    node.wait_control();
    node
}

fn states(node: &Node) -> Vec<(String, String, String)> {
    let all = node.run(&["vms", "--json"]).json();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = all.as_array().unwrap().iter();
    all.map(|vm| (word(&vm["vm"]), word(&vm["state"]), word(&vm["reason"])))
        .collect()
}

#[test]
fn where_descriptors_run_out_those_that_are_served_are_and_the_rest_wait() {
    let node = with_descriptors(96);
    let first = node.vm("a-first");
    node.wait_state("a-first", "ready");
    let others: Vec<_> = (0..30).map(|n| node.relay(&format!("vm{n:02}"))).collect();
    let short = |states: &[(String, String, String)]| {
        let short = states
            .iter()
            .filter(|(_, _, why)| why.contains("descriptor"));
        short.count()
    };
    until_so("all are seen, and some have to wait", || {
        let states = states(&node);
        states.len() == 31 && short(&states) > 0
    });
    let waiting = short(&states(&node));
    assert!(waiting < 30, "none was connected to");
    node.run(&["ping", "a-first"]).fine();
    // More clients than there are descriptors: those that are served are, and the others wait their turn.
    let crowd: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(node.control()).unwrap())
        .collect();
    let mut ping = node.begin(&["ping", "a-first"]);
    drop(crowd);
    until_so("its turn", || ping.has_ended());
    ping.end().fine();
    assert_eq!(
        node.process.log().matches("descriptor").count(),
        1,
        "{}",
        node.process.log()
    );

    // Those that go make room for those that wait.
    drop(others);
    for n in 0..20 {
        fs::remove_file(node.socket(&format!("vm{n:02}"))).unwrap();
    }
    until_so("nobody waits", || short(&states(&node)) == 0);
    node.run(&["ping", "a-first"]).fine();
    drop(first);
}

#[test]
fn ten_thousand_other_files_hide_no_vm_and_fill_no_log() {
    let node = Node::start();
    for n in 0..9000 {
        fs::write(node.dir.join(&format!("vms/file{n}")), "").unwrap();
    }
    for n in 0..1000 {
        fs::write(node.socket(&format!("no-socket{n}")), "").unwrap();
    }
    let vm = node.vm("vm");
    node.wait_state("vm", "ready");
    fs::remove_file(node.socket("vm")).unwrap();
    node.wait_state("vm", "absent");
    let lines = node.process.log().lines().count();
    assert!(lines < 40, "{lines} lines");
    drop(vm);
}

#[test]
fn a_directory_that_goes_and_comes_back_is_looked_at_again() {
    let (node, vm) = Node::with_vm("vm");
    fs::rename(node.dir.join("vms"), node.dir.join("away")).unwrap();
    node.wait_state("vm", "absent");
    fs::rename(node.dir.join("away"), node.dir.join("vms")).unwrap();
    node.wait_state("vm", "ready");
    node.run(&["ping", "vm"]).fine();
    drop(vm);
}

#[test]
fn a_directory_that_another_is_put_in_the_place_of_is_watched_from_then_on() {
    let (node, _vm) = Node::with_vm("vm");
    let dir = |name: &str| node.dir.join(name);
    fs::rename(dir("vms"), dir("first")).unwrap();
    symlink(dir("first"), dir("vms")).unwrap();
    node.wait_state("vm", "ready");
    fs::create_dir(dir("second")).unwrap();
    symlink(dir("second"), dir("link")).unwrap();
    // At once: there is always one.
    fs::rename(dir("link"), dir("vms")).unwrap();
    fs::write(dir("first").join("file"), "").unwrap();
    node.wait_state("vm", "absent");
    let _other = node.vm("other");
    node.wait_state("other", "ready");
}

#[test]
fn five_hundred_clients_that_are_silent_or_talk_nonsense_hinder_nobody() {
    let (node, _vm) = Node::with_vm("vm");
    let mut crowd = Vec::new();
    for n in 0..500 {
        let mut client = UnixStream::connect(node.control()).unwrap();
        if n % 2 == 0 {
            // Refused or not: the daemon may hang up while we talk.
            let _ = client.write_all(&[0xA5; 300]);
        }
        crowd.push(client);
    }
    node.run(&["ping", "vm"]).fine();
    let lines = node.process.log().lines().count();
    assert!(lines < 100, "{lines} lines");
    drop(crowd);
    // One that takes connections and is nobody's VM.
    let dead = UnixListener::bind(node.socket("dead")).unwrap();
    node.run(&["ping", "vm"]).fine();
    drop(dead);
}

#[test]
fn a_list_that_is_longer_than_what_may_wait_for_a_client_comes_whole() {
    let node = Node::start();
    let count = 12_000;
    node.dead(count);
    until_so("all of them", || {
        let said = node.run(&["vms", "--json"]);
        let vms = said.json();
        let names = vms.as_array().unwrap().iter();
        let names: Vec<&str> = names.map(|vm| vm["vm"].as_str().unwrap()).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        // And perhaps one with the name under which they were made.
        names.len() >= count
    });
}
