//! `qx-node network` and `qx-node ip`: the guest's interfaces, and the address by which it is known.

use std::net::IpAddr;

use quantix::error::{Code, Failure};
use quantix::message::Body;
use quantix::message::agent::{
    AddressScope, DefaultRoute, GetNetwork, Interface, InterfaceKind, LinkState, Network,
    NetworkAddress, NetworkInterface,
};
use serde_json::{Value, json};

use super::client::{Client, unexpected};
use super::options::Typed;
use super::pages::Pages;
use super::render::{bytes, or_dash, pairs, plain, table};
use super::run::print_json;
use super::{Trouble, client, print, setup, vm};

/// `qx-node network`
pub fn network(typed: &Typed) -> Result<u8, Trouble> {
    if typed.words.len() > 1 {
        return setup::change(typed);
    }
    setup::refuse_options(typed, setup::OPTIONS, "set")?;
    let (name, _) = vm(typed, 0)?;
    let network = ask(&mut client(typed)?, name, typed.has("all"))?;
    if typed.has("json") {
        return print_json(&to_json(name, &network));
    }
    print(&text(&network))
}

/// `qx-node ip`
pub fn ip(typed: &Typed) -> Result<u8, Trouble> {
    let (name, _) = vm(typed, 0)?;
    let network = ask(&mut client(typed)?, name, false)?;
    let only_v6 = typed.has("ipv6");
    let primary = match only_v6 {
        true => &network.primary_ipv6,
        false => &network.primary_address,
    };
    let all = global(&network, primary, only_v6);
    let none = || {
        let family = if only_v6 { " of IPv6" } else { "" };
        let why = format!(
            "the guest has no global address{family} by which it is known; \
             `qx-node network VM` shows what it has"
        );
        Trouble::Failed(Failure::new(Code::NotFound, why))
    };
    if typed.has("json") {
        return print_json(&json!({
            "vm": name,
            "address": Some(primary).filter(|address| !address.is_empty()),
            "ipv4": Some(&network.primary_ipv4).filter(|address| !address.is_empty()),
            "ipv6": Some(&network.primary_ipv6).filter(|address| !address.is_empty()),
            "addresses": all,
        }));
    }
    if !typed.has("all") {
        // It goes into other programs' words.
        let is_one = primary.parse::<IpAddr>().is_ok();
        return match is_one {
            true => print(&format!("{primary}\n")),
            false => Err(none()),
        };
    }
    if all.is_empty() {
        return Err(none());
    }
    print(&(all.join("\n") + "\n"))
}

/// The primary one, and behind it the others that are in use, in the order of interfaces.
fn global(network: &Network, primary: &str, only_v6: bool) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let one = |address: &NetworkAddress| {
        let is_global = address.scope() == AddressScope::Global && !address.tentative;
        let ip = address.address.split('/').next()?.parse::<IpAddr>().ok()?;
        let is_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_wanted = is_global && !is_local && (ip.is_ipv6() || !only_v6);
        is_wanted.then(|| ip.to_string())
    };
    if let Ok(ip) = primary.parse::<IpAddr>() {
        found.push(ip.to_string());
    }
    for interface in &network.interfaces {
        for ip in interface.addresses.iter().filter_map(one) {
            if !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    found
}

/// All of it, in as many answers as it takes.
pub fn ask(client: &mut Client, name: &str, all: bool) -> Result<Network, Trouble> {
    let mut pages = Pages::of("interfaces");
    let mut whole: Option<Network> = None;
    let mut after = 0;
    loop {
        let request = Body::GetNetwork(GetNetwork { after, all });
        let id = client.ask_agent(name, request)?;
        let Body::Network(part) = client.wait_agent(id)? else {
            return Err(unexpected());
        };
        let more = part.more;
        let last = part.interfaces.last().map_or(0, |last| last.index);
        if more {
            pages.more(&part, last > after)?;
        }
        after = last;
        let whole = match &mut whole {
            None => whole.insert(part),
            Some(whole) => {
                whole.left_out = part.left_out;
                whole.interfaces.extend(part.interfaces);
                whole
            }
        };
        if !more {
            return Ok(std::mem::take(whole));
        }
    }
}

fn kind(of: &NetworkInterface) -> &'static str {
    match of.kind() {
        InterfaceKind::Unspecified => "unknown",
        InterfaceKind::Physical => "physical",
        InterfaceKind::Bridge => "bridge",
        InterfaceKind::Bond => "bond",
        InterfaceKind::Vlan => "vlan",
        InterfaceKind::Tunnel => "tunnel",
        InterfaceKind::Wireguard => "wireguard",
        InterfaceKind::Container => "container",
        InterfaceKind::Loopback => "loopback",
        InterfaceKind::Dummy => "dummy",
        InterfaceKind::Virtual => "virtual",
    }
}

/// What telemetry has of it.
pub fn link(of: &NetworkInterface) -> Interface {
    of.link.clone().unwrap_or_default()
}

/// In a word.
pub fn state(of: &NetworkInterface) -> &'static str {
    match link(of).state() {
        _ if !of.enabled => "off",
        LinkState::Up => "up",
        LinkState::Down if !of.carrier => "no carrier",
        LinkState::Down => "down",
        LinkState::Unknown => "unknown",
    }
}

fn scope(of: &NetworkAddress) -> &'static str {
    match of.scope() {
        AddressScope::Unspecified => "unknown",
        AddressScope::Global => "global",
        AddressScope::Link => "link",
        AddressScope::Host => "host",
    }
}

/// What there is to be said of an address, but for what they usually are.
pub fn address(of: &NetworkAddress) -> String {
    let mut said = Vec::new();
    let mut say = |holds: bool, word: &'static str| said.extend(Some(word).filter(|_| holds));
    say(of.scope() != AddressScope::Global, scope(of));
    say(of.dynamic, "dynamic");
    say(of.temporary, "temporary");
    say(of.deprecated, "deprecated");
    say(of.tentative, "tentative");
    match said.is_empty() {
        true => plain(&of.address),
        false => format!("{} ({})", plain(&of.address), said.join(", ")),
    }
}

/// As "10.0.0.1 on eth0 (metric 100)".
pub fn route(of: &DefaultRoute) -> String {
    let by = match &*of.gateway {
        "" => String::new(),
        gateway => format!("{} ", plain(gateway)),
    };
    let family = if of.ipv6 && of.gateway.is_empty() {
        ", IPv6"
    } else {
        ""
    };
    let interface = plain(&of.interface);
    format!("{by}on {interface} (metric {}{family})", of.metric)
}

pub fn address_json(of: &NetworkAddress) -> Value {
    json!({
        "address": of.address,
        "scope": scope(of),
        "dynamic": of.dynamic,
        "deprecated": of.deprecated,
        "temporary": of.temporary,
        "tentative": of.tentative,
    })
}

pub fn route_json(of: &DefaultRoute) -> Value {
    json!({
        "family": if of.ipv6 { "ipv6" } else { "ipv4" },
        "gateway": Some(&of.gateway).filter(|gateway| !gateway.is_empty()),
        "interface": of.interface,
        "metric": of.metric,
    })
}

fn text(network: &Network) -> String {
    let head = [
        "",
        "INTERFACE",
        "KIND",
        "STATE",
        "SPEED",
        "MAC",
        "MTU",
        "RECEIVED",
        "SENT",
        "PART OF",
        "ADDRESSES",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in &network.interfaces {
        let link = link(one);
        let is_primary = network.primary == one.index && network.primary > 0;
        let speed = match one.speed_mbps {
            0 => "-".to_owned(),
            mbps => format!("{mbps} Mbit/s"),
        };
        let mut addresses = one.addresses.iter().map(address);
        let mut row = vec![
            if is_primary { "*" } else { "" }.to_owned(),
            plain(&link.name),
            kind(one).to_owned(),
            state(one).to_owned(),
            speed,
            or_dash(&link.mac),
            link.mtu.to_string(),
            bytes(link.rx_bytes),
            bytes(link.tx_bytes),
            or_dash(if one.master.is_empty() {
                &one.parent
            } else {
                &one.master
            }),
        ];
        let dhcp = if one.dhcp { " by DHCP" } else { "" };
        row.push(
            addresses
                .next()
                .map_or("-".to_owned(), |first| first + dhcp),
        );
        let blank = vec![String::new(); row.len() - 1];
        rows.push(row);
        rows.extend(addresses.map(|next| [&blank[..], &[next]].concat()));
        if one.more_addresses > 0 {
            let more = format!("and {} more", one.more_addresses);
            rows.push([&blank[..], &[more]].concat());
        }
    }
    let mut out = table(&rows);
    if network.left_out > 0 {
        let count = network.left_out;
        out += &format!("{count} of containers left out; --all shows them\n");
    }
    let routes = network.routes.iter().map(route);
    let rest = pairs(&[
        ("Primary", plain(&network.primary_address)),
        ("Gateways", routes.collect::<Vec<_>>().join(", ")),
        ("DNS", plain(&network.dns_servers.join(", "))),
        ("Search", plain(&network.search_domains.join(", "))),
    ]);
    if !rest.is_empty() {
        out += &format!("\n{rest}");
    }
    out
}

fn to_json(vm: &str, network: &Network) -> Value {
    let known = |text: &str| match text {
        "" => Value::Null,
        text => json!(text),
    };
    let interfaces = network.interfaces.iter().map(|one| {
        let addresses = one.addresses.iter().map(address_json);
        let link = link(one);
        json!({
            "name": link.name,
            "index": one.index,
            "primary": network.primary == one.index && network.primary > 0,
            "kind": kind(one),
            "type": known(&one.r#type),
            "state": state(one),
            "carrier": one.carrier,
            "speed_mbps": Some(one.speed_mbps).filter(|speed| *speed > 0),
            "mac": known(&link.mac),
            "mtu": link.mtu,
            "master": known(&one.master),
            "parent": known(&one.parent),
            "dhcp": one.dhcp,
            "addresses": addresses.collect::<Vec<_>>(),
            "more_addresses": one.more_addresses,
            "rx_bytes": link.rx_bytes,
            "tx_bytes": link.tx_bytes,
            "rx_packets": link.rx_packets,
            "tx_packets": link.tx_packets,
            "rx_errors": one.rx_errors,
            "tx_errors": one.tx_errors,
            "rx_dropped": one.rx_dropped,
            "tx_dropped": one.tx_dropped,
        })
    });
    let routes = network.routes.iter().map(route_json);
    json!({
        "vm": vm,
        "primary_address": known(&network.primary_address),
        "primary_ipv4": known(&network.primary_ipv4),
        "primary_ipv6": known(&network.primary_ipv6),
        "interfaces": interfaces.collect::<Vec<_>>(),
        "left_out": network.left_out,
        "default_routes": routes.collect::<Vec<_>>(),
        "dns_servers": network.dns_servers,
        "search_domains": network.search_domains,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Network {
        let of = |address: &str, scope: AddressScope, tentative| NetworkAddress {
            address: address.to_owned(),
            scope: scope.into(),
            tentative,
            ..Default::default()
        };
        Network {
            interfaces: vec![NetworkInterface {
                link: Some(Interface {
                    name: "eth0\x1b[31m".to_owned(),
                    state: LinkState::Up.into(),
                    ..Default::default()
                }),
                index: 2,
                enabled: true,
                carrier: true,
                addresses: vec![
                    of("10.0.0.1/24", AddressScope::Global, false),
                    of("10.0.0.2/24", AddressScope::Global, false),
                    of("10.0.0.3/24", AddressScope::Global, true),
                    of("127.0.0.1/8", AddressScope::Host, false),
                    of("fe80::1/64", AddressScope::Link, false),
                    of("169.254.0.1/16", AddressScope::Global, false),
                    of("not one", AddressScope::Global, false),
                    of("fd00::1/64", AddressScope::Global, false),
                ],
                ..Default::default()
            }],
            primary: 2,
            primary_address: "10.0.0.2".to_owned(),
            left_out: 3,
            ..Default::default()
        }
    }

    #[test]
    fn the_primary_address_is_first_among_those_in_use() {
        let all = global(&guest(), "10.0.0.2", false);
        assert_eq!(all, ["10.0.0.2", "10.0.0.1", "fd00::1"]);
        assert_eq!(global(&guest(), "", true), ["fd00::1"]);
        assert!(global(&Network::default(), "", false).is_empty());
    }

    #[test]
    fn what_a_guest_says_does_not_reach_the_terminal_as_it_is() {
        let text = text(&guest());
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("*  eth0\\x1b[31m"), "{text}");
        assert!(text.contains("10.0.0.3/24 (tentative)\n"), "{text}");
        assert!(text.contains("\n3 of containers left out; --all"), "{text}");
    }

    #[test]
    fn addresses_that_are_too_many_are_counted() {
        let mut guest = guest();
        guest.interfaces[0].more_addresses = 7;
        let text = text(&guest);
        let last = text.lines().find(|line| line.ends_with("and 7 more"));
        assert!(last.is_some(), "{text}");
        assert_eq!(to_json("vm", &guest)["interfaces"][0]["more_addresses"], 7);
    }
}
