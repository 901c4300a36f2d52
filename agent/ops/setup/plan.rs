//! What an interface is to be like: read from the request, checked before anything is written, and looked for in
//! the kernel afterwards. Pure.

use std::fmt;
use std::net::IpAddr;

use quantix::error::{Code, Failure};
use quantix::message::agent::{ConfigureNetwork, NetworkState};
use quantix::rt::route::{Address, Link, Network};

use crate::telemetry::network::cidr;

/// Of each list in a request.
const MAX_ADDRESSES: usize = 16;
const MAX_SERVERS: usize = 8;

/// RFC 791: what every host takes; RFC 8200: what every link of IPv6 carries.
const LEAST_MTU: u32 = 576;
const LEAST_MTU_6: u32 = 1280;
const MOST_MTU: u32 = 65_535;

/// An address with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    pub ip: IpAddr,
    pub prefix: u8,
}

/// All that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub interface: String,
    pub dhcp: bool,
    pub addresses: Vec<Net>,
    pub gateways: Vec<IpAddr>,
    pub dns: Vec<IpAddr>,
    pub mtu: u32,
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// As a number, and how many bits it has.
fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(v4) => (v4.to_bits().into(), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let is_one = prefix > 0 && u32::from(prefix) <= bits(ip).1;
        is_one.then_some(Self { ip, prefix })
    }

    /// Bits behind the prefix.
    fn host(&self, ip: IpAddr) -> u128 {
        let (number, _) = bits(ip);
        number & self.last()
    }

    /// The largest of them.
    fn last(&self) -> u128 {
        let length = bits(self.ip).1 - u32::from(self.prefix);
        u128::MAX.checked_shr(128 - length).unwrap_or(0)
    }

    /// No host has it: it is the network's own, or everyone's in it.
    fn is_nobody(&self, ip: IpAddr) -> bool {
        let host = self.host(ip);
        // RFC 3021: of two both are hosts.
        let has_room = self.last() > 1;
        has_room && (host == 0 || (ip.is_ipv4() && host == self.last()))
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let ((own, length), (other, of_other)) = (bits(self.ip), bits(ip));
        length == of_other && own & !self.last() == other & !self.last()
    }

    /// Of IPv4, 255.255.255.0 for 24.
    pub fn netmask(&self) -> String {
        match self.ip {
            IpAddr::V4(_) => {
                let host = u32::try_from(self.last()).unwrap_or(0);
                std::net::Ipv4Addr::from_bits(!host).to_string()
            }
            IpAddr::V6(_) => self.prefix.to_string(),
        }
    }
}

/// Of IPv6, on one link.
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Something that a host can be spoken to by.
fn is_host(ip: IpAddr) -> bool {
    let is_odd = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !is_odd && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(Code::Invalid, why))
}

impl Plan {
    /// Reads the request, and refuses what cannot be right by itself.
    ///
    /// # Errors
    /// INVALID.
    pub fn read(request: &ConfigureNetwork) -> Result<Self, Failure> {
        let mut plan = Self {
            interface: request.interface.clone(),
            dhcp: request.dhcp,
            addresses: Vec::new(),
            gateways: Vec::new(),
            dns: Vec::new(),
            mtu: request.mtu,
        };
        plan.check_name()?;
        let fixed = [&request.addresses, &request.gateways, &request.dns_servers];
        if plan.dhcp && fixed.iter().any(|list| !list.is_empty()) {
            return invalid("addresses, gateways and DNS come by DHCP, or are given: not both");
        }
        if !plan.dhcp && request.addresses.is_empty() {
            return invalid("it needs DHCP or an address");
        }
        plan.read_addresses(&request.addresses)?;
        plan.read_gateways(&request.gateways)?;
        plan.dns = ips(&request.dns_servers, MAX_SERVERS, "DNS server")?;
        let least = match plan.addresses.iter().any(|net| net.ip.is_ipv6()) {
            true => LEAST_MTU_6,
            false => LEAST_MTU,
        };
        match plan.mtu {
            0 => Ok(plan),
            mtu if (least..=MOST_MTU).contains(&mtu) => Ok(plan),
            _ => invalid(format!("an MTU is from {least} to {MOST_MTU} here")),
        }
    }

    /// It goes into files and commands as it is.
    fn check_name(&self) -> Result<(), Failure> {
        let name = &self.interface;
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        let is_name = !name.starts_with(['-', '.']) && name.bytes().all(inside);
        match (1..16).contains(&name.len()) && is_name {
            true => Ok(()),
            false => invalid("an interface's name has 1 to 15 letters, digits and any of ._-@"),
        }
    }

    fn read_addresses(&mut self, all: &[String]) -> Result<(), Failure> {
        if all.len() > MAX_ADDRESSES {
            return invalid(format!("at most {MAX_ADDRESSES} addresses"));
        }
        for text in all {
            let Some(net) = Net::parse(text) else {
                return invalid(format!(
                    "{text:?} is no address with its prefix length, as 10.0.0.5/24"
                ));
            };
            if !is_host(net.ip) || net.is_nobody(net.ip) {
                return invalid(format!("{net}: no host can have this address"));
            }
            if self.addresses.iter().any(|other| other.ip == net.ip) {
                return invalid(format!("{} is given twice", net.ip));
            }
            self.addresses.push(net);
        }
        Ok(())
    }

    fn read_gateways(&mut self, all: &[String]) -> Result<(), Failure> {
        self.gateways = ips(all, 2, "gateway")?;
        for (at, gateway) in self.gateways.iter().enumerate() {
            let is_v6 = gateway.is_ipv6();
            if self.gateways[..at].iter().any(|ip| ip.is_ipv6() == is_v6) {
                return invalid("one gateway of each family at most");
            }
            if self.addresses.iter().any(|net| net.ip == *gateway) {
                return invalid(format!("{gateway}: the gateway is the interface itself"));
            }
            let is_near = |net: &&Net| net.contains(*gateway);
            let near = self.addresses.iter().find(is_near);
            let has_family = self.addresses.iter().any(|net| net.ip.is_ipv6() == is_v6);
            match near {
                Some(net) if net.is_nobody(*gateway) => {
                    return invalid(format!("{gateway}: no host can have this address"));
                }
                Some(_) => {}
                None if is_link_local(*gateway) && has_family => {}
                None => {
                    return invalid(format!(
                        "the gateway {gateway} is in the network of none of the addresses"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The interface, if this guest's network has room for what is wanted.
    ///
    /// # Errors
    /// NOT_FOUND, INVALID.
    pub fn fit<'a>(&self, network: &'a Network) -> Result<&'a Link, Failure> {
        let name = &self.interface;
        let Some(link) = network.links.iter().find(|link| *link.name == **name) else {
            let why = format!("{name}: no such interface; `qx-node network VM` lists them");
            return Err(Failure::new(Code::NotFound, why));
        };
        if link.is_loopback() {
            return invalid(format!("{name} is the loopback"));
        }
        let named = |index| network.links.iter().find(|of| of.index == index);
        if let Some(master) = named(link.master) {
            let master = master.name.to_string_lossy();
            return invalid(format!(
                "{name} is a port of {master}, which has the addresses"
            ));
        }
        for net in &self.addresses {
            let is_elsewhere = |of: &&Address| of.ip == net.ip && of.index != link.index;
            if !is_link_local(net.ip)
                && let Some(other) = network.addresses.iter().find(is_elsewhere)
            {
                let other = named(other.index).map(|of| of.name.to_string_lossy());
                let other = other.unwrap_or_default();
                return invalid(format!("{other} has {} already", net.ip));
            }
        }
        Ok(link)
    }

    /// The one of a family.
    pub fn gateway(&self, is_v6: bool) -> Option<IpAddr> {
        self.gateways
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == is_v6)
    }

    /// Those of a family.
    pub fn nets(&self, is_v6: bool) -> impl Iterator<Item = &Net> {
        self.addresses
            .iter()
            .filter(move |net| net.ip.is_ipv6() == is_v6)
    }

    /// What the kernel does not have of it yet; `None`: it has all.
    pub fn lacks(&self, network: &Network, before: &NetworkState, lease: bool) -> Option<String> {
        let name = &self.interface;
        let Some(link) = network.links.iter().find(|link| *link.name == **name) else {
            return Some(format!("{name} is gone"));
        };
        let hint = match (link.is_up(), link.carrier) {
            (false, _) => ", and it is switched off",
            (true, false) => ", and nothing is at its other end (no carrier)",
            _ => "",
        };
        let own = |of: &&Address| of.index == link.index;
        if self.dhcp {
            let was_there = |of: &Address| {
                let text = cidr(of);
                let same = |old: &_| is_same(old, &text);
                before.addresses.iter().any(same)
            };
            // One that an administrator gave it before comes from no server.
            let is_new = |of: &Address| lease || !of.is_static() || !was_there(of);
            let is_one = |of: &Address| of.ip.is_ipv4() && of.is_global() && is_new(of);
            if !network.addresses.iter().filter(own).any(is_one) {
                return Some(format!("no address has come by DHCP{hint}"));
            }
        }
        for net in &self.addresses {
            let is = |of: &&Address| of.ip == net.ip && of.prefix == net.prefix;
            match network.addresses.iter().filter(own).find(is) {
                Some(of) if of.is_doubtful() => {
                    return Some(format!("{net} is in doubt: another may have it"));
                }
                Some(of) if of.is_static() => {}
                Some(_) => return Some(format!("{net} is there for a while only")),
                None => return Some(format!("{net} is not there{hint}")),
            }
        }
        for gateway in &self.gateways {
            let mut routes = network.routes.iter();
            let by = Some(*gateway);
            if !routes.any(|of| of.index == link.index && of.gateway == by && !of.is_dead) {
                return Some(format!("there is no default route by {gateway}{hint}"));
            }
        }
        if self.mtu > 0 && link.mtu != self.mtu {
            return Some(format!("its MTU is {}, not {}", link.mtu, self.mtu));
        }
        None
    }
}

fn is_same(old: &quantix::message::agent::NetworkAddress, text: &str) -> bool {
    !old.dynamic && old.address == text
}

fn ips(all: &[String], most: usize, what: &str) -> Result<Vec<IpAddr>, Failure> {
    if all.len() > most {
        return invalid(format!("at most {most} of a {what}"));
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for text in all {
        match text.parse() {
            Ok(ip) if found.contains(&ip) => return invalid(format!("{ip} is given twice")),
            Ok(ip) if is_host(ip) || (what != "gateway" && ip.is_loopback()) => found.push(ip),
            Ok(ip) => return invalid(format!("{ip} is no {what}'s address")),
            Err(_) => return invalid(format!("{text:?} is no {what}'s address")),
        }
    }
    Ok(found)
}
