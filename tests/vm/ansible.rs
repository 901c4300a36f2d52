//! The collection in `host/ansible`, with the real Ansible, which is told of it as an operator would: built,
//! installed, named in an inventory. What needs Python in the guest is in `debian/fleet.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::harness::{Node, Outcome, Own, Place, program, script};

/// A machine that Ansible runs on: where the collection is installed.
pub struct Ansible {
    pub dir: PathBuf,
    control: PathBuf,
}

impl Ansible {
    /// Without a daemon, unless it is named.
    #[track_caller]
    pub fn new(place: &Place, node: Option<&Node>) -> Self {
        let dir = place.file("ansible");
        fs::create_dir(&dir).unwrap();
        let control = node.map_or_else(|| place.file("none"), |node| node.control.clone());
        let ansible = Self { dir, control };
        // As the collection's README has it: or an inventory that cannot be read would be an empty one.
        let configuration = "[inventory]\nany_unparsed_is_failed = true\n";
        ansible.file("ansible.cfg", configuration);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/ansible");
        let words = ["collection", "build", "--output-path", "."];
        let mut build = ansible.command("ansible-galaxy", &words);
        run(build.arg(source)).ok();
        let built = "quantix-kvm-0.1.0.tar.gz";
        let words = ["collection", "install", "-p", "collections", built];
        run(&mut ansible.command("ansible-galaxy", &words)).ok();
        ansible
    }

    /// A program of Ansible's, which may take five minutes, and takes nothing from this machine's configuration.
    pub fn command(&self, name: &str, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", "300", name])
            .args(words)
            .current_dir(&self.dir)
            .env("ANSIBLE_CONFIG", self.dir.join("ansible.cfg"))
            .env("HOME", &self.dir)
            .env("ANSIBLE_HOME", self.dir.join("home"))
            .env("ANSIBLE_COLLECTIONS_PATH", self.dir.join("collections"))
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_QX_NODE_EXECUTABLE", program("qx-node"))
            .env("QX_NODE_SOCK", &self.control)
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Has a file there.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A playbook of `tests/vm/ansible`.
    pub fn play(&self, inventory: &str, playbook: &str, words: &[&str]) -> Played {
        let path = script("ansible").join(playbook);
        let path = path.to_str().unwrap();
        let words = [&["-i", inventory, path], words].concat();
        let outcome = run(&mut self.command("ansible-playbook", &words));
        let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
        Played {
            status: outcome.status,
            said: said + &outcome.stderr,
        }
    }

    /// What an inventory comes to.
    pub fn list(&self, inventory: &str) -> Outcome {
        let words = ["-i", inventory, "--list"];
        let mut outcome = run(&mut self.command("ansible-inventory", &words));
        // Without the ends of lines that Ansible puts into its warnings.
        let words: Vec<&str> = outcome.stderr.split_whitespace().collect();
        outcome.stderr = words.join(" ");
        outcome
    }
}

fn run(command: &mut Command) -> Outcome {
    let out = command.output().unwrap();
    Outcome {
        status: out.status.code().unwrap_or(137),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// What became of a playbook.
pub struct Played {
    pub status: i32,
    pub said: String,
}

impl Played {
    /// A number of the recap, of a host.
    #[track_caller]
    pub fn count(&self, host: &str, what: &str) -> u32 {
        let (_, recap) = self.said.split_once("PLAY RECAP").expect(&self.said);
        let mut lines = recap.lines().map(str::split_whitespace);
        let mut words = lines
            .find(|line| line.clone().next() == Some(host))
            .unwrap();
        let what = format!("{what}=");
        let word = words.find(|word| word.starts_with(&what)).unwrap();
        word[what.len()..].parse().unwrap()
    }

    /// Nothing has failed, and so much was changed.
    #[track_caller]
    pub fn fine(&self, host: &str, changed: u32) {
        assert_eq!(self.status, 0, "{}", self.said);
        for what in ["unreachable", "failed", "rescued", "ignored"] {
            assert_eq!(self.count(host, what), 0, "{what}: {}", self.said);
        }
        assert_eq!(self.count(host, "changed"), changed, "{}", self.said);
    }
}

#[test]
fn a_guest_without_python_or_network_is_worked_in_and_one_that_is_off_is_unreachable() {
    let mut own = Own::ready(&super::harness::Options::default());
    let ansible = Ansible::new(&own.place, Some(&own.node));
    let hosts = ansible.file("fleet.qx_node.yml", "plugin: quantix.kvm.qx_node\n");
    ansible.play(&hosts, "bare.yml", &[]).fine("db1", 0);

    // QEMU is killed, the socket stays; and one that never was.
    own.vm.kill();
    own.node.wait_state("db1", "connecting");
    let others = ansible.file("others", "off1 ansible_connection=quantix.kvm.qx_node\n");
    // Each task would wait for it.
    let one = ["--start-at-task", "There is no Python"];
    let played = ansible.play(&hosts, "bare.yml", &[&["-i", &others], &one[..]].concat());
    assert_eq!(played.status, 4, "{}", played.said);
    for host in ["db1", "off1"] {
        assert_eq!(played.count(host, "unreachable"), 1, "{}", played.said);
        assert_eq!(played.count(host, "failed"), 0, "{}", played.said);
    }
    for why in [r#"no VM is named \"off1\""#, "nothing listens"] {
        assert!(played.said.contains(why), "no {why} in {}", played.said);
    }
    // And where there is no daemon.
    own.node.kill();
    let played = ansible.play(&others, "bare.yml", &[]);
    assert_eq!(played.count("off1", "unreachable"), 1, "{}", played.said);
    let listed = ansible.list(&hosts);
    assert!(listed.stderr.contains("no daemon on "), "{}", listed.stderr);
}

#[test]
fn the_plugins_have_their_documentation() {
    let place = Place::new();
    let ansible = Ansible::new(&place, None);
    for (kind, option) in [
        ("connection", "command_timeout"),
        ("inventory", "kvm_hosts"),
    ] {
        let words = ["-t", kind, "--json", "quantix.kvm.qx_node"];
        let doc = run(&mut ansible.command("ansible-doc", &words)).json();
        let options = &doc["quantix.kvm.qx_node"]["doc"]["options"];
        assert!(!options[option]["description"].is_null(), "{doc}");
    }
}

/// A qx-node that lists what is in files beside it, and an ssh to hosts on which that is: of each its own.
const QX_NODE: &str = r#"
    [ "$1 $2" = "vms --json" ] || exit 2
    exec cat "${0%/*}/${KVM_HOST:-here}.json"
"#;
const SSH: &str = r#"
    while [ "$1" != -- ]; do shift; done
    case $2 in
        dead) echo "ssh: connect to host dead port 22: No route to host" >&2; exit 255 ;;
    esac
    host=${2#*@}
    KVM_HOST=${host%:2222} exec sh -c "$3"
"#;

/// What `qx-node vms --json` has of a VM.
fn vm(name: &str, state: &str, os_name: &str) -> Value {
    let agent = serde_json::json!({
        "version": "0.1.0",
        "os_name": os_name,
        "os_version": "12",
        "hostname": "{{ 6 * 7 }}",
        "ip_addresses": ["10.0.0.5"],
        "primary_address": "10.0.0.5",
        "architecture": "x86_64",
        "frozen": false,
    });
    serde_json::json!({ "vm": name, "state": state, "reason": "", "agent": agent })
}

/// Of a group the hosts, in order.
#[track_caller]
fn hosts(list: &Value, group: &str) -> Vec<String> {
    let hosts = list[group]["hosts"].as_array();
    let hosts = hosts.unwrap_or_else(|| panic!("no {group} in {list}"));
    let names = hosts.iter().map(|host| host.as_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn what_guests_say_of_themselves_is_no_template_and_no_group_of_others() {
    let place = Place::new();
    let ansible = Ansible::new(&place, None);
    let fake = ansible.file("qx-node", QX_NODE);
    let evil = "{{ lookup('pipe', 'touch touched') }}";
    let vms = serde_json::json!([
        vm("web1", "ready", "debian"),
        vm("my vm", "waiting for agent", "qx_node"),
        vm("evil1", "ready", evil),
        vm("long1", "stalled", &"x".repeat(100_000)),
        vm("gone1", "absent", "debian"),
        vm("{{ 6 * 7 }}", "ready", "debian"),
        { "vm": "new1", "state": "connecting", "reason": "nothing listens", "agent": null },
    ]);
    ansible.file("here.json", vms.to_string());
    let head = format!("plugin: quantix.kvm.qx_node\nexecutable: sh {fake}\n");
    let text = format!(
        "{head}strict: true\n\
         keyed_groups:\n\x20 - {{key: qx_os_name, prefix: os, default_value: none}}\n\x20 - {{key: qx_architecture, prefix: arch, default_value: none}}\n\
         groups: {{web: inventory_hostname.startswith('web')}}\n\
         compose: {{composed: qx_os_name + '!', ansible_host: qx_address}}\n"
    );
    let inventory = ansible.file("all.qx_node.yml", text);
    let listed = ansible.list(&inventory);
    assert!(
        listed.stderr.contains("the VM is left out"),
        "{}",
        listed.stderr
    );
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    let list: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let all = ["web1", "my vm", "evil1", "long1", "new1"];
    assert_eq!(hosts(&list, "qx_node"), all);
    assert_eq!(hosts(&list, "qx_state_ready"), ["web1", "evil1"]);
    assert_eq!(hosts(&list, "qx_state_waiting_for_agent"), ["my vm"]);
    assert_eq!(hosts(&list, "qx_os_debian_12"), ["web1"]);
    assert_eq!(hosts(&list, "qx_os_qx_node_12"), ["my vm"]);
    assert_eq!(hosts(&list, "web"), ["web1"]);
    assert_eq!(hosts(&list, "arch_x86_64").len(), 4);
    let of = |host: &str| &list["_meta"]["hostvars"][host];
    let text = |value: &Value| {
        let text = value.get("__ansible_unsafe").unwrap_or(value);
        text.as_str().unwrap().to_owned()
    };
    assert_eq!(text(&of("evil1")["qx_os_name"]), evil);
    assert_eq!(text(&of("evil1")["composed"]), format!("{evil}!"));
    assert_eq!(text(&of("long1")["qx_os_name"]).len(), 255);
    assert_eq!(text(&of("my vm")["qx_hostname"]), "{{ 6 * 7 }}");
    assert_eq!(text(&of("new1")["qx_reason"]), "nothing listens");
    assert_eq!(text(&of("web1")["ansible_host"]), "10.0.0.5");
    // And where a play looks at it.
    let words = [
        "-i",
        &inventory,
        "evil1",
        "-m",
        "debug",
        "-a",
        "msg='<{{ qx_os_name }}> <{{ composed }}> <{{ qx_hostname }}>'",
    ];
    let said = run(&mut ansible.command("ansible", &words));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains(&format!("<{evil}> <{evil}!> <{{{{ 6 * 7 }}}}>")),
        "{said}"
    );
    assert!(!ansible.dir.join("touched").exists());

    let inventory = ansible.file("off.qx_node.yml", format!("{head}states: [absent]\n"));
    let list = ansible.list(&inventory).json();
    assert_eq!(hosts(&list, "qx_node"), ["gone1"]);
    ansible.file("here.json", "[{}]");
    let listed = ansible.list(&inventory);
    assert!(
        listed.stderr.contains("not a list of VMs"),
        "{}",
        listed.stderr
    );
}

#[test]
fn vms_of_several_hosts_are_one_fleet() {
    let place = Place::new();
    let ansible = Ansible::new(&place, None);
    let fake = ansible.file("qx-node", QX_NODE);
    let ssh = ansible.file("ssh", format!("#!/bin/sh\n{SSH}"));
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let one = serde_json::json!([vm("web1", "ready", "debian")]);
    let two = serde_json::json!([vm("web1", "ready", "debian"), vm("web2", "ready", "debian")]);
    ansible.file("kvm1.example.org.json", one.to_string());
    ansible.file("kvm2.json", two.to_string());
    let list = |kvm_hosts: &str, more: &str| {
        let text = format!(
            "plugin: quantix.kvm.qx_node\nexecutable: sh {fake}\nssh_executable: {ssh}\n\
             kvm_hosts: [{kvm_hosts}]\n{more}\n"
        );
        ansible.list(&ansible.file("fleet.qx_node.yml", text))
    };
    let both = "'ssh://root@kvm1.example.org:2222', kvm2";
    let why = "two VMs are named web1, on ssh://root@kvm1.example.org:2222 and on kvm2";
    let said = list(both, "").stderr;
    assert!(said.contains(why), "{said}");

    let found = list(both, "qualify: true").json();
    let all = ["web1.kvm1.example.org", "web1.kvm2", "web2.kvm2"];
    assert_eq!(hosts(&found, "qx_node"), all);
    assert_eq!(hosts(&found, "qx_host_kvm2"), all[1..]);
    let of = &found["_meta"]["hostvars"][all[0]];
    assert_eq!(of["ansible_qx_node_vm"]["__ansible_unsafe"], "web1");
    let there = "ssh://root@kvm1.example.org:2222";
    assert_eq!(of["ansible_qx_node_kvm_host"], there);

    // What does not answer is not left out unseen.
    let said = list("kvm2, dead", "");
    let why = "No route to host";
    assert!(said.stderr.contains(why), "{}", said.stderr);
    assert_ne!(said.status, 0, "{}", said.stderr);
    let said = list("kvm2, dead", "skip_unreachable: true");
    assert!(
        said.stderr.contains("its VMs are missing"),
        "{}",
        said.stderr
    );
    let found: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(hosts(&found, "qx_node"), ["web1", "web2"]);
}
