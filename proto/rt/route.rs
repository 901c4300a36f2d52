//! Links, addresses and routes of this network namespace, as the kernel tells of them (rtnetlink(7)), and what its
//! messages say. A message that is cut or too short is none; what it has in it and nobody here reads is passed over.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;

use super::sys::netlink::dump;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// In the kernel's order; a guest of many containers has thousands.
    pub links: Vec<Link>,
    /// In the kernel's order.
    pub addresses: Vec<Address>,
    /// Default routes of the main tables, IPv4 first.
    pub routes: Vec<Route>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// At most 15 bytes, none of them a slash.
    pub name: OsString,
    /// `IFF_*` of netdevice(7).
    pub flags: u32,
    /// In bytes.
    pub mtu: u32,
    /// IF_OPER_* of linux/if.h, as RFC 2863 has them.
    pub state: u8,
    /// Something is at the other end, as far as the driver says.
    pub carrier: bool,
    /// The link layer's address; of a tunnel it may be another's.
    pub mac: Vec<u8>,
    /// What made it, as `bridge`, `veth`; empty: a driver of a device.
    pub kind: String,
    /// The bridge or bond that it is a port of; 0: none.
    pub master: u32,
    /// What it stands on, as a VLAN does; 0: nothing.
    pub below: u32,
    /// Since it is there: packets received and sent, bytes received and sent, errors, dropped packets.
    pub counters: [u64; 8],
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// Its own, not that of the other end.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// RT_SCOPE_* of linux/rtnetlink.h.
    pub scope: u8,
    /// IFA_F_* of linux/if_addr.h.
    pub flags: u32,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Of IPv6.
    pub is_v6: bool,
    /// `None`: whatever is at the other end.
    pub gateway: Option<IpAddr>,
    /// The interface; 0: none that is said.
    pub index: u32,
    /// The lowest counts.
    pub metric: u32,
    /// The kernel does not use it, as its interface is down.
    pub is_dead: bool,
}

impl Link {
    /// Switched on by the administrator.
    pub const fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Ready to pass packets, as far as the driver says.
    pub const fn is_running(&self) -> bool {
        self.flags & libc::IFF_RUNNING.cast_unsigned() != 0
    }

    /// `lo`, whatever its name.
    pub const fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK.cast_unsigned() != 0
    }
}

impl Address {
    /// Others may reach this machine by it: for which packets leave the link, and that is not the loopback's.
    pub fn is_global(&self) -> bool {
        let local = match self.ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_wide = self.scope < libc::RT_SCOPE_LINK;
        is_wide && !local && !self.ip.is_loopback() && !self.ip.is_unspecified()
    }

    /// It is there to stay: not one that is told again and again by a server or a router.
    pub const fn is_static(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0
    }

    /// On its way out.
    pub const fn is_deprecated(&self) -> bool {
        self.flags & libc::IFA_F_DEPRECATED != 0
    }

    /// Made up for a while so that nobody knows it again (RFC 8981). Of IPv4 the flag says something else.
    pub const fn is_temporary(&self) -> bool {
        self.ip.is_ipv6() && self.flags & libc::IFA_F_TEMPORARY != 0
    }

    /// Another has it, or may have it: it is not in use.
    pub const fn is_doubtful(&self) -> bool {
        let doubt = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
        self.flags & doubt != 0 && self.flags & libc::IFA_F_OPTIMISTIC == 0
    }
}

impl Network {
    /// Asks the kernel. **Waits for a lock** that whoever changes interfaces has meanwhile.
    ///
    /// # Errors
    /// Those of a netlink socket.
    pub fn read() -> io::Result<Self> {
        let mut network = Self::default();
        for _ in 0..TRIES {
            network = Self::default();
            if network.fill()? {
                break;
            }
        }
        Ok(network)
    }

    /// False: it changed meanwhile.
    fn fill(&mut self) -> io::Result<bool> {
        let links = &mut self.links;
        let mut is_whole = dump(libc::RTM_GETLINK, libc::RTM_NEWLINK, 0, &mut |body| {
            links.extend(link(body));
            links.len() < MAX
        })?;
        let addresses = &mut self.addresses;
        is_whole &= dump(libc::RTM_GETADDR, libc::RTM_NEWADDR, 0, &mut |body| {
            addresses.extend(address(body));
            addresses.len() < MAX
        })?;
        let routes = &mut self.routes;
        for family in [V4, V6] {
            let mut count = 0;
            let asked = dump(
                libc::RTM_GETROUTE,
                libc::RTM_NEWROUTE,
                family,
                &mut |body| {
                    default_routes(body, family, routes);
                    count += 1;
                    // Those that are wanted are among the first of their table, and the main one is early.
                    count < MAX_ROUTES && routes.len() < MAX_DEFAULTS
                },
            );
            // Without IPv6 it has no routes.
            is_whole &= asked.unwrap_or(true);
        }
        Ok(is_whole)
    }
}

/// A network that changes as fast as it is read is shown as it was found.
const TRIES: usize = 4;

/// Of links, and of addresses.
const MAX: usize = 16 * 1024;

/// So many are looked at in each family: a router has a million.
const MAX_ROUTES: usize = 64 * 1024;
const MAX_DEFAULTS: usize = 256;

const V4: u8 = 2;
const V6: u8 = 10;

/// Of a struct ifinfomsg, a struct ifaddrmsg, a struct rtmsg, a struct rtnexthop.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;
const HOP: usize = 8;

/// Those of linux/if_link.h, linux/if_addr.h and linux/rtnetlink.h that are read here.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_CARRIER: u16 = 33;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

/// An InfiniBand address has 20 bytes.
const MAX_MAC: usize = 32;

/// Shows each attribute; the rest behind one whose length is wrong is none.
fn attributes<'a>(mut bytes: &'a [u8], each: &mut dyn FnMut(u16, &'a [u8])) {
    while let (Some(length), Some(kind)) = (half(bytes, 0), half(bytes, 2)) {
        let Some(value) = bytes.get(4..length.into()) else {
            return;
        };
        // Two bits say how to read it.
        each(kind & 0x3FFF, value);
        let next = usize::from(length).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(body, 4)?,
        flags: word(body, 8)?,
        carrier: true,
        ..Link::default()
    };
    attributes(body.get(LINK..)?, &mut |kind, value| match kind {
        IFLA_ADDRESS => link.mac = value.get(..MAX_MAC).unwrap_or(value).to_vec(),
        IFLA_IFNAME => link.name = OsString::from_vec(until_nul(value).to_vec()),
        IFLA_MTU => link.mtu = word(value, 0).unwrap_or(0),
        IFLA_LINK => link.below = word(value, 0).unwrap_or(0),
        IFLA_MASTER => link.master = word(value, 0).unwrap_or(0),
        IFLA_OPERSTATE => link.state = value.first().copied().unwrap_or(0),
        IFLA_CARRIER => link.carrier = value.first() != Some(&0),
        IFLA_LINKINFO => attributes(value, &mut |kind, value| {
            if kind == IFLA_INFO_KIND {
                link.kind = String::from_utf8_lossy(until_nul(value)).into_owned();
            }
        }),
        IFLA_STATS64 => {
            for (counter, bytes) in link.counters.iter_mut().zip(value.as_chunks().0) {
                *counter = u64::from_ne_bytes(*bytes);
            }
        }
        _ => {}
    });
    let is_one = link.index > 0 && !link.name.is_empty() && link.name.len() < 16;
    let has_slash = link.name.as_encoded_bytes().contains(&b'/');
    Some(link).filter(|_| is_one && !has_slash)
}

fn address(body: &[u8]) -> Option<Address> {
    let &[family, prefix, flags, scope, ..] = body else {
        return None;
    };
    let index = word(body, 4)?;
    let mut flags = u32::from(flags);
    let (mut own, mut other) = (None, None);
    attributes(body.get(ADDRESS..)?, &mut |kind, value| match kind {
        // Of a line between two, IFA_ADDRESS is the other end.
        IFA_LOCAL => own = ip(family, value),
        IFA_ADDRESS => other = ip(family, value),
        // The header has room for eight of them.
        IFA_FLAGS => flags = word(value, 0).unwrap_or(flags),
        _ => {}
    });
    let ip = own.or(other)?;
    Some(Address {
        index,
        ip,
        prefix: prefix.min(if ip.is_ipv4() { 32 } else { 128 }),
        scope,
        flags,
    })
}

/// Adds the route, once for each of its next hops, if it is a default one that packets take by themselves.
fn default_routes(body: &[u8], family: u8, routes: &mut Vec<Route>) {
    let &[of, prefix, _, _, table, _, _, kind, ..] = body else {
        return;
    };
    let (Some(flags), Some(rest)) = (word(body, 8), body.get(ROUTE..)) else {
        return;
    };
    let is_default = prefix == 0 && kind == libc::RTN_UNICAST;
    // A copy of a route, for one target.
    let is_clone = flags & 0x200 != 0;
    if of != family || !is_default || is_clone {
        return;
    }
    let mut table = u32::from(table);
    let mut hops: &[u8] = &[];
    let mut route = Route {
        is_v6: family == V6,
        gateway: None,
        index: 0,
        metric: 0,
        is_dead: flags & DEAD != 0,
    };
    attributes(rest, &mut |kind, value| match kind {
        RTA_TABLE => table = word(value, 0).unwrap_or(0),
        RTA_PRIORITY => route.metric = word(value, 0).unwrap_or(0),
        RTA_MULTIPATH => hops = value,
        kind => hop(&mut route, family, kind, value),
    });
    if table != u32::from(libc::RT_TABLE_MAIN) {
        return;
    }
    if hops.is_empty() {
        routes.push(route);
    }
    while let (Some(length), Some(index)) = (half(hops, 0), word(hops, 4)) {
        let Some(rest) = hops.get(HOP..length.into()) else {
            return;
        };
        let mut one = route;
        one.index = index;
        one.is_dead |= hops
            .get(2)
            .is_some_and(|flags| u32::from(*flags) & DEAD != 0);
        attributes(rest, &mut |kind, value| hop(&mut one, family, kind, value));
        routes.push(one);
        hops = hops
            .get(usize::from(length).next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

/// RTNH_F_DEAD of linux/rtnetlink.h.
const DEAD: u32 = 1;

fn hop(route: &mut Route, family: u8, kind: u16, value: &[u8]) {
    match kind {
        RTA_OIF => route.index = word(value, 0).unwrap_or(0),
        RTA_GATEWAY => route.gateway = ip(family, value),
        // Of the other family: an IPv4 route by an IPv6 gateway.
        RTA_VIA => {
            let family = half(value, 0).and_then(|of| u8::try_from(of).ok());
            let address = value.get(2..).unwrap_or_default();
            route.gateway = family.and_then(|family| ip(family, address));
        }
        _ => {}
    }
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        V4 => bytes.first_chunk::<4>().map(|v4| IpAddr::from(*v4)),
        V6 => bytes.first_chunk::<16>().map(|v6| IpAddr::from(*v6)),
        _ => None,
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn eth0() -> Vec<u8> {
        let mut body = vec![0; LINK];
        body[4..8].copy_from_slice(&7u32.to_ne_bytes());
        body[8..12].copy_from_slice(&0x41u32.to_ne_bytes());
        body.extend(attribute(IFLA_IFNAME, b"eth0\0"));
        body.extend(attribute(IFLA_ADDRESS, &[0x52, 0x54, 0, 1, 2, 3]));
        body.extend(attribute(IFLA_MTU, &1500u32.to_ne_bytes()));
        body.extend(attribute(IFLA_OPERSTATE, &[6]));
        body.extend(attribute(IFLA_MASTER, &9u32.to_ne_bytes()));
        let counters: Vec<u8> = (1..=24u64).flat_map(u64::to_ne_bytes).collect();
        body.extend(attribute(IFLA_STATS64, &counters));
        let kind = attribute(IFLA_INFO_KIND, b"veth\0");
        // With the bit for what has attributes in it.
        body.extend(attribute(IFLA_LINKINFO | 0x8000, &kind));
        body.extend(attribute(999, b"whatever"));
        body
    }

    #[test]
    fn a_link_is_read() {
        let link = link(&eth0()).unwrap();
        assert_eq!((link.index, link.mtu, link.master), (7, 1500, 9));
        assert_eq!((link.name.to_str(), &*link.kind), (Some("eth0"), "veth"));
        assert_eq!(link.mac, [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(link.counters, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((link.state, link.carrier), (6, true));
        assert!(link.is_up() && link.is_running() && !link.is_loopback());
    }

    #[test]
    fn an_address_is_ours_and_not_the_other_ends() {
        let mut body = vec![V4, 24, 0x80, 0, 2, 0, 0, 0];
        body.extend(attribute(IFA_ADDRESS, &[10, 0, 0, 1]));
        let plain = address(&body).unwrap();
        assert_eq!(plain.ip, IpAddr::from([10, 0, 0, 1]));
        assert!(plain.is_static() && plain.is_global());
        body.extend(attribute(IFA_LOCAL, &[10, 0, 0, 2]));
        body.extend(attribute(IFA_FLAGS, &0x0320u32.to_ne_bytes()));
        let found = address(&body).unwrap();
        assert_eq!(found.ip, IpAddr::from([10, 0, 0, 2]));
        assert_eq!((found.index, found.prefix, found.flags), (2, 24, 0x320));
        assert!(!found.is_static() && found.is_deprecated());
        body[1] = 200;
        assert_eq!(address(&body).unwrap().prefix, 32);
        // Half an address is none, nor is one of another family.
        assert_eq!(
            address(&[&body[..8], &attribute(IFA_LOCAL, &[10, 0])].concat()),
            None
        );
        body[0] = 7;
        assert_eq!(address(&body), None);
    }

    #[test]
    fn scopes_and_flags_tell_what_an_address_is_for() {
        let of = |ip: &str, scope, flags| Address {
            index: 1,
            ip: ip.parse().unwrap(),
            prefix: 24,
            scope,
            flags,
        };
        assert!(of("fd00::1", 0, 0).is_global());
        for (ip, scope) in [
            ("10.0.0.1", 253),
            ("10.0.0.1", 254),
            ("169.254.3.4", 0),
            ("fe80::1", 0),
            ("127.0.0.2", 0),
            ("0.0.0.0", 0),
        ] {
            assert!(!of(ip, scope, 0).is_global(), "{ip} {scope}");
        }
        // A second address of IPv4 has the bit of a temporary one of IPv6.
        assert!(!of("10.0.0.1", 0, 1).is_temporary());
        assert!(of("fd00::1", 0, 1).is_temporary());
        assert!(of("fd00::1", 0, 0x40).is_doubtful());
        assert!(!of("fd00::1", 0, 0x44).is_doubtful());
    }

    fn route(family: u8, prefix: u8, table: u8, kind: u8, rest: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![family, prefix, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
        body.extend(rest.concat());
        body
    }

    fn routes(bodies: &[Vec<u8>]) -> Vec<Route> {
        let mut routes = Vec::new();
        for body in bodies {
            default_routes(body, V4, &mut routes);
        }
        routes
    }

    #[test]
    fn default_routes_are_told_from_others() {
        let gateway = attribute(RTA_GATEWAY, &[10, 0, 0, 1]);
        let device = attribute(RTA_OIF, &3u32.to_ne_bytes());
        let metric = attribute(RTA_PRIORITY, &100u32.to_ne_bytes());
        let all = [gateway, device, metric];
        let found = routes(&[
            route(V4, 24, 254, 1, &all),
            route(V4, 0, 255, 1, &all),
            // Unreachable.
            route(V4, 0, 254, 7, &all),
            route(V6, 0, 254, 1, &all),
            route(
                V4,
                0,
                252,
                1,
                &[all.concat(), attribute(RTA_TABLE, &1000u32.to_ne_bytes())],
            ),
            route(V4, 0, 254, 1, &all),
        ]);
        let expected = Route {
            is_v6: false,
            gateway: Some(IpAddr::from([10, 0, 0, 1])),
            index: 3,
            metric: 100,
            is_dead: false,
        };
        assert_eq!(found, [expected]);
        // By a gateway of the other family.
        let mut via = 10u16.to_ne_bytes().to_vec();
        via.extend([0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let found = routes(&[route(V4, 0, 254, 1, &[attribute(RTA_VIA, &via)])]);
        assert_eq!(found[0].gateway, Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn a_route_of_several_hops_is_several_routes() {
        let hop = |index: u32, flags: u8, last: u8| {
            let gateway = attribute(RTA_GATEWAY, &[10, 0, 0, last]);
            let mut bytes = vec![16, 0, flags, 0];
            bytes.extend(index.to_ne_bytes());
            bytes.extend(gateway);
            bytes
        };
        let hops = attribute(RTA_MULTIPATH, &[hop(3, 0, 1), hop(4, 1, 2)].concat());
        let found = routes(&[route(V4, 0, 254, 1, &[hops])]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].index, found[1].index), (3, 4));
        assert!(!found[0].is_dead && found[1].is_dead);
        assert_eq!(found[1].gateway, Some(IpAddr::from([10, 0, 0, 2])));
        // A hop without a length would never end.
        let hops = attribute(RTA_MULTIPATH, &[0; 16]);
        assert!(routes(&[route(V4, 0, 254, 1, &[hops])]).is_empty());
    }

    #[test]
    fn names_that_no_link_can_have_are_none() {
        for name in [&b""[..], b"../../etc", b"a-name-that-is-too-long"] {
            let mut body = eth0();
            body.extend(attribute(IFLA_IFNAME, name));
            assert_eq!(link(&body), None, "{name:?}");
        }
        let mut body = eth0();
        body.extend(attribute(IFLA_IFNAME, b"eth\xff"));
        assert_eq!(link(&body).unwrap().name.len(), 4);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut seed = 1u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap()
        };
        let hops = attribute(RTA_MULTIPATH, &[8, 0, 0, 0, 1, 0, 0, 0]);
        let whole = [eth0(), route(V4, 0, 254, 1, &[hops])];
        for _ in 0..20_000 {
            for message in &whole {
                let mut bytes = message.clone();
                bytes.truncate(random() % (bytes.len() + 1));
                for _ in 0..random() % 4 {
                    if let Some(at) = random().checked_rem(bytes.len()) {
                        bytes[at] = u8::try_from(random() % 256).unwrap();
                    }
                }
                link(&bytes);
                address(&bytes);
                default_routes(&bytes, V4, &mut Vec::new());
            }
        }
    }

    #[test]
    fn the_loopback_interface_is_there() {
        let network = Network::read().unwrap();
        let lo = network
            .links
            .iter()
            .find(|link| link.is_loopback())
            .unwrap();
        assert!(lo.mtu > 0 && lo.index > 0);
        if lo.is_up() {
            let local = |a: &&Address| a.index == lo.index && a.ip == IpAddr::from([127, 0, 0, 1]);
            let local = network.addresses.iter().find(local).unwrap();
            assert_eq!((local.prefix, local.scope), (8, 254));
        }
    }
}
