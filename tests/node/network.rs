//! `qx-node network`, `ip`, `hostname`, `timezone`, with an agent in a network of its own where this machine
//! gives one (unshare(1), ip(8)); nothing of this machine's own is changed.

use std::process::Command;

use serde_json::Value;

use crate::util::node::Node;
use crate::util::relay::Relay;
use crate::util::{Process, Running, agent, is_root, until, until_so};

/// A guest with a network and a host name of its own.
struct Guest {
    node: Node,
    agent: Process,
    _relay: Relay,
}

impl Guest {
    /// None where there may be no such thing.
    fn new(prepare: &[&str]) -> Option<Self> {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--net", "--uts"]);
            command
        };
        let mut probe = unshare();
        probe.args(["ip", "link", "add", "v0", "type", "veth"]);
        let can = is_root() && probe.output().is_ok_and(|said| said.status.success());
        if !can {
            return None;
        }
        let node = Node::start();
        let relay = node.relay("vm");
        let lines = prepare.iter().map(|words| format!("ip {words}"));
        let lines: Vec<String> = lines.chain(["exec \"$@\"".to_owned()]).collect();
        let mut command = unshare();
        command.args(["sh", "-ec", &lines.join("\n"), "sh"]);
        let agent = agent::spawn_by(command, &node.dir, "vm.port", &[]);
        node.wait_state("vm", "ready");
        Some(Self {
            node,
            agent,
            _relay: relay,
        })
    }

    fn ip(&self, words: &str) {
        let pid = self.agent.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid, "ip"]);
        let said = command.args(words.split(' ')).output().unwrap();
        assert!(said.status.success(), "ip {words}: {said:?}");
    }

    /// One after the other, by one process.
    fn ips(&self, lines: impl IntoIterator<Item = String>) {
        let pid = self.agent.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid, "ip", "-batch", "-"]);
        let lines: Vec<String> = lines.into_iter().collect();
        let said = Running::start(&mut command, lines.join("\n").as_bytes()).end();
        assert_eq!(said.status, 0, "{said:?}");
    }

    fn network(&self, words: &[&str]) -> Value {
        let words = [&["network", "vm", "--json"], words].concat();
        self.node.run(&words).json()
    }

    /// What the daemon has been told.
    fn told(&self) -> Value {
        self.node.look("vm").unwrap()["agent"].clone()
    }
}

fn interface<'a>(network: &'a Value, name: &str) -> &'a Value {
    let all = network["interfaces"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {network}"))
}

/// Pairs whose names are no engine's; a way out makes one end a guest's own.
const PREPARE: &[&str] = &[
    "link set lo up",
    "link add eth0 type veth peer name far0",
    "link add eth1 type veth peer name far1",
    "addr add 10.1.0.5/24 dev eth0",
    "addr add 10.2.0.5/24 dev eth1",
    "link set far0 up",
    "link set far1 up",
    "link set eth0 up",
    "link set eth1 up",
    "route add default via 10.1.0.1 metric 100",
    "route add default via 10.2.0.1 metric 200",
];

#[test]
fn what_a_guest_has_is_shown() {
    let Some(guest) = Guest::new(PREPARE) else {
        return;
    };
    guest.ip("link add br0 type bridge");
    guest.ip("tuntap add d0 mode tap");
    guest.ip("link set d0 master br0 up");
    guest.ip("link add link eth0 name mac0 type macvlan");
    guest.ip("link add docker0 type bridge");
    guest.ip("addr add 172.17.0.1/16 dev docker0");
    guest.ip("link set docker0 up");
    guest.ip("addr add 10.9.9.1/32 scope link dev br0");
    guest.ip("addr add 10.1.0.6/24 dev eth0 valid_lft 3600 preferred_lft 0");
    let found = guest.network(&[]);
    let eth0 = interface(&found, "eth0");
    assert_eq!(
        (&eth0["primary"], &eth0["state"]),
        (&true.into(), &"up".into())
    );
    let address = |one: &Value, at: usize| one["addresses"][at].clone();
    assert_eq!(address(eth0, 0)["address"], "10.1.0.5/24");
    assert_eq!(address(eth0, 0)["scope"], "global");
    assert_eq!(address(eth0, 0)["dynamic"], false);
    assert_eq!(address(eth0, 1)["address"], "10.1.0.6/24");
    assert_eq!(address(eth0, 1)["dynamic"], true);
    assert_eq!(address(eth0, 1)["deprecated"], true);
    assert_eq!(eth0["dhcp"], true);
    assert_eq!(eth0["mac"].as_str().unwrap().len(), 17);
    assert_eq!(interface(&found, "lo")["kind"], "loopback");
    assert_eq!(address(interface(&found, "lo"), 0)["scope"], "host");
    let br0 = interface(&found, "br0");
    assert_eq!(
        (&br0["kind"], &br0["state"]),
        (&"bridge".into(), &"off".into())
    );
    assert_eq!(address(br0, 0)["scope"], "link");
    assert_eq!(interface(&found, "d0")["kind"], "tunnel");
    assert_eq!(interface(&found, "d0")["master"], "br0");
    assert_eq!(interface(&found, "mac0")["parent"], "eth0");
    assert_eq!(eth0["parent"], Value::Null);
    // docker0, far0 and far1.
    assert_eq!(found["left_out"], 3, "{found}");
    let all = guest.network(&["--all"]);
    assert_eq!(all["left_out"], 0);
    for name in ["docker0", "far0", "far1"] {
        assert_eq!(interface(&all, name)["kind"], "container", "{all}");
    }
    let routes = found["default_routes"].as_array().unwrap();
    assert_eq!(routes.len(), 2, "{found}");
    assert_eq!(routes[0]["gateway"], "10.1.0.1");
    assert_eq!(routes[0]["interface"], "eth0");
    assert_eq!(routes[1]["metric"], 200);

    let said = guest.node.run(&["network", "vm"]);
    let text = said.fine();
    for words in [
        "*  eth0 ",
        "10.1.0.6/24 (dynamic, deprecated)\n",
        "3 of containers left out; --all shows them\n",
        "Primary:   10.1.0.5\n",
        "10.1.0.1 on eth0 (metric 100), 10.2.0.1 on eth1 (metric 200)\n",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
}

#[test]
fn the_address_is_one_word_and_that_of_the_way_out() {
    let Some(guest) = Guest::new(PREPARE) else {
        return;
    };
    let ip = |words: &[&str]| guest.node.run(&[&["ip", "vm"], words].concat());
    assert_eq!(ip(&[]).fine(), "10.1.0.5\n");
    assert_eq!(ip(&["--all"]).fine(), "10.1.0.5\n10.2.0.5\n");
    let why = ip(&["-6"]);
    assert!(
        why.trouble(1).contains("no global address of IPv6"),
        "{}",
        why.trouble(1)
    );
    let json = ip(&["--json"]).json();
    assert_eq!(
        (&json["address"], &json["ipv6"]),
        (&"10.1.0.5".into(), &Value::Null)
    );

    guest.ip("route del default via 10.1.0.1");
    assert_eq!(ip(&[]).fine(), "10.2.0.5\n");
    assert_eq!(ip(&["--all"]).fine(), "10.2.0.5\n");
    guest.ip("-6 addr add 2001:db8::5/64 dev eth1 nodad");
    guest.ip("-6 route add default via 2001:db8::1 dev eth1");
    assert_eq!(ip(&["-6"]).fine(), "2001:db8::5\n");
    assert_eq!(ip(&[]).fine(), "10.2.0.5\n");
    guest.ip("link set eth1 down");
    guest.ip("addr flush dev eth1");
    let why = ip(&[]);
    assert!(
        why.trouble(1).contains("no global address by which"),
        "{}",
        why.trouble(1)
    );
    assert!(ip(&["--all"]).trouble(1).contains("no global address"));
    assert_eq!(ip(&["--json"]).json()["address"], Value::Null);
}

#[test]
fn changes_are_told_without_being_asked_for() {
    // An agent that sends no reports.
    let Some(guest) = Guest::new(PREPARE) else {
        return;
    };
    let primary = |address: &str| {
        until_so(address, || guest.told()["primary_address"] == address);
    };
    primary("10.1.0.5");
    guest.ip("route del default via 10.1.0.1");
    primary("10.2.0.5");
    guest.ip("addr add 10.3.0.5/24 dev eth1");
    until("the new address", || {
        let told = guest.told();
        let all = told["ip_addresses"].as_array().unwrap();
        all.contains(&"10.3.0.5".into()).then_some(())
    });
    // What comes faster than it looks is not lost, nor is a queue that runs over.
    guest.ips((1..=200).map(|n| format!("addr add 10.4.0.{n}/32 dev eth1")));
    guest.ip("route add default via 10.1.0.1 metric 1");
    primary("10.1.0.5");
    let found = guest.network(&[]);
    let eth1 = interface(&found, "eth1");
    let shown = eth1["addresses"].as_array().unwrap().len();
    // And 10.2.0.5, 10.3.0.5, and that of the link, if it is up.
    let more = eth1["more_addresses"].as_u64().unwrap();
    assert_eq!(shown, 64);
    assert!((138..=139).contains(&more), "{more}");
    let table = guest.node.run(&["vms"]);
    assert!(table.fine().contains("10.1.0.5"), "{}", table.fine());
    let info = guest.node.run(&["info", "vm"]);
    assert!(
        info.fine().contains("Address:     10.1.0.5\n"),
        "{}",
        info.fine()
    );

    // Its name is told as well.
    let pid = guest.agent.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--uts", "--target", &pid, "hostname", "renamed"]);
    assert!(command.status().unwrap().success());
    until_so("the name", || guest.told()["hostname"] == "renamed");
}

#[test]
fn a_node_of_many_containers_is_shown_in_parts() {
    let Some(guest) = Guest::new(PREPARE) else {
        return;
    };
    let containers = (0..110).map(|n| format!("link add cali{n} type veth peer name p{n}"));
    guest.ips(containers.chain((0..300).map(|n| format!("link add other{n} type bridge"))));
    let found = guest.network(&[]);
    assert_eq!(found["left_out"], 222, "{found}");
    assert_eq!(guest.node.run(&["ip", "vm"]).fine(), "10.1.0.5\n");
    let all = guest.network(&["--all"]);
    let all = all["interfaces"].as_array().unwrap();
    assert_eq!(all.len(), 1 + 4 + 220 + 300);
    let index = |one: &Value| one["index"].as_u64().unwrap();
    assert!(all.is_sorted_by_key(index));
}

#[test]
fn names_that_are_none_are_refused_and_change_nothing() {
    let (node, _vm) = Node::with_vm("vm");
    let name = node.run(&["hostname", "vm", "--json"]).json();
    let zone = node.run(&["timezone", "vm", "--json"]).json();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(name["hostname"], kernel.trim_end());
    assert_eq!(name, zone);
    let long = "a".repeat(65);
    for bad in ["a-", "a_b", "a..b", "a b", "a\nb", "ä", "$(id)", &long] {
        let said = node.run(&["hostname", "vm", bad]);
        assert!(said.trouble(1).contains("a host name has"), "{bad}");
    }
    for bad in [
        "/etc/passwd",
        "../../../etc/passwd",
        "Europe/../UTC",
        "a b",
        "UTC/",
    ] {
        let said = node.run(&["timezone", "vm", bad]);
        assert!(said.trouble(1).contains("a timezone is named as"), "{bad}");
    }
    let said = node.run(&["timezone", "vm", "Europe/Nowhere"]);
    let why = said.trouble(1);
    assert!(
        why.contains("no such timezone") || why.contains("has no timezones"),
        "{why}"
    );
    for command in ["hostname", "timezone"] {
        assert!(
            node.run(&[command, "vm", ""])
                .trouble(2)
                .contains("cannot be empty")
        );
        assert!(node.run(&[command]).trouble(2).contains("which VM?"));
        assert!(
            node.run(&[command, "vm", "a", "b"])
                .trouble(2)
                .contains("one word too many")
        );
    }
    assert_eq!(node.run(&["hostname", "vm", "--json"]).json(), name);
}
