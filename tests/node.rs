//! The real daemon with real agents behind relays: which VMs there are, whose answer is whose, and
//! that nobody - guest, agent or client - can make others wait.

#![cfg(test)]

// Who may do what.
mod access;
// Programs that speak to the daemon themselves.
mod api;
// Clients: many, slow ones, wrong ones, and those that leave.
mod clients;
// What is configured, where it logs, what systemd is told.
mod config;
// A crowd: of files, of clients, of VMs where descriptors are few.
mod crowd;
// Guests: dead, restarted, lying, hostile.
mod guests;
mod hostile;
// What guests have reported, for people and for programs.
mod history;
// Commands that outlive clients, daemons and agents.
mod jobs;
// What Prometheus is told.
mod metrics;
// One command in many VMs.
mod many;
// What an operator does to guests, as far as this machine may be the guest.
mod network;
mod services;
mod setup;
mod time;
mod users;
// What is told of VMs: who is ahead in a queue, what a monitor says, what has happened.
mod events;
mod states;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use crate::util::node::{Node, serve};
use crate::util::{Dir, children, is_confined, until_so};

#[test]
fn a_socket_that_appears_later_is_found_and_one_that_goes_is_gone() {
    let node = Node::start();
    assert_eq!(node.run(&["vms", "--json"]).json(), serde_json::json!([]));
    let vm = node.vm("late");
    let seen = node.wait_state("late", "ready");
    assert_eq!(seen["agent"]["version"], quantix::VERSION);
    assert_eq!(seen["socket"], node.socket("late").to_str().unwrap());
    fs::remove_file(node.socket("late")).unwrap();
    node.wait_state("late", "absent");
    let why = node.run(&["ping", "never-seen"]);
    assert!(why.trouble(1).contains("no VM is named \"never-seen\""));
    drop(vm);
}

#[test]
fn the_daemon_can_run_no_program_and_has_few_of_roots_rights() {
    let dir = Dir::new();
    let node = Node::serving(&["--log", &dir.text("log")]);
    let pid = node.process.pid();
    // What writes its log and its audit, too.
    let log = children(pid);
    assert_eq!(log.len(), 2);
    assert!(log.into_iter().chain([pid]).all(is_confined));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rights = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let rights = u64::from_str_radix(rights.unwrap(), 16).unwrap();
    // CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE (linux/capability.h).
    let kept = [1, 10, 19].iter().fold(0, |all, bit| all | 1 << bit);
    assert_eq!(rights & !kept, 0, "{rights:x}");
}

#[test]
fn a_socket_that_was_there_before_the_daemon_is_found() {
    let (mut node, vm) = Node::with_vm("early");
    node.process.signal("TERM");
    assert!(node.process.wait().success());
    assert!(!node.control().exists(), "its socket is still there");
    node.process = serve(&node.dir);
    node.wait_control();
    node.wait_state("early", "ready");
    drop(vm);
}

#[test]
fn a_socket_that_is_replaced_is_connected_to_anew() {
    let (node, vm) = Node::with_vm("again");
    assert_eq!(
        node.exec("again", "cut -d' ' -f4 /proc/$PPID/stat")
            .fine()
            .trim(),
        vm.agent.pid().to_string()
    );
    fs::remove_file(node.socket("again")).unwrap();
    drop(vm);
    fs::remove_file(node.dir.join("again.port")).unwrap();
    let vm = node.vm("again");
    until_so("the new agent answers", || {
        let said = node.exec("again", "cut -d' ' -f4 /proc/$PPID/stat");
        said.status == 0 && said.text().trim() == vm.agent.pid().to_string()
    });
}

#[test]
fn a_directory_of_sockets_that_is_made_anew_is_watched_again() {
    let (node, vm) = Node::with_vm("first");
    fs::rename(node.dir.join("vms"), node.dir.join("old")).unwrap();
    fs::create_dir(node.dir.join("vms")).unwrap();
    let second = node.vm("second");
    node.wait_state("second", "ready");
    node.wait_state("first", "absent");
    drop((vm, second));
}

#[test]
fn two_vms_are_never_mixed_up() {
    let node = Node::start();
    let vms = ["a", "b", "a.b"].map(|name| (name, node.vm(name)));
    for (name, _) in &vms {
        node.wait_state(name, "ready");
    }
    let mut running = Vec::new();
    for _ in 0..10 {
        for (name, vm) in &vms {
            running.push((
                node.begin(&["exec", name, "--", "cut -d' ' -f4 /proc/$PPID/stat"]),
                vm.agent.pid(),
            ));
        }
    }
    for (running, pid) in running {
        assert_eq!(running.end().fine().trim(), pid.to_string());
    }
}

#[test]
fn what_is_no_vms_socket_is_left_alone_and_named() {
    let (node, vm) = Node::with_vm("fine");
    fs::write(node.socket("file"), "").unwrap();
    symlink(node.socket("fine"), node.socket("zz-twin")).unwrap();
    symlink("nowhere", node.socket("dangling")).unwrap();
    let _other = UnixListener::bind(node.dir.join("vms/other.sock")).unwrap();
    let _nameless = UnixListener::bind(node.dir.join("vms/.agent.sock")).unwrap();
    let _control = UnixListener::bind(node.dir.join("vms/a\x1bb.agent.sock")).unwrap();
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"\xFF.agent.sock");
    let _odd = UnixListener::bind(node.dir.join("vms").join(name)).unwrap();
    let spaces = node.vm("two words");
    node.wait_state("two words", "ready");
    let all = node.run(&["vms", "--json"]).json();
    let names: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| vm["vm"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["fine", "two words"]);
    node.process.wait_log("file.agent.sock is not a socket");
    node.process.wait_log("zz-twin: its socket is the same as");
    drop((vm, spaces));
}

#[test]
fn a_second_daemon_on_the_same_control_socket_names_the_first() {
    let (node, vm) = Node::with_vm("one");
    let mut second = serve(&node.dir);
    assert_eq!(second.wait().code(), Some(1));
    let words = format!("another qx-node (pid {}) serves ", node.process.pid());
    node.process.wait_log(&words);
    // The first has lost nothing.
    node.run(&["ping", "one"]).fine();
    drop(vm);
}

#[test]
fn the_control_socket_of_a_daemon_that_was_killed_is_taken_over() {
    let mut node = Node::start();
    node.process.kill();
    assert!(node.control().exists());
    let why = node.run(&["vms"]);
    assert!(why.trouble(3).contains("qx-node serve"));
    node.process = serve(&node.dir);
    node.wait_control();
    node.run(&["vms"]).fine();
}

#[test]
fn a_file_in_the_place_of_the_control_socket_is_not_removed() {
    let dir = Dir::new();
    dir.file("control", "precious");
    let mut daemon = serve(&dir);
    assert_eq!(daemon.wait().code(), Some(1));
    daemon.wait_log("is not a socket");
    assert_eq!(fs::read(dir.join("control")).unwrap(), b"precious");
}
