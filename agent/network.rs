//! Which interface is what, and by which of its addresses a guest is known.

use std::ffi::OsStr;
use std::path::Path;

use quantix::message::agent::InterfaceKind;
use quantix::rt::route::{Address, Link, Network, Route};

/// By which a guest is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Primary {
    /// The one of them all: see `Network` in agent.proto.
    pub any: Option<Address>,
    /// The one of IPv4.
    pub v4: Option<Address>,
    /// The one of IPv6.
    pub v6: Option<Address>,
}

impl Primary {
    /// Finds it.
    pub fn of(network: &Network) -> Self {
        Self::among(network, &has_device)
    }

    fn among(network: &Network, is_device: &dyn Fn(&OsStr) -> bool) -> Self {
        let [routed4, routed6] = [false, true].map(|is_v6| by_route(network, is_v6));
        let otherwise = |routed: Option<Address>, is_v6| match routed {
            None => by_link(network, is_device, is_v6),
            routed => routed,
        };
        let (v4, v6) = (otherwise(routed4, false), otherwise(routed6, true));
        let any = routed4.or(routed6).or(v4).or(v6);
        Self { any, v4, v6 }
    }
}

fn by_route(network: &Network, is_v6: bool) -> Option<Address> {
    let is = |route: &&Route| route.is_v6 == is_v6 && !route.is_dead;
    let mut found: Option<((bool, u32), Address)> = None;
    for route in network.routes.iter().filter(is) {
        let Some(link) = network.links.iter().find(|link| link.index == route.index) else {
            continue;
        };
        let rank = (is_down(link), route.metric);
        if !is_containers(network, link)
            && found.is_none_or(|(best, _)| rank < best)
            && let Some(address) = first(network, link, is_v6)
        {
            found = Some((rank, address));
        }
    }
    found.map(|(_, address)| address)
}

/// Devices first, then what an administrator has made of them.
fn by_link(network: &Network, is_device: &dyn Fn(&OsStr) -> bool, is_v6: bool) -> Option<Address> {
    let mut other = None;
    for link in &network.links {
        if is_down(link) {
            continue;
        }
        let Some(found) = first(network, link, is_v6) else {
            continue;
        };
        match kind(network, link, is_device) {
            InterfaceKind::Physical => return Some(found),
            InterfaceKind::Bridge
            | InterfaceKind::Bond
            | InterfaceKind::Vlan
            | InterfaceKind::Virtual => other = other.or(Some(found)),
            _ => {}
        }
    }
    other
}

/// Switched off, or without anything at the other end. That it is in operation the kernel says up to a second later.
fn is_down(link: &Link) -> bool {
    !link.is_up() || !link.carrier
}

/// The first address that others can count on.
fn first(network: &Network, link: &Link, is_v6: bool) -> Option<Address> {
    let is = |address: &&Address| {
        address.index == link.index
            && address.ip.is_ipv6() == is_v6
            && address.is_global()
            && !address.is_deprecated()
            && !address.is_temporary()
            && !address.is_doubtful()
    };
    network.addresses.iter().find(is).copied()
}

/// What it is.
pub fn kind_of(network: &Network, link: &Link) -> InterfaceKind {
    kind(network, link, &has_device)
}

fn kind(network: &Network, link: &Link, is_device: &dyn Fn(&OsStr) -> bool) -> InterfaceKind {
    if link.is_loopback() {
        return InterfaceKind::Loopback;
    }
    if is_containers(network, link) {
        return InterfaceKind::Container;
    }
    match &*link.kind {
        "bridge" | "openvswitch" => InterfaceKind::Bridge,
        "bond" | "team" => InterfaceKind::Bond,
        "vlan" => InterfaceKind::Vlan,
        "wireguard" => InterfaceKind::Wireguard,
        "dummy" => InterfaceKind::Dummy,
        "tun" | "ipip" | "sit" | "gre" | "gretap" | "ip6tnl" | "ip6gre" | "ip6gretap" | "vti"
        | "vti6" | "vxlan" | "geneve" | "xfrm" => InterfaceKind::Tunnel,
        _ if is_device(&link.name) => InterfaceKind::Physical,
        _ => InterfaceKind::Virtual,
    }
}

/// By its name, or as one end of a pair by which nothing leaves this guest: engines give those any name. In a
/// container of its own the other end is the way out.
pub fn is_containers(network: &Network, link: &Link) -> bool {
    let is_way_out = || network.routes.iter().any(|route| route.index == link.index);
    is_plumbing(&link.name.to_string_lossy()) || (link.kind == "veth" && !is_way_out())
}

/// Where the kernel tells of interfaces.
pub const SYSFS: &str = "/sys/class/net";

fn has_device(name: &OsStr) -> bool {
    Path::new(SYSFS).join(name).join("device").exists()
}

/// Interfaces that software in the guest made for itself, by name.
///
/// The bridges of container engines are among them although they carry an address: it is the
/// engine's own, the same in every VM (172.17.0.1), and nobody outside reaches the VM by it.
/// Bridges that an administrator made (br0, br-lan, vmbr0) are reported: theirs usually is the
/// VM's address. So are bonds, VLANs, tun and tap0.
pub fn is_plumbing(name: &str) -> bool {
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
    use quantix::message::agent::InterfaceKind as Kind;

    use super::*;

    /// Each with a number, a name, what made it, and its addresses.
    fn network(links: &[(u32, &str, &str, &[&str])]) -> Network {
        let mut network = Network::default();
        for (index, name, kind, addresses) in links {
            network.links.push(Link {
                index: *index,
                name: name.into(),
                flags: 0x41,
                carrier: true,
                kind: (*kind).to_owned(),
                ..Link::default()
            });
            for ip in *addresses {
                network.addresses.push(Address {
                    index: *index,
                    ip: ip.parse().unwrap(),
                    prefix: 24,
                    scope: 0,
                    flags: 0x80,
                });
            }
        }
        network
    }

    fn route(network: &mut Network, index: u32, metric: u32, is_v6: bool) {
        network.routes.push(Route {
            is_v6,
            gateway: None,
            index,
            metric,
            is_dead: false,
        });
    }

    #[track_caller]
    fn check(network: &Network, any: &str, v4: &str, v6: &str) {
        let is_device = |name: &OsStr| name.to_string_lossy().starts_with("eth");
        let found = Primary::among(network, &is_device);
        let text = |of: Option<Address>| of.map_or(String::new(), |of| of.ip.to_string());
        assert_eq!(
            (&*text(found.any), &*text(found.v4), &*text(found.v6)),
            (any, v4, v6)
        );
    }

    #[test]
    fn the_way_out_with_the_lowest_metric_counts() {
        let mut network = network(&[
            (2, "eth0", "", &["10.0.0.2", "fd00::2"]),
            (3, "eth1", "", &["10.0.1.2", "fd00::3"]),
        ]);
        // Without a way out, the first device.
        check(&network, "10.0.0.2", "10.0.0.2", "fd00::2");
        route(&mut network, 2, 200, false);
        route(&mut network, 3, 100, false);
        check(&network, "10.0.1.2", "10.0.1.2", "fd00::2");
        // Of the same metric the first.
        route(&mut network, 2, 100, false);
        check(&network, "10.0.1.2", "10.0.1.2", "fd00::2");
        // Not by one that is not used, nor where nothing is at the other end.
        network.routes[1].is_dead = true;
        check(&network, "10.0.0.2", "10.0.0.2", "fd00::2");
        network.routes[1].is_dead = false;
        network.links[1].carrier = false;
        check(&network, "10.0.0.2", "10.0.0.2", "fd00::2");
        // Unless there is no other.
        network.links[0].flags = 0;
        check(&network, "10.0.1.2", "10.0.1.2", "");
    }

    #[test]
    fn a_guest_may_have_ipv6_alone() {
        let mut network = network(&[
            (2, "eth0", "", &["10.0.0.2"]),
            (3, "eth1", "", &["fd00::3"]),
        ]);
        route(&mut network, 3, 1024, true);
        check(&network, "fd00::3", "10.0.0.2", "fd00::3");
    }

    #[test]
    fn addresses_that_nobody_can_count_on_are_not_told() {
        let mut network = network(&[(
            2,
            "eth0",
            "",
            &[
                "10.0.0.1", "10.0.0.2", "fe80::1", "fd00::1", "fd00::2", "fd00::3",
            ],
        )]);
        network.addresses[0].scope = 253;
        network.addresses[3].flags = 0x01;
        network.addresses[4].flags = 0x20;
        check(&network, "10.0.0.2", "10.0.0.2", "fd00::3");
        network.addresses[5].flags = 0x40;
        check(&network, "10.0.0.2", "10.0.0.2", "");
        network.addresses[1].flags = 0x01 | 0x80;
        check(&network, "10.0.0.2", "10.0.0.2", "");
        network.addresses[1].flags = 0x20;
        check(&network, "", "", "");
    }

    #[test]
    fn what_containers_have_is_no_way_out() {
        let mut network = network(&[
            (1, "docker0", "bridge", &["172.17.0.1"]),
            (2, "eni1234", "veth", &["172.18.0.1"]),
            (3, "wg0", "wireguard", &["10.9.0.1"]),
            (4, "dummy0", "dummy", &["10.8.0.1"]),
        ]);
        check(&network, "", "", "");
        route(&mut network, 1, 0, false);
        check(&network, "", "", "");
        assert_eq!(kind_of(&network, &network.links[1]), Kind::Container);
        // Of a container itself it is.
        route(&mut network, 2, 0, false);
        check(&network, "172.18.0.1", "172.18.0.1", "");
        assert_ne!(kind_of(&network, &network.links[1]), Kind::Container);
        // What an administrator has made comes behind devices, and is found without a way out.
        let other = super::tests::network(&[(5, "br0", "bridge", &["10.0.0.5"])]);
        check(&other, "10.0.0.5", "10.0.0.5", "");
        let other = super::tests::network(&[
            (5, "br0", "bridge", &["10.0.0.5"]),
            (6, "eth1", "", &["10.0.1.6"]),
        ]);
        check(&other, "10.0.1.6", "10.0.1.6", "");
    }

    #[test]
    fn kinds() {
        let of = |name: &str, made: &str| {
            let network = network(&[(1, name, made, &[])]);
            kind(&network, &network.links[0], &|name| name == "eth0")
        };
        for (name, made, is) in [
            ("eth0", "", Kind::Physical),
            ("br0", "bridge", Kind::Bridge),
            ("br-0123456789ab", "bridge", Kind::Container),
            ("bond0", "bond", Kind::Bond),
            ("eth0.5", "vlan", Kind::Vlan),
            ("tun0", "tun", Kind::Tunnel),
            ("wg0", "wireguard", Kind::Wireguard),
            ("cali12", "veth", Kind::Container),
            ("pair0", "veth", Kind::Container),
            ("d0", "dummy", Kind::Dummy),
            ("mac0", "macvlan", Kind::Virtual),
        ] {
            assert_eq!(of(name, made), is, "{name}");
        }
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
}
