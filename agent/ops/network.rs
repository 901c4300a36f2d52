//! The guest's interfaces, its ways out and its name servers.

use std::path::{Path, PathBuf};

use prost::Message;
use quantix::error::Failure;
use quantix::message::agent::{
    AddressScope, DefaultRoute, GetNetwork, InterfaceKind, Network as Report, NetworkAddress,
    NetworkInterface,
};
use quantix::rt::route::{Address, Link, Network};

use super::{PAGE, read_regular};
use crate::network::{Primary, SYSFS, is_containers, kind_of};
use crate::telemetry::network::{as_telemetry, cidr};

/// The interfaces behind the one that the asker has, and with the first of them the rest.
pub fn report(request: &GetNetwork) -> Result<Report, Failure> {
    let mut network = Network::read().map_err(|e| Failure::system("ask for", "the network", &e))?;
    network.links.sort_unstable_by_key(|link| link.index);
    let text = |of: Option<Address>| of.map_or(String::new(), |of| of.ip.to_string());
    let primary = Primary::of(&network);
    let mut report = Report {
        primary: primary.any.map_or(0, |of| of.index),
        primary_address: text(primary.any),
        primary_ipv4: text(primary.v4),
        primary_ipv6: text(primary.v6),
        ..Default::default()
    };
    if request.after == 0 {
        report.routes = routes(&network);
        resolver(&mut report);
    }
    let mut bytes = 0;
    for link in &network.links {
        if is_containers(&network, link) && !request.all {
            report.left_out += 1;
            continue;
        }
        if link.index <= request.after {
            continue;
        }
        let interface = interface(&network, link);
        bytes += interface.encoded_len();
        if bytes > PAGE {
            report.more = true;
            break;
        }
        report.interfaces.push(interface);
    }
    Ok(report)
}

/// Of one interface; an answer has to hold it.
const MAX_ADDRESSES: usize = 64;

fn interface(network: &Network, link: &Link) -> NetworkInterface {
    let sysfs = Path::new(SYSFS).join(&link.name);
    let kind = kind_of(network, link);
    let speed = match kind {
        InterfaceKind::Physical | InterfaceKind::Bond => number(&sysfs.join("speed")),
        _ => 0,
    };
    let [_, _, _, _, rx_errors, tx_errors, rx_dropped, tx_dropped] = link.counters;
    let mut found = NetworkInterface {
        link: Some(as_telemetry(link)),
        index: link.index,
        kind: kind.into(),
        r#type: link.kind.clone(),
        enabled: link.is_up(),
        carrier: link.is_up() && link.carrier,
        speed_mbps: speed,
        addresses: Vec::new(),
        master: name(network, link.master),
        // Of a pair it is the other end.
        parent: match &*link.kind {
            "veth" => String::new(),
            _ => name(network, link.below),
        },
        dhcp: false,
        rx_errors,
        tx_errors,
        rx_dropped,
        tx_dropped,
        more_addresses: 0,
    };
    for address in &network.addresses {
        if address.index != link.index {
            continue;
        }
        found.dhcp |= address.ip.is_ipv4() && !address.is_static();
        match found.addresses.len() < MAX_ADDRESSES {
            true => found.addresses.push(of(address)),
            false => found.more_addresses += 1,
        }
    }
    found.dhcp = found.dhcp || has_lease(link);
    found
}

/// Where clients leave word of an address that they do not let run out: systemd-networkd, udhcpc.
pub fn has_lease(link: &Link) -> bool {
    let mut pid = PathBuf::from("/run/udhcpc.");
    pid.as_mut_os_string().push(&link.name);
    pid.as_mut_os_string().push(".pid");
    let lease = Path::new("/run/systemd/netif/leases").join(link.index.to_string());
    lease.exists() || pid.exists()
}

pub fn of(address: &Address) -> NetworkAddress {
    let scope = match address.scope {
        0..libc::RT_SCOPE_LINK => AddressScope::Global,
        libc::RT_SCOPE_LINK => AddressScope::Link,
        _ => AddressScope::Host,
    };
    NetworkAddress {
        address: cidr(address),
        scope: scope.into(),
        dynamic: !address.is_static(),
        deprecated: address.is_deprecated(),
        temporary: address.is_temporary(),
        tentative: address.is_doubtful(),
    }
}

fn name(network: &Network, index: u32) -> String {
    let is = |link: &&Link| link.index == index;
    let link = network.links.iter().find(is);
    link.map_or(String::new(), |link| {
        link.name.to_string_lossy().into_owned()
    })
}

/// In Mbit/s. A NIC that is down has none, nor has one that says -1.
fn number(path: &Path) -> u32 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

pub fn routes(network: &Network) -> Vec<DefaultRoute> {
    let mut routes = Vec::new();
    for route in &network.routes {
        routes.push(DefaultRoute {
            gateway: route.gateway.map_or(String::new(), |ip| ip.to_string()),
            interface: name(network, route.index),
            metric: route.metric,
            ipv6: route.is_v6,
        });
    }
    routes.sort_by_key(|route| (route.ipv6, route.metric));
    routes.truncate(MAX_ROUTES);
    routes
}

const MAX_ROUTES: usize = 64;

/// systemd-resolved itself, which knows the real ones.
const STUB: &str = "127.0.0.53";
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

fn resolver(report: &mut Report) {
    let read = |path: &str| read_regular(Path::new(path), 64 * 1024).unwrap_or_default();
    resolv_conf(&read("/etc/resolv.conf"), report);
    if report.dns_servers == [STUB] {
        let stub = std::mem::take(&mut report.dns_servers);
        let domains = std::mem::take(&mut report.search_domains);
        resolv_conf(&read(RESOLVED), report);
        if report.dns_servers.is_empty() {
            (report.dns_servers, report.search_domains) = (stub, domains);
        }
    }
}

/// More are none that anybody asks.
const MAX_NAMES: usize = 16;

/// As resolv.conf(5) has it: the last list of domains counts.
fn resolv_conf(text: &[u8], report: &mut Report) {
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().unwrap_or_default();
                // Whether it is one is its resolver's business; an IPv6 address may have an interface behind it.
                let is_one = server.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':')
                    && server.contains(['.', ':']);
                let room = report.dns_servers.len() < MAX_NAMES && server.len() < 64;
                if is_one && room {
                    report.dns_servers.push(server.to_owned());
                }
            }
            Some("search" | "domain") => {
                let domains = words.filter(|word| word.len() < 256).take(MAX_NAMES);
                report.search_domains = domains.map(str::to_owned).collect();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> (Vec<String>, Vec<String>) {
        let mut report = Report::default();
        resolv_conf(text, &mut report);
        (report.dns_servers, report.search_domains)
    }

    #[test]
    fn name_servers_and_domains() {
        let text = b"# nameserver 10.0.0.9\nnameserver 10.0.0.1\nnameserver\tfe80::1%eth0\n\
            domain old.example\nsearch a.example b.example\noptions edns0\nnameserver here\n";
        let (servers, domains) = parse(text);
        assert_eq!(servers, ["10.0.0.1", "fe80::1%eth0"]);
        assert_eq!(domains, ["a.example", "b.example"]);
        assert_eq!(parse(b"nameserver\nsearch\n\xff\xfe\n"), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_says_too_much_is_cut() {
        let mut text = "nameserver 10.0.0.1\n".repeat(1000);
        text += &format!("search {} {}\n", "a".repeat(300), "b ".repeat(1000));
        let (servers, domains) = parse(text.as_bytes());
        assert_eq!((servers.len(), domains.len()), (MAX_NAMES, MAX_NAMES));
        assert!(domains.iter().all(|domain| domain == "b"));
    }

    #[test]
    fn pages_follow_each_other() {
        let first = report(&GetNetwork::default()).unwrap();
        let last = first.interfaces.last().unwrap().index;
        let rest = report(&GetNetwork {
            after: last,
            all: false,
        });
        let rest = rest.unwrap();
        assert!(rest.interfaces.is_empty() && !rest.more);
        assert!(rest.routes.is_empty() && rest.dns_servers.is_empty());
        assert_eq!(rest.primary_address, first.primary_address);
    }
}
