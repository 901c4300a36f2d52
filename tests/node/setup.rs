//! `qx-node network VM set`, with an agent in a network and a file system of its own where this machine gives one
//! (unshare(1), overlays), and managers that are scripts of the test. Nothing of this machine's own is changed.

use std::process::Command;

use serde_json::Value;

use crate::util::node::Node;
use crate::util::relay::Relay;
use crate::util::{Process, agent, is_root, until_so};

/// /etc and /usr/sbin can be written, and what is written is gone with the guest; `bin` has its programs.
const PREPARE: &str = r#"
mount -t tmpfs tmpfs /mnt
for at in etc usr/sbin; do
    mkdir -p /mnt/$at.new /mnt/$at.work
    mount -t overlay -o lowerdir=/$at,upperdir=/mnt/$at.new,workdir=/mnt/$at.work overlay /$at
done
ip link set lo up
ip link add eth0 type veth peer name far0
ip link set far0 up
ip link set eth0 up
ip addr add 10.1.0.5/24 dev eth0
rm -rf /etc/quantix-kvm /etc/netplan /etc/NetworkManager /etc/systemd/network
rm -f /usr/sbin/ifup /usr/sbin/netplan
"#;

/// Its daemon is there by its name alone.
const NETWORK_MANAGER: &str = r#"
mkdir -p /etc/NetworkManager/system-connections
cp "$(command -v sleep)" /mnt/NetworkManager
setpriv --pdeathsig KILL /mnt/NetworkManager 1000 &
cat >/usr/sbin/nmcli <<'.'
#!/bin/sh
echo "$*" >>/mnt/said
file=/etc/NetworkManager/system-connections/quantix-eth0.nmconnection
case "$*" in
    *"device show eth0") echo '100 (connected)'; echo 'my lan' ;;
    *"up id quantix-eth0"*)
        [ "$(stat -c %a $file)" = 600 ] || exit 4
        ip addr flush dev eth0
        grep -q bad /mnt/mode 2>/dev/null && { echo 'Error: no such thing' >&2; exit 4; }
        ip addr add "$(sed -n 's/^address1=//p' $file)" dev eth0
        ;;
    *"up id my lan "*) ip addr flush dev eth0; ip addr add 10.1.0.5/24 dev eth0 ;;
esac
.
chmod 755 /usr/sbin/nmcli
"#;

const NETPLAN: &str = r#"
mkdir -p /etc/netplan
echo 'network: {ethernets: {eth0: {addresses: [10.1.0.5/24]}}}' >/etc/netplan/50-cloud-init.yaml
cat >/usr/sbin/netplan <<'.'
#!/bin/sh
case $1 in
    set) echo "$2" >>/etc/netplan/70-netplan-set.yaml ;;
    apply)
        ip addr flush dev eth0
        new=$(sed -n 's/^ethernets.eth0.addresses=\["\(.*\)"\]/\1/p' /etc/netplan/*.yaml | tail -n 1)
        ip addr add "${new:-10.1.0.5/24}" dev eth0
        ;;
esac
.
chmod 755 /usr/sbin/netplan
"#;

struct Guest {
    node: Node,
    agent: Process,
    _relay: Relay,
}

impl Guest {
    /// None where there may be no such thing.
    fn new(manager: &str) -> Option<Self> {
        let unshare = |line: &str| {
            let mut command = Command::new("unshare");
            command.args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-ec",
                line,
                "sh",
            ]);
            command
        };
        let can = is_root()
            && unshare(PREPARE)
                .output()
                .is_ok_and(|said| said.status.success());
        if !can {
            return None;
        }
        let node = Node::start();
        let relay = node.relay("vm");
        let lines = [PREPARE, manager, "exec \"$@\""].concat();
        let agent = agent::spawn_by(unshare(&lines), &node.dir, "vm.port", &[]);
        node.wait_state("vm", "ready");
        Some(Self {
            node,
            agent,
            _relay: relay,
        })
    }

    fn sh(&self, line: &str) -> String {
        let pid = self.agent.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &pid, "sh", "-c", line]);
        let said = command.output().unwrap();
        assert!(said.status.success(), "{line}: {said:?}");
        String::from_utf8(said.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    fn addresses(&self) -> String {
        self.sh("ip -4 -o addr show dev eth0 | awk '{ print $4 }'")
    }

    /// What was changed, and the exit status.
    fn set(&self, words: &str) -> (Value, i32) {
        let words: Vec<&str> = words.split(' ').collect();
        let words = [&["network", "vm", "set", "eth0", "--json"], &words[..]].concat();
        let said = self.node.run(&words);
        (serde_json::from_str(said.text()).unwrap(), said.status)
    }
}

#[test]
fn networkmanager_is_told_and_told_back() {
    let Some(guest) = Guest::new(NETWORK_MANAGER) else {
        return;
    };
    let file = "/etc/NetworkManager/system-connections/quantix-eth0.nmconnection";
    let (found, status) = guest.set("--address 10.1.0.6/24 --unconfirmed");
    assert_eq!(
        (&found["outcome"], status),
        (&"unconfirmed".into(), 0),
        "{found}"
    );
    assert_eq!(
        (&found["manager"], &found["profile"]),
        (&"NetworkManager".into(), &"my lan".into())
    );
    assert_eq!(found["files"], serde_json::json!([file]));
    assert_eq!(guest.addresses(), "10.1.0.6/24");
    let id = found["change"].as_str().unwrap();
    let found = guest
        .node
        .run(&["network", "vm", "undo", id, "--json"])
        .json();
    assert_eq!(
        (&found["outcome"], &found["problem"]),
        (&"undone".into(), &Value::Null)
    );
    assert_eq!(guest.addresses(), "10.1.0.5/24");
    guest.sh(&format!("[ ! -e {file} ]"));
    let said = guest.sh("grep -v show /mnt/said");
    let up = "--wait 45 connection up id";
    let wanted = format!(
        "connection reload\n{up} quantix-eth0 ifname eth0\nconnection reload\n{up} my lan ifname eth0"
    );
    assert_eq!(said, wanted);

    // Whoever fails is quoted; what it left undone is named.
    guest.sh("echo bad >/mnt/mode");
    let (found, status) = guest.set("--address 10.1.0.6/24");
    assert_eq!(
        (&found["outcome"], status),
        (&"undone".into(), 1),
        "{found}"
    );
    let why = found["reason"].as_str().unwrap();
    let wanted = "ifname eth0: Error: no such thing; 10.1.0.6/24 is not there";
    assert!(why.ends_with(wanted), "{why}");
    assert_eq!(guest.addresses(), "10.1.0.5/24");

    // Whoever asked has gone before the answer.
    guest.sh("rm /mnt/mode; mkfifo /mnt/wait; sed -i '2s|^|case $* in *quantix*) read -r _ </mnt/wait ;; esac\\n|' /usr/sbin/nmcli");
    let mut client =
        guest
            .node
            .begin(&["network", "vm", "set", "eth0", "--address", "10.1.0.6/24"]);
    let pending = "[ -e /etc/quantix-kvm/network/pending ] && echo yes || true";
    until_so("the change", || guest.sh(pending) == "yes");
    client.kill();
    until_so("no worker", || {
        // Of this agent: other tests have theirs.
        let agent = guest.agent.pid();
        guest.sh(&format!("pgrep -x -P {agent} quantix-kvm-age | wc -l")) == "0"
    });
    guest.sh("echo >/mnt/wait");
    until_so("the old address", || {
        guest.sh(pending).is_empty() && guest.addresses() == "10.1.0.5/24"
    });
    until_so("its record", || {
        guest.sh("ls /etc/quantix-kvm/network") == "undone"
    });
    guest.sh("grep -q 'whoever asked for it has gone' /etc/quantix-kvm/network/undone/record");
}

#[test]
fn netplan_keeps_its_files_and_has_them_back() {
    let Some(guest) = Guest::new(NETPLAN) else {
        return;
    };
    let before = guest.sh("cat /etc/netplan/*; ls /etc/netplan");
    let (found, status) = guest.set("--address 10.1.0.6/24 --unconfirmed");
    assert_eq!(
        (&found["outcome"], status),
        (&"unconfirmed".into(), 0),
        "{found}"
    );
    assert_eq!(found["manager"], "netplan");
    assert_eq!(guest.addresses(), "10.1.0.6/24");
    let id = found["change"].as_str().unwrap();
    guest.node.run(&["network", "vm", "undo", id]).fine();
    assert_eq!(guest.sh("cat /etc/netplan/*; ls /etc/netplan"), before);
    assert_eq!(guest.addresses(), "10.1.0.5/24");
    // What the kernel has no more when it is to be confirmed is undone.
    let (found, _) = guest.set("--address 10.1.0.6/24 --unconfirmed");
    guest.sh("ip addr del 10.1.0.6/24 dev eth0");
    let id = found["change"].as_str().unwrap();
    let said = guest.node.run(&["network", "vm", "confirm", id]);
    assert_eq!(said.status, 1);
    let why = "undone: when it was confirmed: 10.1.0.6/24 is not there\n";
    assert!(said.text().contains(why), "{said:?}");
    assert_eq!(guest.addresses(), "10.1.0.5/24");
    assert_eq!(guest.sh("cat /etc/netplan/*; ls /etc/netplan"), before);
    // A confirmed one stays; by hand it is undone by nobody.
    let (found, _) = guest.set("--address 10.1.0.7/24");
    assert_eq!(found["outcome"], "confirmed");
    assert_eq!(guest.addresses(), "10.1.0.7/24");
    // A record that was spoilt is in nobody's way.
    guest.sh(
        "mkdir /etc/quantix-kvm/network/pending; echo x >/etc/quantix-kvm/network/pending/record",
    );
    let (found, _) = guest.set("--address 10.1.0.8/24");
    assert_eq!(found["outcome"], "confirmed", "{found}");
}

#[test]
fn what_was_typed_wrong_is_said() {
    let (node, _vm) = Node::with_vm("vm");
    let usage = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        node.run(&words).trouble(2).to_owned()
    };
    for (words, why) in [
        ("network vm set", "a word is missing behind the VM"),
        ("network vm set eth0", "set takes --dhcp or --address"),
        (
            "network vm set eth0 --dhcp --all",
            "--all goes with no other word",
        ),
        (
            "network vm put eth0 --dhcp",
            "put is none of set, confirm, undo",
        ),
        ("network vm set eth0 eth1 --dhcp", "one word too many"),
        (
            "network vm set eth0 --dhcp --mtu 0",
            "--mtu takes a number from 1",
        ),
        (
            "network vm set eth0 --dhcp --confirm-within x",
            "takes a whole number",
        ),
        ("network vm confirm xyz", "xyz is no change's number"),
        ("network vm undo 0", "0 is no change's number"),
        ("network vm confirm 1 --dhcp", "--dhcp goes with set"),
        (
            "network vm --address 10.0.0.1/24",
            "--address goes with set",
        ),
    ] {
        let said = usage(words);
        assert!(said.contains(why), "{words}: {said}");
    }
    let said = node.run(&["network", "vm", "confirm", "7"]);
    assert!(said.trouble(1).contains("no change 7 is to be confirmed"));
}
