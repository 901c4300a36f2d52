//! What is refused, what each manager's file becomes, and what the kernel has to have of it. Files are as
//! the managers' manuals have them; of each manager's own programs nothing is run here.

#[path = "guest/tests.rs"]
mod guest;

use quantix::error::Code;
use quantix::message::agent::ConfigureNetwork;
use quantix::rt::route::{Address, Link, Network, Route};

use super::files::{self, Stanzas};
use super::plan::Plan;
use super::state;

fn list(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

/// Addresses, gateways, DNS servers.
fn request(addresses: &str, gateways: &str, dns: &str) -> ConfigureNetwork {
    ConfigureNetwork {
        interface: "eth0".to_owned(),
        addresses: list(addresses),
        gateways: list(gateways),
        dns_servers: list(dns),
        ..Default::default()
    }
}

fn dhcp() -> ConfigureNetwork {
    ConfigureNetwork {
        interface: "eth0".to_owned(),
        dhcp: true,
        ..Default::default()
    }
}

fn plan(request: &ConfigureNetwork) -> Plan {
    Plan::read(request).unwrap()
}

/// Both families and all else.
fn full() -> Plan {
    let mut request = request(
        "10.0.0.5/24 10.0.0.6/24 2001:db8::5/64",
        "10.0.0.1 fe80::1",
        "10.0.0.3 2001:db8::3",
    );
    request.mtu = 1400;
    plan(&request)
}

fn only_v6() -> Plan {
    plan(&request("2001:db8::5/64", "", "2001:db8::3"))
}

#[test]
fn what_cannot_be_right_is_refused_before_anything_is_looked_at() {
    let why = |request: &ConfigureNetwork| {
        let failure = Plan::read(request).unwrap_err();
        assert_eq!(failure.code, Code::Invalid, "{failure}");
        failure.message
    };
    let of = |addresses, gateways, dns| why(&request(addresses, gateways, dns));
    for bad in [
        "10.0.0.5",
        "10.0.0.5/",
        "10.0.0.5/33",
        "10.0.0.5/0",
        "10.0.0.5/-1",
        "10.0.0.5/24/24",
        "2001:db8::5/129",
        "10.0.0/24",
        "host/24",
        "fe80::1%eth0/64",
        "10.0.0.5/24\u{1b}[31m",
    ] {
        let text = of(bad, "", "");
        assert!(text.contains("no address with its prefix length"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
    for bad in [
        "0.0.0.0/24",
        "127.0.0.2/8",
        "224.0.0.1/24",
        "255.255.255.255/32",
        "10.0.0.0/24",
        "10.0.0.255/24",
        "2001:db8::/64",
        "ff02::1/64",
        "::1/128",
        "::ffff:10.0.0.5/120",
    ] {
        let text = of(bad, "", "");
        assert!(text.contains("no host can have this address"), "{text}");
    }
    for good in ["10.0.0.0/31", "10.0.0.5/32", "2001:db8::/127", "fe80::5/64"] {
        plan(&request(good, "", ""));
    }
    let text = of("10.0.0.5/24 10.0.0.5/16", "", "");
    assert_eq!(text, "10.0.0.5 is given twice");
    let many: Vec<String> = (1..18).map(|n| format!("10.0.0.{n}/24")).collect();
    let many = request(&many.join(" "), "", "");
    assert!(why(&many).contains("at most 16"));

    let gateway = |gateways| of("10.0.0.5/24", gateways, "");
    assert_eq!(
        gateway("10.0.1.1"),
        "the gateway 10.0.1.1 is in the network of none of the addresses"
    );
    // Of IPv6 without an address of IPv6 it is nobody's.
    assert!(gateway("fe80::1").contains("network of none"));
    assert!(gateway("10.0.0.5").contains("the interface itself"));
    assert!(gateway("10.0.0.255").contains("no host"));
    assert!(gateway("10.0.0.1 10.0.0.2").contains("one gateway of each family"));
    assert!(gateway("10.0.0.1 10.0.0.1").contains("given twice"));
    assert!(gateway("here").contains("\"here\" is no gateway's address"));
    assert!(of("10.0.0.5/24", "", "0.0.0.0").contains("no DNS server's"));
    assert!(of("10.0.0.5/24", "", "ff02::1").contains("no DNS server's"));
    plan(&request("2001:db8::5/64", "fe80::1", ""));

    assert!(why(&request("", "", "")).contains("needs DHCP or an address"));
    let mut both = dhcp();
    both.gateways = list("10.0.0.1");
    assert!(why(&both).contains("not both"));
    for (addresses, mtu) in [
        ("10.0.0.5/24", 575),
        ("10.0.0.5/24", 65_536),
        ("fd00::5/64", 1279),
    ] {
        let mut request = request(addresses, "", "");
        request.mtu = mtu;
        assert!(why(&request).contains("an MTU is from"));
        request.mtu = if mtu == 65_536 { mtu - 1 } else { mtu + 1 };
        plan(&request);
    }
    for bad in [
        "",
        "..",
        "-a",
        "eth0 eth1",
        "eth0\n[Network]",
        "a/b",
        "$(id)",
        "eth0:1",
        "0123456789abcdef",
    ] {
        let mut request = dhcp();
        request.interface = bad.to_owned();
        assert!(why(&request).contains("an interface's name"), "{bad}");
    }
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        flags: 0x41,
        mtu: 1500,
        carrier: true,
        ..Default::default()
    }
}

fn address(index: u32, text: &str, flags: u32) -> Address {
    let (ip, prefix) = text.split_once('/').unwrap();
    Address {
        index,
        ip: ip.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        scope: 0,
        flags,
    }
}

const STATIC: u32 = 0x80;

fn network() -> Network {
    let mut lo = link(1, "lo");
    lo.flags |= 8;
    let mut port = link(4, "eth2");
    port.master = 5;
    Network {
        links: vec![lo, link(2, "eth0"), link(3, "eth1"), port, link(5, "br0")],
        addresses: vec![
            address(2, "10.0.2.15/24", STATIC),
            address(3, "10.0.0.9/24", STATIC),
        ],
        routes: Vec::new(),
    }
}

#[test]
fn an_interface_has_to_be_there_and_free_for_it() {
    let network = network();
    let of = |name: &str, addresses: &str| {
        let mut request = request(addresses, "", "");
        request.interface = name.to_owned();
        let plan = plan(&request);
        plan.fit(&network)
            .map(|link| link.index)
            .map_err(|failure| failure.message)
    };
    assert_eq!(of("eth0", "10.0.0.5/24"), Ok(2));
    assert_eq!(of("eth0", "10.0.2.15/24"), Ok(2));
    assert!(
        of("eth7", "10.0.0.5/24")
            .unwrap_err()
            .contains("no such interface")
    );
    assert!(
        of("lo", "10.0.0.5/24")
            .unwrap_err()
            .contains("the loopback")
    );
    assert!(
        of("eth2", "10.0.0.5/24")
            .unwrap_err()
            .contains("a port of br0")
    );
    let why = of("eth0", "10.0.0.9/24").unwrap_err();
    assert_eq!(why, "eth1 has 10.0.0.9 already");
}

#[test]
fn what_the_kernel_lacks_is_named() {
    let mut request = request("10.0.0.5/24", "10.0.0.1", "");
    request.mtu = 1400;
    let plan = plan(&request);
    let mut network = network();
    let before = state(&network, &network.links[1]);
    let lacks = |network: &Network| plan.lacks(network, &before, false).unwrap_or_default();
    assert_eq!(lacks(&network), "10.0.0.5/24 is not there");
    network.links[1].carrier = false;
    assert!(lacks(&network).contains("no carrier"));
    network.links[1].carrier = true;
    network.links[1].flags = 0;
    assert!(lacks(&network).contains("switched off"));
    network.links[1].flags = 0x41;
    // Another prefix, another interface, for a while, in doubt.
    network.addresses.push(address(2, "10.0.0.5/16", STATIC));
    network.addresses.push(address(3, "10.0.0.5/24", STATIC));
    assert!(lacks(&network).contains("is not there"));
    network.addresses.push(address(2, "10.0.0.5/24", 0));
    assert!(lacks(&network).contains("for a while only"));
    network.addresses[4].flags = STATIC | 0x40;
    assert!(lacks(&network).contains("in doubt"));
    network.addresses[4].flags = STATIC;
    assert_eq!(lacks(&network), "there is no default route by 10.0.0.1");
    let route = |index, is_dead| Route {
        is_v6: false,
        gateway: Some("10.0.0.1".parse().unwrap()),
        index,
        metric: 0,
        is_dead,
    };
    network.routes = vec![route(3, false), route(2, true)];
    assert!(lacks(&network).contains("no default route"));
    network.routes.push(route(2, false));
    assert_eq!(lacks(&network), "its MTU is 1500, not 1400");
    network.links[1].mtu = 1400;
    assert_eq!(plan.lacks(&network, &before, false), None);
    network.links.remove(1);
    assert_eq!(lacks(&network), "eth0 is gone");
}

#[test]
fn an_address_from_before_comes_from_no_dhcp_server() {
    let plan = plan(&dhcp());
    let mut network = network();
    let before = state(&network, &network.links[1]);
    let lacks = |network: &Network, lease| plan.lacks(network, &before, lease);
    assert!(lacks(&network, false).unwrap().contains("by DHCP"));
    assert_eq!(lacks(&network, true), None);
    network.addresses[0].flags = 0;
    assert_eq!(lacks(&network, false), None);
    network.addresses[0] = address(2, "10.0.2.16/24", STATIC);
    assert_eq!(lacks(&network, false), None);
    network.addresses[0] = address(2, "169.254.3.4/16", STATIC);
    assert!(lacks(&network, false).is_some());
    network.addresses[0] = address(2, "2001:db8::7/64", 0);
    assert!(lacks(&network, true).is_some());
}

#[test]
fn networkd_gets_a_file_as_its_manual_has_it() {
    let wanted = "\
[Match]
Name=eth0

[Link]
MTUBytes=1400

[Network]
DHCP=no
Address=10.0.0.5/24
Address=10.0.0.6/24
Address=2001:db8::5/64
Gateway=10.0.0.1
Gateway=fe80::1
DNS=10.0.0.3
DNS=2001:db8::3
IPv6AcceptRA=no
VLAN=eth0.5
";
    let before = "[Match]\nName=en*\nVLAN=none\n[Network]\nDHCP=yes\n VLAN=eth0.5 \nBridge=br0\n\
        [Route]\nTunnel=x\n";
    let kept = files::networkd_kept(before);
    assert_eq!(files::networkd(&full(), &kept), wanted);
    let wanted = "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\n";
    assert_eq!(files::networkd(&plan(&dhcp()), ""), wanted);
    let wanted = "[Match]\nName=eth0\n\n[Network]\nDHCP=no\nAddress=2001:db8::5/64\n\
        DNS=2001:db8::3\n";
    assert_eq!(files::networkd(&only_v6(), ""), wanted);
}

#[test]
fn networkmanager_gets_a_profile_as_its_manual_has_it() {
    let head = "[connection]\nid=quantix-eth0\ntype=ethernet\ninterface-name=eth0\n\
        autoconnect-priority=999\n\n[ethernet]\n";
    let wanted = "\
mtu=1400

[ipv4]
method=manual
address1=10.0.0.5/24
address2=10.0.0.6/24
gateway=10.0.0.1
dns=10.0.0.3;

[ipv6]
method=manual
address1=2001:db8::5/64
gateway=fe80::1
dns=2001:db8::3;
";
    assert_eq!(files::keyfile(&full()), head.to_owned() + wanted);
    let wanted = "\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n";
    assert_eq!(files::keyfile(&plan(&dhcp())), head.to_owned() + wanted);
    let wanted = "\n[ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=auto\naddress1=2001:db8::5/64\n\
        dns=2001:db8::3;\n";
    assert_eq!(files::keyfile(&only_v6()), head.to_owned() + wanted);
}

#[test]
fn netplan_is_told_what_to_forget_first() {
    let forget = [
        "addresses=NULL",
        "gateway4=NULL",
        "gateway6=NULL",
        "routes=NULL",
        "nameservers.addresses=NULL",
        "accept-ra=NULL",
    ];
    let of = |plan: &Plan| {
        let values = files::netplan(plan);
        assert_eq!(values[..forget.len()], forget);
        values[forget.len()..].to_vec()
    };
    assert_eq!(of(&plan(&dhcp())), ["dhcp4=true", "dhcp6=true"]);
    let wanted = [
        "dhcp4=false",
        "dhcp6=false",
        "addresses=[\"10.0.0.5/24\", \"10.0.0.6/24\", \"2001:db8::5/64\"]",
        "routes=[{to: \"0.0.0.0/0\", via: \"10.0.0.1\"}, {to: \"::/0\", via: \"fe80::1\"}]",
        "nameservers.addresses=[\"10.0.0.3\", \"2001:db8::3\"]",
        "accept-ra=false",
        "mtu=1400",
    ];
    assert_eq!(of(&full()), wanted);
}

#[test]
fn ifupdown_gets_stanzas_that_all_of_its_kinds_know() {
    let wanted = "\
auto eth0
iface eth0 inet static
    address 10.0.0.5
    netmask 255.255.255.0
    gateway 10.0.0.1
    up ip addr add 10.0.0.6/24 dev eth0
    pre-up ip link set dev eth0 mtu 1400
    dns-nameservers 10.0.0.3 2001:db8::3
    up /usr/local/bin/mine
iface eth0 inet6 static
    address 2001:db8::5
    netmask 64
    up ip -6 route add default via fe80::1 dev eth0
    accept_ra 0
";
    let kept = vec!["    up /usr/local/bin/mine".to_owned()];
    let text = files::ifupdown(&full(), false, &kept);
    assert_eq!(text, wanted);
    // All that was written is taken out again, but for what was there before.
    let again = files::stanzas(&text, "eth0");
    let wanted = Stanzas {
        rest: "auto eth0\n".to_owned(),
        kept,
        found: true,
        is_auto: true,
    };
    assert_eq!(again, wanted);
    let text = files::ifupdown(&plan(&dhcp()), true, &[]);
    assert_eq!(text, "iface eth0 inet dhcp\n");
    let text = files::ifupdown(&only_v6(), true, &[]);
    let wanted = "iface eth0 inet6 static\n    address 2001:db8::5\n    netmask 64\n    \
        dns-nameservers 2001:db8::3\n";
    assert_eq!(text, wanted);
}

#[test]
fn an_interfaces_stanzas_are_taken_out_and_nothing_else() {
    let text = "\
# The loopback
auto lo
iface lo inet loopback

allow-hotplug eth0 \\
    eth1
iface eth0 inet static
    address 10.0.0.5/24
    # as long as it is needed
    up ip route add 10.9.0.0/16 \\
        via 10.0.0.2
    dns-nameservers 10.0.0.3 \\
        10.0.0.4
    bridge_ports none

iface eth0 inet6 auto
    up ip route add 10.9.0.0/16 via 10.0.0.7
iface eth00 inet dhcp
    hostname eth0
source interfaces.d/*
";
    let found = files::stanzas(text, "eth0");
    let rest = "\
# The loopback
auto lo
iface lo inet loopback

allow-hotplug eth0 \\
    eth1
    # as long as it is needed

iface eth00 inet dhcp
    hostname eth0
source interfaces.d/*
";
    assert_eq!(found.rest, rest);
    let kept = [
        "    up ip route add 10.9.0.0/16 \\",
        "        via 10.0.0.2",
        "    bridge_ports none",
        "    up ip route add 10.9.0.0/16 via 10.0.0.7",
    ];
    assert_eq!(found.kept, kept);
    assert!(found.found && found.is_auto);
    let none = files::stanzas(text, "eth5");
    assert_eq!(
        (&*none.rest, none.found, none.is_auto),
        (text, false, false)
    );
}

#[test]
fn a_resolver_file_keeps_what_is_not_about_servers() {
    let servers = ["10.0.0.3".parse().unwrap()];
    let text = "search a.example\nnameserver 10.0.0.9\noptions edns0\n nameserver ::1\n";
    let wanted = "nameserver 10.0.0.3\nsearch a.example\noptions edns0\n";
    assert_eq!(files::resolv_conf(text, &servers), wanted);
}
