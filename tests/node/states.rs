use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use quantix::rt::sys::socket::set_backlog;
use serde_json::{Value, json};

use crate::util::node::{Node, direct};
use crate::util::qmp::Monitor;
use crate::util::relay::Relay;
use crate::util::{Process, beside, is_accepted, listen, stopwatch, until, until_so};

/// What is promised, and what "at once" may come to on a busy machine.
const NAMED_IN: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_secs(1);

/// A VM that the daemon does not see yet, so that others can be there before it. Its socket also has
/// another path in the end than the one that it was bound to, as in /run and /var/run.
struct Hidden {
    relay: Relay,
    path: PathBuf,
}

impl Hidden {
    fn new(node: &Node, name: &str) -> Self {
        let hidden = node.dir.join("hidden");
        fs::create_dir(&hidden).unwrap();
        let path = hidden.join(format!("{name}.agent.sock"));
        let relay = Relay::new(&path, &node.dir.join(&format!("{name}.port")));
        Self { relay, path }
    }

    /// A client that is served.
    fn hold(&self) -> UnixStream {
        let holder = UnixStream::connect(&self.path).unwrap();
        until_so("the holder is served", || is_accepted(&holder));
        holder
    }

    fn show(self, node: &Node, name: &str) -> Relay {
        symlink(&self.path, node.socket(name)).unwrap();
        self.relay
    }
}

/// Waits for the first mention of a queue: what the list says then.
#[track_caller]
fn queued(node: &Node, name: &str) -> Value {
    let elapsed = stopwatch();
    let vm = node.wait_state(name, "queued");
    assert!(elapsed() < NAMED_IN, "{:?}: {vm}", elapsed());
    vm
}

fn me() -> (u32, String) {
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    (std::process::id(), comm.trim_end().to_owned())
}

/// From and to of all changes of state.
fn changes(node: &Node, name: &str) -> Vec<String> {
    let said = node.run(&["events", name, "--json"]);
    let events = said.fine().lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event
    });
    let states = events.filter(|event| event["event"] == "state");
    states
        .map(|event| event["to"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn whoever_is_served_in_our_place_is_named_and_we_are_next() {
    let node = Node::start();
    let hidden = Hidden::new(&node, "vm");
    let holder = hidden.hold();
    let relay = hidden.show(&node, "vm");
    let vm = queued(&node, "vm");
    let (pid, comm) = me();
    let behind = json!({ "pid": pid, "command": comm, "position": 1, "of": 1 });
    assert_eq!(vm["behind"], behind, "{vm}");
    let why = vm["reason"].as_str().unwrap();
    assert!(why.contains("one client at a time"), "{why}");
    let words = format!("queued behind {comm}, pid {pid}  ");
    assert!(node.run(&["vms"]).fine().contains(&words));
    let said = node.run(&["ping", "vm"]);
    let words = format!("vm is queued behind {comm}, pid {pid}: ");
    assert!(said.trouble(4).contains(&words), "{said:?}");
    // Told once, with the name.
    assert_eq!(changes(&node, "vm"), ["connecting", "queued"]);

    let agent = node.agent("vm", &[]);
    relay.wait_guest(true);
    drop(holder);
    let elapsed = stopwatch();
    let vm = node.wait_state("vm", "ready");
    assert!(elapsed() < AT_ONCE, "{:?}", elapsed());
    assert_eq!(vm["behind"], Value::Null);
    assert_eq!(changes(&node, "vm"), ["connecting", "queued", "ready"]);
    drop(agent);
}

#[test]
fn where_even_the_queue_is_full_it_is_the_same_report() {
    let node = Node::start();
    let hidden = Hidden::new(&node, "vm");
    let holder = hidden.hold();
    let waiting = [(); 2].map(|()| UnixStream::connect(&hidden.path).unwrap());
    let relay = hidden.show(&node, "vm");
    let vm = queued(&node, "vm");
    let (pid, comm) = me();
    let behind = json!({ "pid": pid, "command": comm, "position": null, "of": 2 });
    assert_eq!(vm["behind"], behind, "{vm}");
    let words = format!("queued behind {comm}, pid {pid} and 2 more  ");
    assert!(node.run(&["vms"]).fine().contains(&words));
    let agent = node.agent("vm", &[]);
    relay.wait_guest(true);
    // One leaves, and we get a place in the queue: behind the other.
    drop(holder);
    let second = until("a place in the queue", || {
        node.look("vm").filter(|vm| vm["behind"]["position"] == 2)
    });
    assert_eq!(second["behind"]["of"], 2, "{second}");
    drop(waiting);
    let elapsed = stopwatch();
    node.wait_state("vm", "ready");
    assert!(elapsed() < AT_ONCE, "{:?}", elapsed());
    drop((agent, relay));
}

#[test]
fn another_holder_is_found_in_the_place_of_the_first() {
    let node = Node::start();
    let hidden = Hidden::new(&node, "vm");
    let first = hidden.hold();
    // A process with a name that is meant for the terminal. It follows, and never gives up.
    let name = node.dir.join("e\x1b[2Jvil");
    symlink(env!("CARGO_BIN_EXE_qx-node"), &name).unwrap();
    let mut command = Command::new(&name);
    command
        .args(["telemetry", "--watch"])
        .arg(direct(&hidden.path));
    let second = Process::start(&mut command, node.dir.join("second.log"));
    until_so("the second waits", || {
        let all = fs::read("/proc/net/unix").unwrap();
        let all = String::from_utf8_lossy(&all);
        // Under the name by which it was bound.
        let place = node.dir.join("");
        let (place, name) = (place.to_str().unwrap(), "/vm.agent.sock");
        all.lines()
            .any(|line| line.contains(place) && line.ends_with(name) && line.contains(" 02 "))
    });
    let relay = hidden.show(&node, "vm");
    let agent = node.agent("vm", &[]);
    relay.wait_guest(true);
    let vm = queued(&node, "vm");
    assert_eq!(vm["behind"]["pid"], me().0, "{vm}");
    drop(first);
    let named = until("the second is named", || {
        let vm = node.look("vm")?;
        (vm["behind"]["pid"] != me().0).then_some(vm)
    });
    assert_eq!(named["behind"]["command"], "e\x1b[2Jvil", "{named}");
    for words in [&["vms"][..], &["info", "vm"], &["events"], &["ping", "vm"]] {
        let said = node.run(words);
        let all = format!("{}{}", said.text(), said.stderr);
        assert!(all.contains("behind e\\x1b[2Jvil, pid"), "{words:?}: {all}");
        assert!(all.chars().all(|c| c == '\n' || !c.is_control()), "{all:?}");
    }
    drop((second, agent));
}

#[test]
fn a_qemu_that_accepts_nobody_is_only_starting() {
    let node = Node::start();
    let listener = listen(&node.socket("vm"));
    let vm = until("the reason is known", || {
        node.look("vm").filter(|vm| vm["reason"] != "")
    });
    assert_eq!(vm["state"], "connecting", "{vm}");
    let why = vm["reason"].as_str().unwrap();
    assert!(
        why.starts_with("nothing has accepted our connection yet"),
        "{why}"
    );
    drop(listener);
}

#[test]
fn a_client_that_has_left_unnoticed_is_told_from_one_that_is_there() {
    let node = Node::start();
    let hidden = node.dir.join("vm.agent.sock");
    let listener = UnixListener::bind(&hidden).unwrap();
    set_backlog(&listener, 1).unwrap();
    let client = UnixStream::connect(&hidden).unwrap();
    let served = listener.accept().unwrap();
    drop(client);
    fs::rename(&hidden, node.socket("vm")).unwrap();
    let vm = queued(&node, "vm");
    assert_eq!(vm["behind"]["pid"], Value::Null, "{vm}");
    assert_eq!(
        vm["reason"],
        "it has left, and QEMU has not noticed: is the VM paused?"
    );
    assert!(
        node.run(&["vms"])
            .fine()
            .contains("queued behind another client  ")
    );
    drop(served);
}

#[test]
fn a_vm_that_is_off_stays_listed_and_goes_on_when_it_comes_back() {
    let (node, vm) = Node::with_vm("vm");
    fs::rename(node.socket("vm"), node.dir.join("away")).unwrap();
    let absent = node.wait_state("vm", "absent");
    let socket = node.socket("vm");
    let why = format!(
        "no socket {}: the VM is off, or was undefined",
        socket.display()
    );
    assert_eq!(absent["reason"], why);
    assert_eq!(absent["counters"]["sessions"], 1, "{absent}");
    let elapsed = stopwatch();
    for words in [
        &["ping", "vm"][..],
        &["telemetry", "vm"],
        &["cat", "vm", "/x"],
    ] {
        let said = node.run(words);
        assert!(
            said.trouble(4).contains(&format!("vm is absent: {why}")),
            "{said:?}"
        );
    }
    let said = node.exec("vm", "true");
    assert!(
        said.trouble(125)
            .contains("; start it, or see `qx-node channel vm`"),
        "{said:?}"
    );
    assert!(elapsed() < AT_ONCE * 4, "{:?}", elapsed());
    node.run(&["info", "vm"]).fine();
    let said = node.run(&["ping", "other"]);
    assert!(said.trouble(1).contains("there is none yet"), "{said:?}");
    // The same socket as before.
    fs::rename(node.dir.join("away"), socket).unwrap();
    let back = node.wait_state("vm", "ready");
    assert_eq!(back["counters"]["sessions"], 2, "{back}");
    drop(vm);
}

#[test]
fn of_vms_that_are_off_the_last_thousand_are_remembered() {
    let node = Node::start();
    let kept = node.vm("kept");
    node.wait_state("kept", "ready");
    let many = node.dir.join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..1002 {
        drop(UnixListener::bind(many.join(format!("{n}.agent.sock"))).unwrap());
    }
    // The first is off before the others come.
    fs::remove_file(node.socket("kept")).unwrap();
    node.wait_state("kept", "absent");
    let vms = node.dir.join("vms");
    fs::rename(&vms, node.dir.join("old")).unwrap();
    fs::rename(&many, &vms).unwrap();
    let count = |node: &Node| {
        let all = node.run(&["vms", "--json"]).json();
        all.as_array().unwrap().len()
    };
    until_so("all are found", || count(&node) == 1003);
    assert!(node.look("kept").is_some());
    fs::remove_dir_all(&vms).unwrap();
    until_so("the oldest is forgotten", || node.look("kept").is_none());
    until_so("others are", || count(&node) == 1000);
    assert_eq!(node.run(&["ping", "kept"]).status, 1);
    drop(kept);
}

/// A VM without an agent whose monitor says so.
fn with_monitor(node: &Node, running: bool, open: bool) -> (Relay, Monitor) {
    let monitor = node.dir.join("vms/vm.qmp.sock");
    let monitor = Monitor::new(&monitor, &node.socket("vm"), running, open);
    (node.relay("vm"), monitor)
}

#[track_caller]
fn wait_reason(node: &Node, state: &str, words: &str) {
    until_so(&format!("{state}: {words}"), || {
        let vm = node.look("vm").unwrap_or_default();
        vm["state"] == state && vm["reason"].as_str().unwrap().contains(words)
    });
}

#[test]
fn a_monitor_tells_an_agent_that_is_missing_from_one_that_does_not_read() {
    let node = Node::start();
    let (_relay, monitor) = with_monitor(&node, true, false);
    wait_reason(
        &node,
        "waiting for agent",
        "the guest has not opened the port",
    );
    monitor.set(true, true, "VSERPORT_CHANGE");
    wait_reason(
        &node,
        "stalled",
        "the agent has the port open and does not read",
    );
    monitor.set(false, true, "STOP");
    wait_reason(&node, "waiting for agent", "the VM is paused");
    monitor.set(true, false, "RESUME");
    wait_reason(
        &node,
        "waiting for agent",
        "the guest has not opened the port",
    );
    // Without it the Ping tells as much as it can.
    drop(monitor);
    fs::remove_file(node.dir.join("vms/vm.qmp.sock")).unwrap();
    wait_reason(
        &node,
        "waiting for agent",
        "nothing in the guest has taken our Ping",
    );
}

#[test]
fn a_monitor_tells_of_a_pause_before_anything_has_to_time_out() {
    let node = Node::start();
    let (_relay, monitor) = with_monitor(&node, true, true);
    let agent = node.agent("vm", &[]);
    node.wait_state("vm", "ready");
    until_so("the monitor is asked", || monitor.asked() >= 3);
    monitor.set(false, true, "STOP");
    wait_reason(&node, "stalled", "the VM is paused");
    monitor.set(true, true, "RESUME");
    node.wait_state("vm", "ready");
    drop(agent);
}

#[test]
fn a_monitors_news_are_asked_after_at_once() {
    let node = Node::start();
    let (relay, monitor) = with_monitor(&node, true, true);
    let agent = node.agent("vm", &[]);
    node.wait_state("vm", "ready");
    until_so("the monitor is asked", || monitor.asked() >= 3);
    let elapsed = stopwatch();
    // The keep-alive would bring one Ping in five seconds.
    for event in ["RESUME", "RESET", "VSERPORT_CHANGE", "RESUME"] {
        let (before, answered) = relay.counts();
        monitor.set(true, true, event);
        until_so("a Ping", || relay.counts().0 > before);
        until_so("a Pong", || relay.counts().1 > answered);
    }
    assert!(elapsed() < Duration::from_secs(10), "{:?}", elapsed());
    drop(agent);
}

#[test]
fn a_monitor_that_makes_no_sense_does_no_harm() {
    let node = Node::start();
    let path = node.dir.join("vms/vm.qmp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (send, served) = std::sync::mpsc::channel();
    beside(move || {
        let greeting = b"{\"QMP\":{}}\r\n";
        let long = [&greeting[..], &[b'x'; 100_000]].concat();
        let deep = [&greeting[..], &[b'['; 50_000], b"\n"].concat();
        let unasked = b"{\"return\":{}}\n".repeat(3);
        for bytes in [&long[..], &deep, &unasked, b"HTTP/1.1 400\r\n"] {
            let Ok((mut stream, _)) = listener.accept() else {
                return;
            };
            let _ = stream.write_all(bytes);
            // The daemon hangs up.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            let _ = send.send(());
        }
    });
    let vm = node.vm("vm");
    node.wait_state("vm", "ready");
    for _ in 0..4 {
        served.recv_timeout(crate::util::PATIENCE).unwrap();
    }
    node.run(&["ping", "vm"]).fine();
    assert_eq!(node.look("vm").unwrap()["counters"]["sessions"], 1);
    drop(vm);
}
