//! Network interfaces as they are reported, by rtnetlink(7).
//!
//! Left out are the loopback and what container engines, overlay networks and hypervisors inside
//! the guest create by the hundred ([`is_plumbing`]): neither an operator nor a program that looks
//! for the VM's address wants them.

use std::net::IpAddr;

use quantix::message::wire::{Interface, LinkState};
use quantix::rt::route::{Address, Link, Network};

use crate::network::is_plumbing;

/// All interfaces that are reported, at most 64 with at most 32 addresses each, in the kernel's
/// order.
pub fn interfaces(network: &Network) -> Vec<Interface> {
    let all = reported(network).map(|link| interface(link, network));
    all.collect()
}

/// The addresses by which others may reach this guest: without loopback, link-local ones, prefix
/// lengths and duplicates; IPv4 first, at most 64.
pub fn addresses(network: &Network) -> Vec<String> {
    let mut found: Vec<IpAddr> = Vec::new();
    let links: Vec<&Link> = reported(network).collect();
    for v4 in [true, false] {
        for address in links.iter().flat_map(|link| of(link, network)) {
            let is_wanted = address.ip.is_ipv4() == v4 && is_reachable(address.ip);
            if is_wanted && found.len() < MAX_REACHABLE && !found.contains(&address.ip) {
                found.push(address.ip);
            }
        }
    }
    found.iter().map(IpAddr::to_string).collect()
}

fn is_reachable(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !ip.is_loopback() && !ip.is_unspecified()
}

fn reported(network: &Network) -> impl Iterator<Item = &Link> {
    let is = |link: &&Link| !link.is_loopback() && !is_plumbing(&link.name.to_string_lossy());
    network.links.iter().filter(is).take(MAX_INTERFACES)
}

fn of<'a>(link: &Link, network: &'a Network) -> impl Iterator<Item = &'a Address> {
    let index = link.index;
    let is = move |address: &&Address| address.index == index;
    network.addresses.iter().filter(is).take(MAX_ADDRESSES)
}

fn interface(link: &Link, network: &Network) -> Interface {
    let mut interface = as_telemetry(link);
    for address in of(link, network) {
        let family = if address.ip.is_ipv4() {
            &mut interface.ipv4
        } else {
            &mut interface.ipv6
        };
        family.push(cidr(address));
    }
    interface
}

/// All but its addresses.
pub fn as_telemetry(link: &Link) -> Interface {
    let [rx_packets, tx_packets, rx_bytes, tx_bytes, ..] = link.counters;
    Interface {
        name: link.name.to_string_lossy().into_owned(),
        mac: mac_text(&link.mac),
        state: state(link).into(),
        mtu: link.mtu,
        rx_bytes,
        tx_bytes,
        rx_packets,
        tx_packets,
        ..Interface::default()
    }
}

/// `10.0.0.5/24`
pub fn cidr(address: &Address) -> String {
    format!("{}/{}", address.ip, address.prefix)
}

/// As people write it; empty for interfaces that have none (tun, WireGuard) or nothing but zeros.
fn mac_text(mac: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut text = String::new();
    if mac.iter().all(|byte| *byte == 0) {
        return text;
    }
    for byte in mac {
        if !text.is_empty() {
            text.push(':');
        }
        text.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
    }
    text
}

/// Whether packets can pass. Drivers that do not track it say `unknown` (tun, many virtual NICs):
/// then the flags decide. `dormant` (waiting for 802.1X), `testing`, `lowerlayerdown` and
/// `notpresent` are down: RFC 2863 lets none of them pass packets.
fn state(link: &Link) -> LinkState {
    match link.state {
        6 => LinkState::Up,
        1..=5 => LinkState::Down,
        _ if !link.is_up() => LinkState::Down,
        _ if link.is_running() => LinkState::Up,
        _ => LinkState::Unknown,
    }
}

const MAX_INTERFACES: usize = 64;

/// Of one interface, both families together.
const MAX_ADDRESSES: usize = 32;

/// Of all interfaces, in the first message of a session.
const MAX_REACHABLE: usize = 64;

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const UP: u32 = 0x1 | 0x40;
    const LOOPBACK: u32 = 0x1 | 0x8 | 0x40;

    fn add_link(network: &mut Network, name: impl Into<OsString>, flags: u32) -> u32 {
        let index = u32::try_from(network.links.len() + 1).unwrap();
        network.links.push(Link {
            index,
            name: name.into(),
            flags,
            ..Link::default()
        });
        index
    }

    fn add(network: &mut Network, index: u32, cidr: &str) {
        let (ip, prefix) = cidr.split_once('/').unwrap();
        network.addresses.push(Address {
            index,
            ip: ip.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            scope: 0,
            flags: 0,
        });
    }

    #[test]
    fn links_have_their_addresses() {
        let mut network = Network::default();
        for (name, flags) in [("lo", LOOPBACK), ("eth0", UP), ("docker0", UP)] {
            add_link(&mut network, name, flags);
        }
        for (index, cidr) in [
            (1, "127.0.0.1/8"),
            (2, "10.0.0.5/24"),
            (2, "10.0.0.6/24"),
            (3, "172.17.0.1/16"),
            (4, "192.0.2.1/24"),
            (2, "fe80::1/64"),
            (2, "2001:db8::5/64"),
        ] {
            add(&mut network, index, cidr);
        }
        let links: Vec<&Link> = reported(&network).collect();
        assert_eq!(links.len(), 1);
        let eth0 = interface(links[0], &network);
        assert_eq!(eth0.name, "eth0");
        assert_eq!(eth0.ipv4, ["10.0.0.5/24", "10.0.0.6/24"]);
        assert_eq!(eth0.ipv6, ["fe80::1/64", "2001:db8::5/64"]);
        let found = addresses(&network);
        assert_eq!(found, ["10.0.0.5", "10.0.0.6", "2001:db8::5"]);
    }

    #[test]
    fn everything_is_bounded() {
        let mut network = Network::default();
        for n in 0..1000 {
            let index = add_link(&mut network, format!("eth{n}"), UP);
            for n in 0..100 {
                add(&mut network, index, &format!("10.0.0.{n}/8"));
            }
        }
        let links: Vec<&Link> = reported(&network).collect();
        assert_eq!(links.len(), MAX_INTERFACES);
        let count = interface(links[0], &network).ipv4.len();
        assert_eq!(count, MAX_ADDRESSES);
        // Duplicates count once.
        assert_eq!(addresses(&network).len(), MAX_ADDRESSES);
        for (n, address) in (0u32..).zip(&mut network.addresses) {
            address.ip = n.to_be_bytes().map(|byte| byte.max(1)).into();
        }
        assert_eq!(addresses(&network).len(), MAX_REACHABLE);
    }

    #[test]
    fn plumbing_does_not_take_the_places() {
        let mut network = Network::default();
        for n in 0..500 {
            add_link(&mut network, format!("veth{n:x}"), UP);
        }
        add_link(&mut network, "eth1", UP);
        assert_eq!(reported(&network).count(), 1);
    }

    #[test]
    fn local_addresses_are_not_reachable() {
        let mut network = Network::default();
        let index = add_link(&mut network, "eth0", UP);
        for cidr in [
            "169.254.3.4/16",
            "fe80::5054:ff:fe12:3456/64",
            "0.0.0.0/0",
            "127.1.2.3/8",
            "fd00::1/64",
            "192.168.1.2/32",
        ] {
            add(&mut network, index, cidr);
        }
        assert_eq!(addresses(&network), ["192.168.1.2", "fd00::1"]);
    }

    #[test]
    fn names_need_not_be_utf8() {
        let mut network = Network::default();
        let index = add_link(&mut network, OsStr::from_bytes(b"eth\xff"), UP);
        add(&mut network, index, "10.0.0.1/8");
        let interface = interface(&network.links[0], &network);
        assert_eq!(interface.name, "eth\u{fffd}");
        assert_eq!(interface.ipv4, ["10.0.0.1/8"]);
        assert_eq!((interface.mtu, interface.rx_bytes), (0, 0));
        assert_eq!(interface.state(), LinkState::Up);
    }

    #[test]
    fn states() {
        let state = |state, flags| {
            super::state(&Link {
                state,
                flags,
                ..Link::default()
            })
        };
        assert_eq!(state(6, UP), LinkState::Up);
        assert_eq!(state(2, UP), LinkState::Down);
        assert_eq!(state(3, UP), LinkState::Down);
        assert_eq!(state(0, UP), LinkState::Up);
        assert_eq!(state(0, 0), LinkState::Down);
        assert_eq!(state(0, 1), LinkState::Unknown);
        assert_eq!(state(255, 1), LinkState::Unknown);
    }

    #[test]
    fn macs() {
        assert_eq!(
            mac_text(&[0x52, 0x54, 0, 0x12, 0x34, 0xFE]),
            "52:54:00:12:34:fe"
        );
        assert_eq!(mac_text(&[0; 6]), "");
        assert_eq!(mac_text(&[]), "");
    }

    #[test]
    fn this_machine() {
        for interface in interfaces(&Network::read().unwrap()) {
            assert!(!interface.name.is_empty());
            assert_ne!(interface.mtu, 0, "{}", interface.name);
        }
    }
}
