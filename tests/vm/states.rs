//! What is told of a VM: who is served in our place, what QEMU's monitor says, what has happened.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quantix::rt::sys::sock_diag;
use serde_json::{Value, json};

use super::harness::{Node, Options, Place, Turn, Vm, wait_for, wait_until};

/// The promises of the README.
const NAMED_IN: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_secs(1);

/// A guest with a monitor for the daemon.
struct Guest {
    // In the order in which they end.
    node: Node,
    vm: Vm,
    place: Place,
    _turn: Turn,
}

impl Guest {
    /// The guest boots, and no daemon runs.
    #[track_caller]
    fn boot(append: &str) -> Self {
        let _turn = Turn::wait();
        let place = Place::new();
        let node = Node::new(&place);
        let monitor = place.monitor("db1");
        let options = Options {
            append,
            qemu: &["-qmp", &monitor],
        };
        let vm = Vm::start(&place, "db1", &options);
        Self {
            node,
            vm,
            place,
            _turn,
        }
    }

    /// Waits until the daemon says this of the VM.
    #[track_caller]
    fn wait(&self, state: &str, words: &str) -> Value {
        wait_for(&format!("{state}: {words}"), 60, || {
            let vm = self.node.vm("db1");
            let reason = vm["reason"].as_str().unwrap_or_default();
            (vm["state"] == state && reason.contains(words)).then_some(vm)
        })
    }

    /// From what to what the state has changed, and all else.
    #[track_caller]
    fn story(&self) -> Vec<String> {
        let text = self.node.cli(&["events", "db1", "--json"]).text();
        let told = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap();
            let what = match event["event"].as_str().unwrap() {
                "state" => &event["to"],
                _ => &event["event"],
            };
            what.as_str().unwrap().to_owned()
        };
        text.lines().map(told).collect()
    }
}

/// A client of the VM's socket that is no program of ours. It ends with this value.
struct Socat(Child);

impl Socat {
    /// It is connected when this returns.
    #[track_caller]
    fn start(place: &Place) -> Self {
        let socket = place.socket("db1");
        let child = Command::new("socat")
            .arg(format!("UNIX-CONNECT:{}", socket.display()))
            .arg("STDIO")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("socat: tests/vm/install.sh installs it");
        // Which of its descriptors are sockets, as the kernel names them.
        let fds = format!("/proc/{}/fd", child.id());
        let sockets = || -> Vec<String> {
            let fds = std::fs::read_dir(&fds).into_iter().flatten().flatten();
            let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            links.map(|link| link.display().to_string()).collect()
        };
        wait_until("socat to connect", 10, || {
            let sockets = sockets();
            let mut found = false;
            let is_its = |inode: &u32| sockets.contains(&format!("socket:[{inode}]"));
            sock_diag::all(|named| {
                found |= is_its(&named.peer) || named.waiting.iter().any(is_its);
            })
            .unwrap();
            found
        });
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn behind_socat_we_say_so_and_are_next() {
    let mut own = Guest::boot("");
    own.vm.wait_agent();
    let socat = Socat::start(&own.place);
    own.node.start();
    let begun = Instant::now();
    let vm = own.wait("queued", "one client at a time");
    assert!(begun.elapsed() < NAMED_IN, "{:?}", begun.elapsed());
    let behind = json!({ "pid": socat.pid(), "command": "socat", "position": 1, "of": 1 });
    assert_eq!(vm["behind"], behind);
    let words = format!("queued behind socat, pid {}", socat.pid());
    let said = own.node.cli(&["vms"]).text();
    assert!(said.contains(&format!("db1  {words}  ")), "{said}");
    let said = own.node.cli(&["events"]).text();
    assert!(said.contains(&format!("connecting -> {words}  ")), "{said}");
    own.node.cli(&["ping", "db1"]).failed(4, &[&words]);
    let begun = Instant::now();
    drop(socat);
    own.node.wait_state("db1", "ready");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(own.story(), ["connecting", "queued", "ready"]);
    own.node.wait_usable("db1");
}

#[test]
fn where_the_queue_is_full_socat_is_named_too() {
    let mut own = Guest::boot("");
    own.vm.wait_agent();
    let first = Socat::start(&own.place);
    let others = [(); 2].map(|()| Socat::start(&own.place));
    own.node.start();
    let begun = Instant::now();
    let vm = own.wait("queued", "one client at a time");
    assert!(begun.elapsed() < NAMED_IN, "{:?}", begun.elapsed());
    let behind = json!({ "pid": first.pid(), "command": "socat", "position": null, "of": 2 });
    assert_eq!(vm["behind"], behind);
    let words = format!("queued behind socat, pid {} and 2 more", first.pid());
    for list in ["vms", "events"] {
        let said = own.node.cli(&[list]).text();
        assert!(said.contains(&words), "{said}");
    }
    // The next one is named as soon as it is served.
    drop(first);
    wait_until("another to be named", 5, || {
        own.node.vm("db1")["behind"]["pid"] == others[0].pid()
    });
    let begun = Instant::now();
    drop(others);
    own.node.wait_state("db1", "ready");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    own.node.wait_usable("db1");
}

#[test]
fn the_monitor_tells_that_no_agent_runs() {
    let mut own = Guest::boot("qx.agent=off");
    own.node.start();
    own.wait("waiting for agent", "the guest has not opened the port");
    own.node
        .cli(&["ping", "db1"])
        .failed(4, &["is quantix-kvm-agent installed and running there?"]);
}

#[test]
fn the_monitor_tells_of_a_pause_and_of_its_end() {
    let mut own = Guest::boot("");
    own.vm.wait_agent();
    own.node.start();
    own.node.wait_state("db1", "ready");
    own.vm.qmp().run("stop", json!({}));
    own.wait("stalled", "the VM is paused");
    own.node
        .cli(&["ping", "db1"])
        .failed(4, &["the VM is paused"]);
    own.vm.qmp().run("cont", json!({}));
    own.node.wait_state("db1", "ready");
    assert_eq!(
        own.story(),
        ["connecting", "ready", "stalled", "guest_resumed", "ready"]
    );
}

#[test]
fn what_happens_to_a_guest_is_told() {
    let mut own = Guest::boot("");
    own.node.start();
    own.node.wait_state("db1", "ready");
    let tells = |what: &str| own.story().iter().any(|told| told == what);
    let line = "sleep 0.3; kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)";
    own.node.cli(&["exec", "db1", "--detach", "--", line]).ok();
    wait_until("the agent's end to be told", 30, || {
        tells("waiting for agent")
    });
    wait_until("its restart to be told", 60, || tells("agent_restarted"));
    own.node.wait_usable("db1");
    own.vm.qmp().run("system_reset", json!({}));
    wait_until("its boot to be told", 60, || tells("guest_booted"));
    own.node.wait_usable("db1");
}
