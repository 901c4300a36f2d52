//! What `qx-node doctor` says of a real VM: of QEMU's own monitor, and of libvirt's domains.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::harness::{Node, Options, PATIENCE, Place, Turn, Vm, program, wait_until};
use super::libvirt::{Domain, Libvirt};

/// A place to look at.
struct Look<'a> {
    place: &'a Place,
    node: &'a Node,
    libvirt: Option<&'a Libvirt>,
}

impl Look<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("qx-node"));
        command
            .args(words)
            .arg("--vms-dir")
            .arg(self.place.dir.join("vms"));
        command.env("QX_NODE_SOCK", &self.node.control);
        // Where there is none the test is not to find the machine's own.
        let none = String::from("test:///default");
        let uri = self.libvirt.map_or(none, |libvirt| libvirt.uri.clone());
        command.env("LIBVIRT_DEFAULT_URI", uri);
        command
    }

    fn found(&self, vm: &str) -> Value {
        let said = self.command(&["doctor", vm, "--json"]).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {said:?}"))
    }

    /// Sooner or later this check explains it, with these words.
    #[track_caller]
    fn says(&self, vm: &str, verdict: &str, words: &str) {
        let mut last = Value::Null;
        wait_until(&format!("{verdict}: {words}"), PATIENCE, || {
            last = self.found(vm);
            let is_it = last["verdict"] == verdict && check(&last, verdict).contains(words);
            if !is_it && std::env::var_os("QX_TEST_SHOW").is_some() {
                eprintln!("{last:#}");
            }
            is_it
        });
    }

    #[track_caller]
    fn is_well(&self, vm: &str) -> Value {
        let mut last = Value::Null;
        wait_until("a healthy VM", PATIENCE, || {
            last = self.found(vm);
            last["status"] == "ok"
        });
        last
    }
}

fn check(found: &Value, name: &str) -> String {
    let mut checks = found["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == name);
    check.map(Value::to_string).unwrap_or_default()
}

fn wall_seconds() -> i64 {
    quantix::rt::clock::wall().seconds
}

/// A program that the processor refuses.
fn trap(place: &Place) -> String {
    let (source, program) = (place.file("trap.c"), place.file("trap"));
    fs::write(&source, "int main(void) { __builtin_trap(); }\n").unwrap();
    let mut gcc = Command::new("gcc");
    gcc.arg("-static").arg("-o").arg(&program).arg(&source);
    assert!(gcc.status().unwrap().success());
    program.to_str().unwrap().to_owned()
}

#[test]
fn without_a_daemon_qemu_says_how_the_vm_is() {
    let _turn = Turn::wait();
    let place = Place::new();
    let node = Node::new(&place);
    let monitor = place.monitor("db1");
    let options = Options {
        append: "qx.agent=off",
        qemu: &["-qmp", &monitor],
    };
    let mut vm = Vm::start(&place, "db1", &options);
    vm.wait_console("init done");
    let look = Look {
        place: &place,
        node: &node,
        libvirt: None,
    };
    // There is none, and that is what is said first; behind it what QEMU knows.
    look.says("db1", "daemon", "no daemon runs");
    let found = look.found("db1");
    assert!(
        check(&found, "port").contains("closed in the guest, says QEMU"),
        "{found:#}"
    );
    assert!(check(&found, "vm").contains("it runs, says QEMU"));
    let listener = check(&found, "listener");
    assert!(
        listener.contains(&format!("pid {}: LISTEN fd", vm.pid())),
        "{listener}"
    );
    vm.qmp().run("stop", json!({}));
    assert!(check(&look.found("db1"), "vm").contains("paused"));
    vm.kill();
    look.says("db1", "listener", "killed");
}

#[test]
fn libvirts_domains_are_seen_through() {
    let _turn = Turn::wait();
    let place = Place::new();
    let libvirt = Libvirt::start(&place);
    let mut node = Node::new(&place);
    node.start();
    let look = Look {
        place: &place,
        node: &node,
        libvirt: Some(&libvirt),
    };
    let domain = |name, socket| {
        libvirt.define(&Domain {
            name,
            socket,
            append: "",
        });
    };
    // A path that is not the daemon's.
    let wrong = place.file("elsewhere.agent.sock");
    domain("wrong", Some(&wrong));
    libvirt.virsh(&["start", "wrong"]);
    look.says("wrong", "channel", "leads to another socket");
    libvirt.virsh(&["destroy", "wrong"]);

    // None at all, until it is added to the VM that runs.
    domain("web1", None);
    look.says("web1", "channel", "no channel for the agent");
    libvirt.virsh(&["start", "web1"]);
    look.says("web1", "channel", "qx-node channel web1 --attach");
    let added = look
        .command(&["channel", "web1", "--attach"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&added.stdout);
    assert!(
        text.starts_with("added, now and for every start"),
        "{added:?}"
    );
    let found = look.is_well("web1");
    assert!(
        check(&found, "channel").contains("bound by QEMU"),
        "{found:#}"
    );
    assert!(check(&found, "vm").contains("it runs, says libvirt"));
    // QEMU tells libvirt once a second at most.
    wait_until("libvirt to know of the port", PATIENCE, || {
        check(&look.found("web1"), "port").contains("open in the guest, says libvirt")
    });

    node.sh("web1", "date -s @$(($(date +%s) + 3700))");
    look.says("web1", "clock", "1h 1m ahead");
    let now = "date -s @".to_owned() + &wall_seconds().to_string();
    node.sh("web1", &now);
    look.is_well("web1");

    // It is dead, and QEMU's guest agent can tell more.
    let trap = trap(&place);
    node.cli(&["cp", &trap, "web1:/tmp/trap"]).ok();
    let line = "qemu-ga -m virtio-serial -p /dev/$(basename $(dirname \
         $(grep -l guest_agent /sys/class/virtio-ports/*/name))) -t /run >/dev/null 2>&1 </dev/null &";
    node.sh("web1", line);
    let end = "(sleep 1; kill -STOP $(ps | grep '[s]upervise' | awk '{print $1}'); \
         kill -9 $(pidof quantix-kvm-agent)) >/dev/null 2>&1 </dev/null &";
    node.sh("web1", end);
    look.says("web1", "guest.agent", "no agent runs");
    let other_way = |program: &str, words: &[&str]| {
        let arguments = json!({ "path": program, "arg": words });
        let line = json!({ "execute": "guest-exec", "arguments": arguments }).to_string();
        libvirt.virsh(&["qemu-agent-command", "web1", &line]);
    };
    other_way("/bin/mv", &["/tmp/trap", "/usr/sbin/quantix-kvm-agent"]);
    look.says("web1", "qga", "built for a newer processor");
    other_way("/bin/rm", &["/usr/sbin/quantix-kvm-agent"]);
    look.says("web1", "qga", "not installed in the guest");
    let found = look.found("web1");
    assert!(
        check(&found, "qga").contains("the guest lives, Quantix Test Guest 1"),
        "{found:#}"
    );
    wait_until("libvirt to know of the port", PATIENCE, || {
        let port = check(&look.found("web1"), "port");
        port.contains("nothing in the guest has the port open")
    });

    libvirt.virsh(&["suspend", "web1"]);
    look.says("web1", "vm", "virsh resume web1");
    libvirt.virsh(&["destroy", "web1"]);
    look.says("web1", "socket", "virsh start web1");
}
