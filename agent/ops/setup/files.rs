//! What each manager's file says of an interface, by the manager's own manual. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::plan::{Plan, is_link_local};

/// systemd.network(5). `kept`: lines of what was before that are about more than addresses.
pub fn networkd(plan: &Plan, kept: &str) -> String {
    let mut text = format!("[Match]\nName={}\n", plan.interface);
    if plan.mtu > 0 {
        let _ = write!(text, "\n[Link]\nMTUBytes={}\n", plan.mtu);
    }
    text += "\n[Network]\n";
    text += if plan.dhcp { "DHCP=yes\n" } else { "DHCP=no\n" };
    for net in &plan.addresses {
        let _ = writeln!(text, "Address={net}");
    }
    for gateway in &plan.gateways {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for server in &plan.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if plan.gateway(true).is_some() {
        text += "IPv6AcceptRA=no\n";
    }
    text + kept
}

/// Of a file of systemd.network(5): what stands on the interface, as its VLANs do.
pub fn networkd_kept(text: &str) -> String {
    const KEPT: [&str; 7] = [
        "VLAN", "IPVLAN", "IPVTAP", "MACVLAN", "MACVTAP", "VXLAN", "Tunnel",
    ];
    let mut kept = String::new();
    let mut is_network = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_network = line == "[Network]";
        }
        let key = line.split('=').next().unwrap_or_default().trim_end();
        if is_network && KEPT.contains(&key) {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// nm-settings-keyfile(5), of the profile that [`profile`] names.
pub fn keyfile(plan: &Plan) -> String {
    let name = &plan.interface;
    let profile = profile(name);
    let mut text = format!(
        "[connection]\nid={profile}\ntype=ethernet\ninterface-name={name}\n\
        autoconnect-priority=999\n\n[ethernet]\n"
    );
    if plan.mtu > 0 {
        let _ = writeln!(text, "mtu={}", plan.mtu);
    }
    for is_v6 in [false, true] {
        text += if is_v6 { "\n[ipv6]\n" } else { "\n[ipv4]\n" };
        let gateway = plan.gateway(is_v6);
        let has_some = plan.nets(is_v6).next().is_some();
        let method = match (is_v6, plan.dhcp, has_some, gateway) {
            (_, true, ..) => "auto",
            (false, _, true, _) | (true, _, true, Some(_)) => "manual",
            (false, _, false, _) => "disabled",
            // Beside what routers tell.
            (true, ..) => "auto",
        };
        let _ = writeln!(text, "method={method}");
        for (at, net) in (1..).zip(plan.nets(is_v6)) {
            let _ = writeln!(text, "address{at}={net}");
        }
        if let Some(gateway) = gateway {
            let _ = writeln!(text, "gateway={gateway}");
        }
        let servers = plan.dns.iter().filter(|ip| ip.is_ipv6() == is_v6);
        let servers: String = servers.map(|ip| format!("{ip};")).collect();
        // One of a family without addresses would not be asked.
        if !servers.is_empty() && method != "disabled" {
            let _ = writeln!(text, "dns={servers}");
        }
    }
    text
}

/// Ours of NetworkManager.
pub fn profile(interface: &str) -> String {
    ["quantix-", interface].concat()
}

/// Values for `netplan set`, below what it calls the interface, in this order. What is a list has to be taken away
/// before, or the old one stays in it.
pub fn netplan(plan: &Plan) -> Vec<String> {
    let join = |all: &[String]| all.join(", ");
    let texts = |all: &[IpAddr]| all.iter().map(|ip| format!("\"{ip}\"")).collect::<Vec<_>>();
    let mut values: Vec<String> = [
        "addresses",
        "gateway4",
        "gateway6",
        "routes",
        "nameservers.addresses",
        "accept-ra",
    ]
    .iter()
    .map(|key| format!("{key}=NULL"))
    .collect();
    values.push(format!("dhcp4={}", plan.dhcp));
    values.push(format!("dhcp6={}", plan.dhcp));
    if !plan.addresses.is_empty() {
        let nets = plan.addresses.iter().map(|net| format!("\"{net}\""));
        values.push(format!("addresses=[{}]", join(&nets.collect::<Vec<_>>())));
    }
    if !plan.gateways.is_empty() {
        let route = |ip: &IpAddr| {
            let to = if ip.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
            format!("{{to: \"{to}\", via: \"{ip}\"}}")
        };
        let routes: Vec<String> = plan.gateways.iter().map(route).collect();
        values.push(format!("routes=[{}]", join(&routes)));
    }
    if !plan.dns.is_empty() {
        let servers = join(&texts(&plan.dns));
        values.push(format!("nameservers.addresses=[{servers}]"));
    }
    if plan.gateway(true).is_some() {
        values.push("accept-ra=false".to_owned());
    }
    if plan.mtu > 0 {
        values.push(format!("mtu={}", plan.mtu));
    }
    values
}

/// What of interfaces(5) belongs to an interface.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stanzas {
    /// The file without them.
    pub rest: String,
    /// Options of them that say nothing of addresses: what is to be run, what a bridge is made of.
    pub kept: Vec<String>,
    /// There were some.
    pub found: bool,
    /// It comes up at boot, or when it is plugged in.
    pub is_auto: bool,
}

/// Options of interfaces(5) that are ours to say.
const ADDRESSES: [&str; 15] = [
    "address",
    "netmask",
    "network",
    "broadcast",
    "gateway",
    "metric",
    "pointopoint",
    "scope",
    "mtu",
    "dns-nameservers",
    "dns-nameserver",
    "autoconf",
    "accept_ra",
    "dad-attempts",
    "dhcp",
];

/// Takes an interface's stanzas out of a file of interfaces(5).
pub fn stanzas(text: &str, interface: &str) -> Stanzas {
    let mut of = Stanzas::default();
    let mut is_ours = false;
    let mut goes_on = false;
    // Whether the line before, which a backslash continues, was dropped.
    let mut was_dropped = false;
    for line in text.lines() {
        let continues = std::mem::replace(&mut goes_on, line.ends_with('\\'));
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if continues {
            if !was_dropped {
                keep(&mut of, is_ours, line);
            }
            continue;
        }
        was_dropped = false;
        let is_head = matches!(
            first,
            "iface" | "mapping" | "auto" | "source" | "source-directory" | "source-dir" | "rename"
        ) || first.starts_with("allow-")
            || first.starts_with("no-");
        if is_head {
            is_ours = first == "iface" && words.clone().next() == Some(interface);
        }
        if matches!(first, "auto" | "allow-auto" | "allow-hotplug") {
            of.is_auto |= words.clone().any(|word| word == interface);
        }
        if is_ours && is_head {
            of.found = true;
            was_dropped = true;
        } else if is_ours && (ADDRESSES.contains(&first) || is_own_command(line, interface)) {
            was_dropped = true;
        } else {
            let is_option = is_ours && !first.is_empty() && !first.starts_with('#');
            keep(&mut of, is_option, line);
        }
    }
    of
}

/// One that [`ifupdown`] has written.
fn is_own_command(line: &str, interface: &str) -> bool {
    let line = line.trim();
    let address = line.strip_prefix("up ip addr add ");
    let is_address = address.is_some_and(|rest| rest.ends_with(&format!(" dev {interface}")));
    let mtu = format!("pre-up ip link set dev {interface} mtu ");
    is_address || line.starts_with(&mtu) || line.starts_with("up ip -6 route add default via ")
}

fn keep(of: &mut Stanzas, is_option: bool, line: &str) {
    if is_option {
        // In two stanzas it is run once.
        if !of.kept.iter().any(|kept| kept == line) || line.ends_with('\\') {
            of.kept.push(line.to_owned());
        }
    } else {
        of.rest += line;
        of.rest.push('\n');
    }
}

/// Stanzas of interfaces(5), for Debian's ifupdown, ifupdown-ng and busybox alike: of what only one of them knows
/// none is used.
pub fn ifupdown(plan: &Plan, is_auto: bool, kept: &[String]) -> String {
    let name = &plan.interface;
    let mut text = String::new();
    if !is_auto {
        let _ = writeln!(text, "auto {name}");
    }
    let mut is_first = true;
    for is_v6 in [false, true] {
        let family = if is_v6 { "inet6" } else { "inet" };
        let mut nets = plan.nets(is_v6);
        match nets.next() {
            Some(net) => {
                let _ = writeln!(text, "iface {name} {family} static");
                let _ = writeln!(text, "    address {}", net.ip);
                let _ = writeln!(text, "    netmask {}", net.netmask());
            }
            None if plan.dhcp && !is_v6 => {
                let _ = writeln!(text, "iface {name} {family} dhcp");
            }
            None => continue,
        }
        match plan.gateway(is_v6) {
            // Behind such a one busybox names no interface.
            Some(ip) if is_link_local(ip) => {
                let _ = writeln!(text, "    up ip -6 route add default via {ip} dev {name}");
            }
            Some(ip) => {
                let _ = writeln!(text, "    gateway {ip}");
            }
            None => {}
        }
        if is_v6 && plan.gateway(true).is_some() {
            text += "    accept_ra 0\n";
        }
        for net in nets {
            let _ = writeln!(text, "    up ip addr add {net} dev {name}");
        }
        if !std::mem::replace(&mut is_first, false) {
            continue;
        }
        if plan.mtu > 0 {
            let _ = writeln!(text, "    pre-up ip link set dev {name} mtu {}", plan.mtu);
        }
        if !plan.dns.is_empty() {
            text += "    dns-nameservers";
            for server in &plan.dns {
                let _ = write!(text, " {server}");
            }
            text.push('\n');
        }
        for line in kept {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// resolv.conf(5) with other servers.
pub fn resolv_conf(text: &str, servers: &[IpAddr]) -> String {
    let mut new: String = servers
        .iter()
        .map(|ip| format!("nameserver {ip}\n"))
        .collect();
    for line in text.lines() {
        if line.split_ascii_whitespace().next() != Some("nameserver") {
            new += line;
            new.push('\n');
        }
    }
    new
}
