use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use crate::util::node::{Node, qx};
use crate::util::{Dir, Process, Said, children, signal, told, until, until_so};

/// A daemon with this in its file.
pub fn with_file(text: &str) -> Node {
    let dir = Dir::new();
    fs::create_dir(dir.join("vms")).unwrap();
    let all = format!(
        "vms_dir = {0}/vms\ncontrol = {0}/control\n{text}",
        dir.path().display()
    );
    dir.file("node.conf", all);
    let mut command = qx(&["serve", "--config", &dir.text("node.conf")]);
    let process = Process::start(&mut command, dir.join("node.log"));
    let node = Node { process, dir };
    node.wait_control();
    node
}

/// Has it read its file again, with `from` replaced.
pub fn change(node: &Node, from: &str, to: &str) {
    let path = node.dir.join("node.conf");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
    node.process.signal("HUP");
}

fn check(dir: &Dir, text: &str, words: &[&str]) -> Said {
    let file = dir.file("node.conf", text);
    crate::util::node::run(&[&["serve", "--check", "--config", &file][..], words].concat())
}

/// An address that is free now.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn what_is_configured_can_be_seen_before_it_is_served() {
    let dir = Dir::new();
    let said = check(
        &dir,
        "metrics = 127.0.0.1:9912\nwatchdog = yes\n",
        &["--log-level", "debug"],
    );
    let expected = "vms_dir   = /var/run/quantix-kvm/vms\ncontrol   = /run/quantix-kvm/qx-node.sock\n\
        log       = stderr\nlog_level = debug\ntime_sync = never\nwatchdog  = yes\n\
        metrics   = 127.0.0.1:9912\ntextfile  =\nview      =\noperate   = @quantix\nadmin     =\naudit     =\n";
    assert_eq!(said.fine(), expected);
    let said = check(&dir, "metrics = 9912\ncolour = red\n", &[]);
    assert_eq!(
        (said.status, said.stderr.lines().count()),
        (1, 2),
        "{said:?}"
    );
    assert!(
        said.stderr
            .contains("node.conf: line 1: metrics = 9912: takes an address and a port")
    );
    assert!(
        said.stderr
            .contains("line 2: colour = red: is no key; there are vms_dir,")
    );
    let missing = dir.text("missing.conf");
    let said = crate::util::node::run(&["serve", "--check", "--config", &missing]);
    assert!(
        said.stderr
            .contains("missing.conf: No such file or directory"),
        "{said:?}"
    );
    // A mistake in what was typed is no reason to serve something else.
    let said = crate::util::node::run(&["serve", "--log-level", "loud"]);
    assert!(
        said.trouble(2)
            .contains("--log-level takes error, warning, info or debug, not loud")
    );
}

#[test]
fn a_line_that_is_wrong_is_named_and_the_others_count() {
    let address = free();
    let node = with_file(&format!("metrics = {address}\nlog_level = loud\n"));
    node.process
        .wait_log("log_level = loud: takes error, warning, info or debug; it does not count");
    TcpStream::connect(address).unwrap();
}

#[test]
fn a_changed_file_counts_from_the_next_signal_on_if_it_is_right() {
    let (first, second) = (free(), free());
    let node = with_file(&format!("metrics = {first}\n"));
    let vm = node.vm("vm");
    node.wait_state("vm", "ready");
    change(&node, &first.to_string(), &second.to_string());
    node.process
        .wait_log(&format!("metrics on http://{second}/"));
    TcpStream::connect(second).unwrap();
    assert!(TcpStream::connect(first).is_err());

    change(&node, "metrics", "metric");
    node.process
        .wait_log("nothing was changed; `qx-node serve --check`");
    TcpStream::connect(second).unwrap();
    // An address that another has.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    change(
        &node,
        &format!("metric = {second}"),
        &format!("metrics = {}", taken.1),
    );
    node.process
        .wait_log("Address already in use; it is as it was");
    TcpStream::connect(second).unwrap();
    change(&node, "control = ", "control = /run");
    node.process
        .wait_log("vms_dir, control, log and audit change with the next start");
    change(&node, &format!("metrics = {}", taken.1), "watchdog = yes");
    change(&node, "control = /run", "control = ");
    node.process.wait_log("configuration read");
    until_so("no metrics any more", || {
        TcpStream::connect(second).is_err()
    });
    node.run(&["ping", "vm"]).fine();
    drop(vm);
}

#[test]
fn systemd_is_told_what_happens() {
    let dir = Dir::new();
    let path = dir.join("notify");
    let next = told(&path);
    let mut command: Command = qx(&[
        "serve",
        "--vms-dir",
        &dir.text("vms"),
        "--control",
        &dir.text("control"),
    ]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let mut process = Process::start(&mut command, dir.join("node.log"));
    assert_eq!(next(), "READY=1\nSTATUS=0 of 0 VMs are ready");
    assert!(
        dir.join("control").exists(),
        "it is ready before it can be asked"
    );
    assert_eq!(next(), "WATCHDOG=1");
    assert_eq!(next(), "STATUS=0 of 0 VMs are ready");
    assert_eq!(next(), "WATCHDOG=1");
    process.signal("HUP");
    until("the reload", || {
        next()
            .starts_with("RELOADING=1\nMONOTONIC_USEC=")
            .then_some(())
    });
    assert_eq!(next(), "READY=1\nSTATUS=0 of 0 VMs are ready");
    process.signal("TERM");
    until("the end", || (next() == "STOPPING=1").then_some(()));
    assert!(process.wait().success());
}

#[test]
fn a_log_file_has_a_line_an_event_and_a_noisy_vm_has_its_share() {
    let dir = Dir::new();
    let log = dir.join("quantix-node.log");
    let node = Node::serving(&["--log", log.to_str().unwrap()]);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let vm = node.vm("noisy");
    node.wait_state("noisy", "ready");
    let socket = node.socket("noisy");
    for _ in 0..40 {
        fs::rename(&socket, dir.join("away")).unwrap();
        node.wait_state("noisy", "absent");
        fs::rename(dir.join("away"), &socket).unwrap();
        node.wait_state("noisy", "ready");
    }
    let other = node.vm("other");
    node.wait_state("other", "ready");
    until_so("the other's line", || {
        read().contains(" info other: ready (was connecting)\n")
    });
    let lines = read()
        .lines()
        .filter(|line| line.contains(" noisy: "))
        .count();
    assert!((10..=30).contains(&lines), "{lines}");
    for line in read().lines() {
        let (time, rest) = line.split_once("Z ").unwrap();
        assert_eq!(time.len(), "2026-11-26T14:50:01".len(), "{line}");
        assert!(
            rest.starts_with("info ") || rest.starts_with("warning "),
            "{line}"
        );
    }

    // Rotated away: it goes on in a new file, and the last word is in it.
    fs::rename(&log, dir.join("old")).unwrap();
    drop(other);
    until_so("a new file", || read().contains(" other: "));
    let Node {
        mut process,
        dir: _dir,
    } = node;
    // As systemd ends a unit: all of its processes are told.
    for child in children(process.pid()) {
        signal(child, "TERM");
    }
    process.signal("TERM");
    assert!(process.wait().success());
    until_so("its last word", || read().ends_with(" info stopping\n"));
    assert_eq!(process.log(), "");
    drop(vm);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing_and_is_said() {
    let node = Node::serving(&["--log", "/dev/full"]);
    node.process
        .wait_log("log /dev/full: No space left on device");
    let vm = node.vm("vm");
    node.wait_state("vm", "ready");
    node.run(&["ping", "vm"]).fine();
    drop(vm);
}
