//! `doctor` on plain sockets: each fault by itself, and that it is the first thing that is named.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use quantix::rt::sys::socket::set_backlog;
use serde_json::Value;

use crate::util::node::{Node, qx, serve};
use crate::util::relay::Mode;
use crate::util::{Dir, Running, Said, is_accepted, is_root, signal, until_so};

fn begin(dir: &Dir, words: &[&str]) -> Command {
    let mut command = qx(&["doctor"]);
    command.args(words);
    command.arg("--vms-dir").arg(dir.join("vms"));
    command.env("QX_NODE_SOCK", dir.join("control"));
    command
}

fn doctor(dir: &Dir, words: &[&str]) -> Said {
    Running::start(&mut begin(dir, words), b"").end()
}

/// What it finds of this VM.
#[track_caller]
fn found(dir: &Dir, name: &str) -> Value {
    let said = doctor(dir, &[name, "--json"]);
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(found["vm"], name);
    let status = match found["status"].as_str().unwrap() {
        "fail" => 2,
        "warn" => 1,
        _ => 0,
    };
    assert_eq!(said.status, status, "{said:?}");
    found
}

/// The one check that explains it all has this name, and these words in it.
#[track_caller]
fn assert_verdict(dir: &Dir, name: &str, verdict: &str, words: &[&str]) {
    let found = found(dir, name);
    assert_eq!(found["verdict"], verdict, "{found:#}");
    let check = check(&found, verdict);
    let text = check.to_string();
    for word in words {
        assert!(text.contains(word), "{word}: {check:#}");
    }
}

#[track_caller]
fn check(found: &Value, name: &str) -> Value {
    let mut checks = found["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == name);
    check
        .unwrap_or_else(|| panic!("no {name}: {found:#}"))
        .clone()
}

/// A directory of VMs, and no daemon.
fn place() -> Dir {
    let dir = Dir::new();
    fs::create_dir(dir.join("vms")).unwrap();
    dir
}

/// A socket as QEMU serves it.
fn listen(dir: &Dir, name: &str) -> UnixListener {
    let listener = UnixListener::bind(dir.join(&format!("vms/{name}.agent.sock"))).unwrap();
    set_backlog(&listener, 1).unwrap();
    listener
}

fn me() -> String {
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    format!("{}, pid {}", comm.trim_end(), std::process::id())
}

#[test]
fn a_healthy_vm_has_every_check_and_its_verdict_first() {
    let (node, _vm) = Node::with_vm("vm");
    let found = found(&node.dir, "vm");
    assert_eq!(
        (&found["status"], &found["verdict"]),
        (&"ok".into(), &Value::Null)
    );
    let names: Vec<&str> = found["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|check| check["name"].as_str())
        .filter(|name| *name != "root" && !name.starts_with("guest"))
        .collect();
    let stable = [
        "directory",
        "channel",
        "socket",
        "listener",
        "daemon",
        "client",
        "flow",
        "session",
        "clock",
    ];
    assert_eq!(names, stable);
    let listener = check(&found, "listener")["evidence"].to_string();
    assert!(listener.contains(&me()), "{listener}");
    assert!(listener.contains("LISTEN fd ") && listener.contains("CONNECTED fd "));
    let said = doctor(&node.dir, &["vm"]);
    assert!(said.fine().starts_with("vm: ok, ready for "), "{said:?}");
    // Of all VMs, a line each.
    let said = doctor(&node.dir, &[]);
    assert_eq!(said.fine().lines().count(), 1);
    assert!(doctor(&node.dir, &["-v"]).fine().lines().count() > 9);
}

#[test]
fn bytes_go_to_the_guest_and_back() {
    let (node, _vm) = Node::with_vm("vm");
    let said = doctor(&node.dir, &["vm", "--probe"]);
    for size in ["1 B in ", "1.0 KiB in ", "32.0 KiB in ", "1.0 MiB in "] {
        assert!(said.fine().contains(size), "{said:?}");
    }
    let socket = node.socket("other");
    let relay = node.relay("other");
    let _agent = node.agent("other", &[]);
    relay.wait_guest(true);
    drop(node.process);
    let said = Running::start(qx(&["doctor", "--probe", "--direct"]).arg(&socket), b"").end();
    assert!(said.fine().contains("1.0 MiB in "), "{said:?}");
}

#[test]
fn a_bundle_has_the_evidence_of_both_sides() {
    let (node, _vm) = Node::with_vm("vm");
    let file = node.dir.text("case.tar");
    doctor(&node.dir, &["vm", "--bundle", &file]).fine();
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let tar = |words: &[&str]| {
        let out = Command::new("tar")
            .args(words)
            .args(["-f", &file])
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let list = tar(&["-t"]);
    for name in [
        "doctor.json",
        "doctor.txt",
        "version.txt",
        "host/vms.json",
        "host/events.json",
        "vms/vm/system.txt",
        "vms/vm/kernel.log",
    ] {
        assert!(
            list.contains(&format!("qx-doctor/{name}\n")),
            "{name}: {list}"
        );
    }
    let show = |name: &str| tar(&["-xO", &format!("qx-doctor/{name}")]);
    assert!(show("doctor.txt").starts_with("vm: ok, ready"));
    assert!(show("host/vms.json").contains("\"vm\":\"vm\""));
    assert!(show("vms/vm/system.txt").contains("Linux"));
    let said = doctor(&node.dir, &["vm", "--bundle", "/no/such/directory/x.tar"]);
    assert!(
        said.stderr
            .contains("/no/such/directory/x.tar: No such file"),
        "{said:?}"
    );
}

#[test]
fn what_is_wrong_with_the_directory_or_the_socket_is_said_first() {
    let dir = place();
    assert_verdict(&dir, "vm", "socket", &["no socket", "qx-node channel vm"]);
    dir.file("vms/file.agent.sock", "");
    assert_verdict(&dir, "file", "socket", &["is none", "rm "]);
    drop(listen(&dir, "dead"));
    assert_verdict(&dir, "dead", "listener", &["QEMU that was killed"]);
    let vms = dir.join("vms");
    fs::set_permissions(&vms, fs::Permissions::from_mode(0o777)).unwrap();
    let found = found(&dir, "vm");
    let directory = check(&found, "directory");
    assert_eq!(directory["status"], "warn");
    assert!(directory["remedy"].to_string().contains("chmod o-w"));
    fs::remove_dir_all(vms).unwrap();
    assert_verdict(&dir, "vm", "directory", &["does not exist", "mkdir -p"]);
    let said = doctor(&dir, &[]);
    assert!(said.fine().contains("no VM has a socket"), "{said:?}");
    assert_eq!(doctor(&dir, &["a/b"]).status, 2);
}

#[test]
fn daemons_that_are_missing_hang_or_are_too_many_are_named() {
    let dir = place();
    let _listener = listen(&dir, "vm");
    let next = "systemctl start quantix-node";
    assert_verdict(&dir, "vm", "daemon", &["no daemon runs", next]);

    let node = Node::start();
    let _vm = node.vm("vm");
    node.wait_state("vm", "ready");
    signal(node.process.pid(), "STOP");
    assert_verdict(
        &node.dir,
        "vm",
        "daemon",
        &["does not answer", "quantix-node"],
    );
    signal(node.process.pid(), "CONT");
    // A second one that did not find the first one's control socket.
    let second = Dir::new();
    std::os::unix::fs::symlink(node.dir.join("vms"), second.join("vms")).unwrap();
    let second = serve(&second);
    until_so("two daemons", || {
        found(&node.dir, "vm")["verdict"] == "daemon"
    });
    let pid = second.pid().to_string();
    assert_verdict(
        &node.dir,
        "vm",
        "daemon",
        &["several daemons", &pid, "kill "],
    );
}

#[test]
fn of_many_vms_the_same_is_said_once_and_they_are_counted() {
    let dir = place();
    let _listeners: Vec<UnixListener> = (1..8).map(|n| listen(&dir, &format!("vm{n}"))).collect();
    dir.file("vms/zz.agent.sock", "");
    let said = doctor(&dir, &[]);
    let text = String::from_utf8(said.stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let many = "vm1, vm2, vm3, vm4, vm5 and 2 more: fail, no daemon runs";
    assert_eq!(lines[..2], [many, "  do: systemctl start quantix-node"]);
    assert!(
        lines[2].starts_with("zz: fail, what should be the VM's socket"),
        "{text}"
    );
    assert_eq!(lines.last(), Some(&"8 VMs: 8 fail"));
    assert_eq!(said.status, 2);
}

#[test]
fn who_is_connected_in_our_place_is_named_and_who_waits() {
    let node = Node::start();
    let hidden = place();
    let listener = listen(&hidden, "vm");
    let path = hidden.join("vms/vm.agent.sock");
    let holder = UnixStream::connect(&path).unwrap();
    let served = listener.accept().unwrap();
    let kill = format!("kill {}", std::process::id());
    std::os::unix::fs::symlink(&path, node.socket("vm")).unwrap();
    node.wait_state("vm", "queued");
    let daemon = format!("1 wait: qx-node, pid {}", node.process.pid());
    assert_verdict(&node.dir, "vm", "client", &[&me(), &kill, &daemon]);
    let waiting = UnixStream::connect(&path).unwrap();
    let words = [
        "2 wait, the queue is full, and one more gets EAGAIN",
        "serves one client at a time",
    ];
    assert_verdict(&node.dir, "vm", "client", &words);
    drop((holder, served, waiting));

    // Nobody accepts at all.
    let dir = place();
    let _stopped = listen(&dir, "vm");
    let _daemon = serve(&dir);
    until_so("the daemon waits", || {
        found(&dir, "vm")["verdict"] == "client"
    });
    assert_verdict(&dir, "vm", "client", &["does not accept", "1 wait"]);
}

#[test]
fn bytes_that_nobody_takes_are_counted_on_either_side() {
    let dir = place();
    let listener = listen(&dir, "vm");
    let path = dir.join("vms/vm.agent.sock");
    let mut client = UnixStream::connect(&path).unwrap();
    let (mut qemu, _) = listener.accept().unwrap();
    until_so("accepted", || is_accepted(&client));
    let look = || {
        let said = Running::start(qx(&["doctor", "--json", "--direct"]).arg(&path), b"").end();
        serde_json::from_slice::<Value>(&said.stdout).unwrap()
    };
    qemu.write_all(&[0; 2000]).unwrap();
    let found = look();
    assert_eq!(found["verdict"], "flow");
    let flow = check(&found, "flow").to_string();
    assert!(
        flow.contains("1.9 KiB unread by") && flow.contains(&me()),
        "{flow}"
    );
    drop((client, qemu));
    client = UnixStream::connect(&path).unwrap();
    let _qemu = listener.accept().unwrap();
    client.write_all(&[0; 3000]).unwrap();
    let flow = check(&look(), "flow");
    assert_eq!(flow["status"], "warn");
    assert!(
        flow.to_string().contains("2.9 KiB unread by QEMU"),
        "{flow}"
    );
}

#[test]
fn a_guest_that_does_not_answer_is_what_the_daemon_says_it_is() {
    let node = Node::start();
    let relay = node.relay("vm");
    node.wait_state("vm", "waiting for agent");
    assert_verdict(&node.dir, "vm", "session", &["quantix-kvm-agent doctor"]);
    let agent = node.agent("vm", &[]);
    node.wait_state("vm", "ready");
    signal(agent.pid(), "STOP");
    relay.set(Mode::Hold, Mode::Pass);
    node.wait_state("vm", "stalled");
    assert_verdict(&node.dir, "vm", "session", &["stalled"]);
    signal(agent.pid(), "CONT");
}

#[test]
fn what_waits_in_the_daemon_for_a_guest_is_told() {
    let (node, vm) = Node::with_vm("vm");
    let mut copy = node.begin(&["cp", "--device", "/dev/zero", "vm:/dev/null"]);
    until_so("bytes on their way", || vm.relay.counts().0 > 1 << 20);
    // More are allowed to be on their way than the socket takes.
    vm.relay.set(Mode::Hold, Mode::Pass);
    until_so("bytes that wait", || {
        check(&found(&node.dir, "vm"), "session")
            .to_string()
            .contains("wait in the daemon")
    });
    copy.kill();
}

#[test]
fn who_is_not_root_is_told_what_is_not_shown() {
    if !is_root() {
        return;
    }
    let (node, _vm) = Node::with_vm("vm");
    for directory in [node.dir.path(), &node.dir.join("vms")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mine = begin(&node.dir, &["vm", "--json"]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    // Who may not enter the directory of the program may still have it open.
    let copy = std::env::temp_dir().join(format!("qx-doctor-{}", std::process::id()));
    fs::copy(mine.get_program(), &copy).unwrap();
    command.arg(&copy).args(mine.get_args());
    command.env("QX_NODE_SOCK", node.control());
    let said = Running::start(&mut command, b"").end();
    fs::remove_file(copy).unwrap();
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(found["verdict"], "socket", "{found:#}");
    let socket = check(&found, "socket").to_string();
    assert!(socket.contains("Permission denied"), "{socket}");
    let root = check(&found, "root");
    assert_eq!(root["status"], "unknown");
    assert!(root.to_string().contains("sudo qx-node doctor vm"));
}
