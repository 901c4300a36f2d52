//! Network interfaces: addresses by getifaddrs(3), everything else from /sys/class/net (kernel,
//! Documentation/ABI/testing/sysfs-class-net and -statistics).
//!
//! Left out are the loopback and what container engines, overlay networks and hypervisors inside
//! the guest create by the hundred ([`is_plumbing`]): neither an operator nor a program that looks
//! for the VM's address wants them.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use quantix::message::wire::{Interface, LinkState};
use quantix::rt::sys::ifaddrs::{Flags, InterfaceAddress, interface_addresses};

use super::{number, read};

/// All interfaces that are reported, at most 64 with at most 32 addresses each, in the kernel's
/// order; none where getifaddrs(3) fails.
pub fn interfaces(buffer: &mut Vec<u8>) -> Vec<Interface> {
    let Ok(lines) = interface_addresses() else {
        return Vec::new();
    };
    links(lines)
        .into_iter()
        .map(|link| interface(link, buffer))
        .collect()
}

/// The addresses by which others may reach this guest: without loopback, link-local ones, prefix
/// lengths and duplicates; IPv4 first, at most 64.
pub fn addresses() -> Vec<String> {
    let Ok(lines) = interface_addresses() else {
        return Vec::new();
    };
    reachable(&links(lines))
        .iter()
        .map(IpAddr::to_string)
        .collect()
}

/// One interface and what getifaddrs(3) says of it.
#[derive(Debug)]
struct Link {
    name: OsString,
    flags: Flags,
    addresses: Vec<(IpAddr, u8)>,
}

/// Gathers the lines of each interface that is reported.
fn links(lines: impl Iterator<Item = InterfaceAddress>) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for InterfaceAddress {
        name,
        flags,
        address,
    } in lines
    {
        // An address may have a label behind a colon, which no interface's name contains.
        let base = name
            .as_bytes()
            .split(|b| *b == b':')
            .next()
            .unwrap_or_default();
        let room = links.len() < MAX_INTERFACES;
        let known = links.iter_mut().find(|link| link.name.as_bytes() == base);
        match known {
            Some(link) => link
                .addresses
                .extend(address.filter(|_| link.addresses.len() < MAX_ADDRESSES)),
            None if room && address.is_none() && is_reported(&name, flags) => {
                let addresses = Vec::new();
                links.push(Link {
                    name,
                    flags,
                    addresses,
                });
            }
            None => {}
        }
    }
    links
}

fn reachable(links: &[Link]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for v4 in [true, false] {
        for (address, _) in links.iter().flat_map(|link| &link.addresses) {
            let local = match address {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let local = local || address.is_loopback() || address.is_unspecified();
            let wanted = address.is_ipv4() == v4 && !local && !found.contains(address);
            if wanted && found.len() < MAX_REACHABLE {
                found.push(*address);
            }
        }
    }
    found
}

/// Adds what sysfs knows; without sysfs the rest is 0 or empty.
fn interface(link: Link, buffer: &mut Vec<u8>) -> Interface {
    let mut path = PathBuf::from("/sys/class/net");
    path.push(&link.name);
    path.push("attribute");
    let mut attribute = |name: &str| {
        path.set_file_name(name);
        read(&path, LIMIT, buffer).trim_ascii().to_vec()
    };
    let mac = attribute("address");
    let state = state(&attribute("operstate"), link.flags);
    let mtu = number(&attribute("mtu")).unwrap_or(0);
    path.set_file_name("statistics");
    path.push("counter");
    let mut counter = |name: &str| {
        path.set_file_name(name);
        number(read(&path, LIMIT, buffer)).unwrap_or(0)
    };
    let mut interface = Interface {
        name: link.name.to_string_lossy().into_owned(),
        mac: mac_text(&mac),
        state: state.into(),
        mtu,
        rx_bytes: counter("rx_bytes"),
        tx_bytes: counter("tx_bytes"),
        rx_packets: counter("rx_packets"),
        tx_packets: counter("tx_packets"),
        ..Interface::default()
    };
    for (address, prefix) in link.addresses {
        let family = if address.is_ipv4() {
            &mut interface.ipv4
        } else {
            &mut interface.ipv6
        };
        family.push(format!("{address}/{prefix}"));
    }
    interface
}

/// The address as sysfs writes it; empty for interfaces that have none (tun, WireGuard) or nothing
/// but zeros.
fn mac_text(text: &[u8]) -> String {
    if text.iter().all(|b| matches!(b, b'0' | b':')) {
        return String::new();
    }
    String::from_utf8_lossy(text).into_owned()
}

/// Whether packets can pass. Drivers that do not track it say `unknown` (tun, many virtual NICs):
/// then, and without sysfs, the flags decide. `dormant` (waiting for 802.1X), `testing`,
/// `lowerlayerdown` and `notpresent` are down: RFC 2863 lets none of them pass packets.
fn state(operstate: &[u8], flags: Flags) -> LinkState {
    match operstate {
        b"up" => LinkState::Up,
        b"down" | b"lowerlayerdown" | b"notpresent" | b"dormant" | b"testing" => LinkState::Down,
        _ if !flags.is_up() => LinkState::Down,
        _ if flags.is_running() => LinkState::Up,
        _ => LinkState::Unknown,
    }
}

fn is_reported(name: &OsStr, flags: Flags) -> bool {
    !flags.is_loopback() && !is_plumbing(&name.to_string_lossy())
}

/// Interfaces that software in the guest made for itself, by name.
///
/// The bridges of container engines are among them although they carry an address: it is the
/// engine's own, the same in every VM (172.17.0.1), and nobody outside reaches the VM by it.
/// Bridges that an administrator made (br0, br-lan, vmbr0) are reported: theirs usually is the
/// VM's address. So are bonds, VLANs, tun and tap0.
fn is_plumbing(name: &str) -> bool {
    PLUMBING.iter().any(|prefix| name.starts_with(prefix))
        || TUNNELS.contains(&name)
        || name.contains(".cali")
        // Docker's networks: br- and the first 12 digits of an id.
        || name.strip_prefix("br-").is_some_and(|id| id.len() == 12 && id.bytes().all(is_hex))
        // OpenStack's and Proxmox' (tap4f2a1b9c-1e, tap100i0); tap0 is made by hand or a VPN's.
        || name.strip_prefix("tap").is_some_and(|id| !id.bytes().all(|b| b.is_ascii_digit()))
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

const MAX_INTERFACES: usize = 64;

/// Of one interface, both families together.
const MAX_ADDRESSES: usize = 32;

/// Of all interfaces, in the first message of a session.
const MAX_REACHABLE: usize = 64;

/// Of one attribute; the longest is the 59 characters of an InfiniBand address.
const LIMIT: u64 = 128;

/// How the names of such interfaces begin.
#[rustfmt::skip]
const PLUMBING: [&str; 25] = [
    // Docker, Podman, LXC, LXD, Incus, and any that pair veth devices. lxc: also Cilium's.
    "veth", "docker", "podman", "lxc", "lxdbr", "incusbr",
    // Kubernetes: Calico, CNI bridge, Flannel, Cilium, Weave, Antrea, kube-proxy, local DNS.
    "cali", "cni", "flannel", "cilium_", "weave", "antrea-", "kube-", "nodelocaldns",
    // libvirt, Proxmox' firewall, OpenStack Neutron.
    "vnet", "virbr", "fwbr", "fwln", "fwpr", "qbr", "qvo", "qvb",
    // Open vSwitch's datapath and tunnels; traffic shaping.
    "ovs-", "genev_sys_", "ifb",
];

/// Come with their module, with nothing at the other end.
#[rustfmt::skip]
const TUNNELS: [&str; 9] = [
    "tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0",
];

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Flags = Flags(0x1 | 0x40);
    const LOOPBACK: Flags = Flags(0x1 | 0x8 | 0x40);

    fn line(name: impl Into<OsString>, flags: Flags, cidr: &str) -> InterfaceAddress {
        let address = cidr
            .split_once('/')
            .map(|(address, prefix)| (address.parse().unwrap(), prefix.parse().unwrap()));
        InterfaceAddress {
            name: name.into(),
            flags,
            address,
        }
    }

    fn name(bytes: &[u8]) -> OsString {
        OsStr::from_bytes(bytes).to_owned()
    }

    #[test]
    fn lines_become_links() {
        let links = links(
            [
                line("lo", LOOPBACK, ""),
                line("eth0", UP, ""),
                line("docker0", UP, ""),
                line("lo", LOOPBACK, "127.0.0.1/8"),
                line("eth0", UP, "10.0.0.5/24"),
                line("eth0:1", UP, "10.0.0.6/24"),
                line("docker0", UP, "172.17.0.1/16"),
                line("stray", UP, "192.0.2.1/24"),
                line("eth0", UP, "fe80::1/64"),
                line("eth0", UP, "2001:db8::5/64"),
            ]
            .into_iter(),
        );
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].name, "eth0");
        assert_eq!(links[0].addresses.len(), 4);
        let found: Vec<_> = reachable(&links).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["10.0.0.5", "10.0.0.6", "2001:db8::5"]);
    }

    #[test]
    fn everything_is_bounded() {
        let names = || (0..1000).map(|n| format!("eth{n}"));
        let lines = names().map(|name| line(name, UP, "")).chain(
            names()
                .flat_map(|name| (0..100).map(move |n| line(&name, UP, &format!("10.0.0.{n}/8")))),
        );
        let mut links = links(lines);
        assert_eq!(links.len(), MAX_INTERFACES);
        assert!(
            links
                .iter()
                .all(|link| link.addresses.len() == MAX_ADDRESSES)
        );
        // Duplicates count once.
        assert_eq!(reachable(&links).len(), MAX_ADDRESSES);
        for (n, link) in (0u8..).zip(&mut links) {
            link.addresses = (0..8).map(|m| (IpAddr::from([10, 1, n, m]), 8)).collect();
        }
        assert_eq!(reachable(&links).len(), MAX_REACHABLE);
    }

    #[test]
    fn plumbing_does_not_take_the_places() {
        let veths = (0..500).map(|n| line(format!("veth{n:x}"), UP, ""));
        let links = links(veths.chain([line("eth1", UP, "")]));
        assert_eq!(links.len(), 1);
    }

    #[test]
    fn local_addresses_are_not_reachable() {
        let lines = [
            line("eth0", UP, ""),
            line("eth0", UP, "169.254.3.4/16"),
            line("eth0", UP, "fe80::5054:ff:fe12:3456/64"),
            line("eth0", UP, "0.0.0.0/0"),
            line("eth0", UP, "127.1.2.3/8"),
            line("eth0", UP, "fd00::1/64"),
            line("eth0", UP, "192.168.1.2/32"),
        ];
        let found = reachable(&links(lines.into_iter()));
        let expected: [IpAddr; 2] = ["192.168.1.2".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(found, expected);
    }

    #[test]
    fn names() {
        let plumbing = "veth12ab docker0 docker_gwbridge br-0123456789ab cali1234 cni0 \
            cni-podman0 flannel.1 virbr0 vnet3 tap4f2a1b9c-1e tap100i0 lxc_health lxdbr0 tunl0 sit0 \
            kube-ipvs0 vxlan.calico wireguard.cali ovs-system cilium_host ifb0";
        for name in plumbing.split_whitespace() {
            assert!(is_plumbing(name), "{name}");
        }
        let real = "eth0 ens18 enp1s0 eno1 br0 br-lan br-0123456789ag vmbr0 bond0 eth0.100 tun0 \
            tap0 wg0 vxlan100 wlan0 usb0 ib0 dummy0 team0";
        for name in real.split_whitespace() {
            assert!(!is_plumbing(name), "{name}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let odd = name(b"eth\xff");
        let links = links([line(&odd, UP, ""), line(&odd, UP, "10.0.0.1/8")].into_iter());
        assert_eq!(links[0].addresses.len(), 1);
        // There is no such interface: the name is kept, the rest is empty.
        for link in links {
            let interface = interface(link, &mut Vec::new());
            assert_eq!(interface.name, "eth\u{fffd}");
            assert_eq!(interface.ipv4, ["10.0.0.1/8"]);
            assert_eq!((interface.mtu, interface.rx_bytes), (0, 0));
            assert_eq!(interface.state(), LinkState::Up);
        }
    }

    #[test]
    fn states() {
        let off = Flags(0);
        assert_eq!(state(b"up", UP), LinkState::Up);
        assert_eq!(state(b"down", UP), LinkState::Down);
        assert_eq!(state(b"lowerlayerdown", UP), LinkState::Down);
        assert_eq!(state(b"unknown", UP), LinkState::Up);
        assert_eq!(state(b"unknown", off), LinkState::Down);
        assert_eq!(state(b"unknown", Flags(0x1)), LinkState::Unknown);
        assert_eq!(state(b"", UP), LinkState::Up);
        assert_eq!(state(b"\xff", Flags(0x1)), LinkState::Unknown);
    }

    #[test]
    fn macs() {
        assert_eq!(mac_text(b"52:54:00:12:34:56"), "52:54:00:12:34:56");
        assert_eq!(mac_text(b"00:00:00:00:00:00"), "");
        assert_eq!(mac_text(b""), "");
        assert_eq!(mac_text(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn this_machine() {
        let mut buffer = Vec::new();
        for interface in interfaces(&mut buffer) {
            assert!(!interface.name.is_empty());
            assert_ne!(interface.mtu, 0, "{}", interface.name);
        }
    }
}
