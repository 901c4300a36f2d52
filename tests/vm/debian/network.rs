//! An interface for each that configures interfaces, all four at once: ifupdown, systemd-networkd, NetworkManager and
//! netplan. What `qx-node network set` came to is what the kernel has, whatever they say.

use serde_json::Value;

use super::Guest;
use crate::vm::harness::{PATIENCE, wait_until};

/// `eth0` to `eth3`. NetworkManager watches what the others have configured.
const MANAGERS: [&str; 4] = ["ifupdown", "systemd-networkd", "NetworkManager", "netplan"];

const PREPARE: &str = r#"
printf 'auto eth0\niface eth0 inet dhcp\n' >>/etc/network/interfaces
printf '[Match]\nName=eth1\n[Network]\nDHCP=yes\n' >/etc/systemd/network/20-lan.network
printf '[main]\nno-auto-default=*\n' >/etc/NetworkManager/conf.d/test.conf
printf 'network:\n  version: 2\n  ethernets:\n    eth3: {dhcp4: true}\n' >/etc/netplan/50-cloud-init.yaml
chmod 600 /etc/netplan/50-cloud-init.yaml
netplan generate
ifup eth0 2>/dev/null
systemctl start systemd-networkd
"#;

const PREPARE_NM: &str = r#"
systemctl start NetworkManager
nmcli connection add type ethernet con-name 'Main link' ifname eth2
"#;

/// All that a change may touch.
const FILES: &str = "cd /etc; find network systemd/network NetworkManager netplan -type f -exec sha256sum {} + | sort";

impl Guest {
    fn address(&self, number: usize) -> String {
        let line = format!("ip -4 -o addr show dev eth{number} | awk '{{ print $4 }}'");
        self.sh(&line)
    }

    /// The gateways of an interface.
    fn gateways(&self, number: usize) -> String {
        let line = format!("ip -4 route show default dev eth{number} | awk '{{ print $3 }}'");
        self.sh(&line)
    }

    fn is(&self, number: usize, host: u8, with_gateway: bool) -> bool {
        let gateway = match with_gateway {
            true => format!("10.{number}.2.2"),
            false => String::new(),
        };
        self.address(number) == format!("10.{number}.2.{host}/24")
            && self.gateways(number) == gateway
    }

    #[track_caller]
    fn wait_for(&self, number: usize, host: u8, with_gateway: bool) {
        wait_until(&format!("eth{number}'s .{host}"), PATIENCE, || {
            self.is(number, host, with_gateway)
        });
    }

    fn set(&self, number: usize, words: &str) -> Value {
        let interface = format!("eth{number}");
        let words: Vec<&str> = words.split(' ').collect();
        self.json("network", &[&["set", &interface], &words[..]].concat())
    }

    /// Sets it, and it stands there.
    #[track_caller]
    fn confirmed(&self, number: usize, words: &str) {
        let found = self.set(number, words);
        assert_eq!(found["outcome"], "confirmed", "{found}");
        assert_eq!(found["manager"], MANAGERS[number], "{found}");
    }

    /// What has become of a change: it is undone, for this reason.
    #[track_caller]
    fn undone(&self, words: &str, why: &[&str]) -> Value {
        let words: Vec<&str> = words.split(' ').chain(["--json"]).collect();
        let said = self.ask("network", &words);
        assert_eq!(said.status, 1, "{said:?}");
        let found: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(found["outcome"], "undone", "{found}");
        let reason = found["reason"].as_str().unwrap();
        for why in why {
            assert!(reason.contains(why), "no {why:?} in {found}");
        }
        found
    }

    #[track_caller]
    fn wait_settled(&self) {
        wait_until("the end of the change", PATIENCE, || {
            let stages = self.sh("ls /etc/quantix-kvm/network");
            !stages.contains("pending") && !stages.contains("undoing")
        });
    }

    /// Makes a change that nobody confirms: the guest takes it back by itself, and all is as it was.
    #[track_caller]
    fn takes_back(&self, number: usize, was: u8) {
        let before = self.sh(FILES);
        let words = format!("--address 10.{number}.2.88/24 --unconfirmed --confirm-within 5");
        let found = self.set(number, &words);
        assert_eq!(found["outcome"], "unconfirmed", "{found}");
        assert_eq!(
            found["after"]["addresses"][0]["address"],
            format!("10.{number}.2.88/24"),
            "{found}"
        );
        self.wait_settled();
        let id = found["change"].as_str().unwrap();
        let why = "no confirm has come within 5 s";
        let found = self.undone(&format!("confirm {id}"), &[why]);
        assert_eq!(found["problem"], Value::Null, "{found}");
        self.wait_for(number, was, true);
        assert_eq!(self.sh(FILES), before);
    }
}

/// An address and a gateway.
fn usual(number: usize) -> String {
    format!("--address 10.{number}.2.77/24 --gateway 10.{number}.2.2")
}

fn usual_with_dns(number: usize) -> String {
    format!("{} --dns 10.{number}.2.3", usual(number))
}

#[test]
#[ignore = "issue 6: minutes of an emulated boot; `make check-deep` runs it"]
fn a_debian_s_interfaces_are_configured_by_whoever_has_them() {
    let guest = Guest::boot_with(&[], MANAGERS.len());
    guest.sh(PREPARE);
    guest.wait_for(1, 15, true);
    guest.wait_for(3, 15, true);
    by_ifupdown(&guest);
    guest.sh(PREPARE_NM);
    guest.wait_for(2, 15, true);
    by_networkd(&guest);
    by_ifupdown_beside_another_route(&guest);
    by_network_manager(&guest);
    by_netplan(&guest);
    they_come_back_with_the_next_boot(&guest);
}

fn by_ifupdown(guest: &Guest) {
    guest.confirmed(0, &usual_with_dns(0));
    assert!(guest.is(0, 77, true));
    assert_eq!(guest.sh("ifquery --state eth0"), "eth0=eth0");
    guest.sh("ifdown eth0; ifup eth0");
    assert!(guest.is(0, 77, true));
    assert_eq!(guest.sh("cat /etc/resolv.conf"), "nameserver 10.0.2.3");
    guest.takes_back(0, 77);

    // Its own words, of a file that it cannot read before either.
    guest.sh("sed -i '1i nonsense here' /etc/network/interfaces");
    let words = "set eth0 --address 10.0.2.89/24";
    let found = guest.undone(words, &["ifup eth0", "interfaces:1: misplaced option"]);
    let problem = found["problem"].as_str().unwrap();
    assert!(problem.contains("misplaced option"), "{found}");
    assert!(guest.is(0, 77, true));
    guest.sh("sed -i 1d /etc/network/interfaces");
}

fn by_networkd(guest: &Guest) {
    let watched = "nmcli -g GENERAL.STATE device show eth1";
    assert_eq!(guest.sh(watched), "100 (connected (externally))");
    wait_until("NetworkManager's resolv.conf", PATIENCE, || {
        guest
            .sh("cat /etc/resolv.conf")
            .starts_with("# Generated by")
    });
    let words = usual_with_dns(1);
    let words: Vec<&str> = ["set", "eth1"]
        .into_iter()
        .chain(words.split(' '))
        .collect();
    let why = "NetworkManager writes /etc/resolv.conf, and systemd-networkd has eth1";
    guest.ask("network", &words).failed(1, &[why]);
    guest.confirmed(1, &usual(1));
    assert!(guest.is(1, 77, true));
    let said = guest.sh("networkctl status eth1");
    assert!(said.contains("00-quantix-eth1.network"), "{said}");
    assert_eq!(guest.sh(watched), "100 (connected (externally))");
    guest.takes_back(1, 77);

    // The agent's end does not take the change with it, as systemd would take what is left of a service.
    let found = guest.set(1, "--address 10.1.2.88/24 --unconfirmed");
    guest.own.until_next_agent(|| {
        let line = "systemctl restart quantix-kvm-agent";
        guest.ask("exec", &["--detach", "--", line]).ok();
    });
    let id = found["change"].as_str().unwrap();
    guest.wait_for(1, 88, false);
    let found = guest.json("network", &["undo", id]);
    assert_eq!(found["reason"], "it was taken back", "{found}");
    guest.wait_for(1, 77, true);

    // Files that go before ours.
    let first = "/etc/systemd/network/00-a.network";
    guest.sh(&format!(
        "cp /etc/systemd/network/00-quantix-eth1.network {first}; networkctl reload"
    ));
    wait_until("networkd to go by it", PATIENCE, || {
        guest.sh("networkctl status eth1").contains(first)
    });
    let why = "00-a.network would be read before 00-quantix-eth1.network, and counts: rename it";
    guest
        .ask("network", &["set", "eth1", "--dhcp"])
        .failed(1, &[why]);
    guest.sh(&format!("rm {first}; networkctl reload"));
    wait_until("networkd to go by ours", PATIENCE, || {
        guest.sh("networkctl status eth1").contains("00-quantix")
    });
    guest.wait_for(1, 77, true);

    // It says ok, and does nothing at all.
    guest.sh("mount --bind /bin/true /usr/bin/networkctl");
    let words = "set eth1 --address 10.1.2.99/24";
    let found = guest.undone(words, &["10.1.2.99/24 is not there"]);
    assert_eq!(found["problem"], Value::Null, "{found}");
    guest.sh("umount /usr/bin/networkctl");
    assert!(guest.is(1, 77, true));
    let ours = guest.sh("cat /etc/systemd/network/00-quantix-eth1.network");
    assert!(ours.contains("Address=10.1.2.77/24"), "{ours}");
}

/// The other's has the same metric: what it had by DHCP it has again, and what the kernel refuses is told.
fn by_ifupdown_beside_another_route(guest: &Guest) {
    guest.confirmed(0, "--dhcp");
    guest.sh("ip route show default dev eth0 | grep -q . || ip route append default via 10.0.2.2 dev eth0");
    assert!(guest.is(0, 15, true));
    guest.takes_back(0, 15);
    let why = [
        "RTNETLINK answers: File exists; ifup: failed to bring up eth0",
        "there is no default route by 10.0.2.2",
    ];
    let found = guest.undone(&format!("set eth0 {}", usual(0)), &why);
    assert_eq!(found["problem"], Value::Null, "{found}");
    assert!(guest.is(0, 15, true));
}

fn by_network_manager(guest: &Guest) {
    guest.confirmed(2, &usual_with_dns(2));
    assert!(guest.is(2, 77, true));
    let fields = "nmcli -g GENERAL.CONNECTION,IP4.ADDRESS,IP4.GATEWAY,IP4.DNS device show eth2";
    assert_eq!(
        guest.sh(fields),
        "quantix-eth2\n10.2.2.77/24\n10.2.2.2\n10.2.2.3"
    );
    guest.takes_back(2, 77);
    // From a profile of the user's own, with a space in its name.
    guest.sh("nmcli connection up id 'Main link' && nmcli connection delete quantix-eth2");
    guest.takes_back(2, 15);
    assert_eq!(
        guest.sh("nmcli -g GENERAL.CONNECTION device show eth2"),
        "Main link"
    );

    // Its own words.
    guest.own.vm.qmp().human("set_link net2 off");
    wait_until("NetworkManager to see it", PATIENCE, || {
        let state = guest.sh("nmcli -g GENERAL.STATE device show eth2");
        state.contains("unavailable")
    });
    let why =
        "Connection 'quantix-eth2' is not available on device eth2 because device has no carrier";
    guest.undone("set eth2 --dhcp", &[why]);
    guest.own.vm.qmp().human("set_link net2 on");
    guest.wait_for(2, 15, true);
}

fn by_netplan(guest: &Guest) {
    guest.confirmed(3, &usual_with_dns(3));
    assert!(guest.is(3, 77, true));
    let said = guest.sh("netplan get ethernets.eth3.addresses");
    assert_eq!(said, "- \"10.3.2.77/24\"");
    guest.takes_back(3, 77);

    // Its own words, of a file that is not ours.
    let other = "/etc/netplan/99-bad.yaml";
    guest.put(other, "network:\n  ethernets:\n    eth9: {dhcp4: maybe}\n");
    let why = "99-bad.yaml:3:19: Error in network definition: invalid boolean value 'maybe'";
    guest.undone("set eth3 --dhcp", &[why]);
    assert!(guest.is(3, 77, true));
}

/// What was confirmed is what each of the four configures at a start, in its own order.
fn they_come_back_with_the_next_boot(guest: &Guest) {
    guest.sh("rm /etc/netplan/99-bad.yaml");
    guest.confirmed(2, &usual_with_dns(2));
    guest.sh(
        "rm /etc/systemd/system/networking.service && systemctl daemon-reload && \
        systemctl enable networking systemd-networkd NetworkManager 2>&1",
    );
    let addresses = || [0, 1, 2, 3].map(|number| guest.address(number));
    let before = addresses();
    assert!(
        before
            .iter()
            .all(|one| one.ends_with(".77/24") || one == "10.0.2.15/24"),
        "{before:?}"
    );
    let patience = ["--wait", "--timeout", "900"];
    guest.ask("reboot", &patience).ok();
    wait_until("all their addresses", 2 * PATIENCE, || {
        addresses() == before
    });
}
