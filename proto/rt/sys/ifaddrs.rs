//! getifaddrs(3): the network interfaces and their addresses, in one pass.
//!
//! The C library asks the kernel over rtnetlink(7); no name service is involved, so it works in a
//! static program. It can wait for the kernel's RTNL lock, never for a disk.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::iter::FusedIterator;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// One line of the list: an interface as such, or one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name, at most 15 bytes; for an IPv4 address its label, which may be
    /// `name:label`.
    pub name: OsString,
    /// The interface's state, the same in each of its lines.
    pub flags: Flags,
    /// An address and its prefix length (at most 32 or 128). None in the line for the interface
    /// itself, which comes before those for its addresses.
    pub address: Option<(IpAddr, u8)>,
}

/// `IFF_*` of netdevice(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Switched on by the administrator.
    pub fn is_up(self) -> bool {
        self.0 & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Ready to pass packets, as far as the driver says.
    pub fn is_running(self) -> bool {
        self.0 & libc::IFF_RUNNING.cast_unsigned() != 0
    }

    /// `lo`, whatever its name.
    pub fn is_loopback(self) -> bool {
        self.0 & libc::IFF_LOOPBACK.cast_unsigned() != 0
    }
}

/// Asks for all interfaces of this network namespace and their addresses.
///
/// Errors: those of getifaddrs(3), which are those of a netlink socket.
pub fn interface_addresses() -> io::Result<InterfaceAddresses> {
    let mut head = ptr::null_mut();
    // SAFETY: `head` is a pointer of ours that the call may write.
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(InterfaceAddresses { head, next: head })
}

/// The list that getifaddrs(3) allocated; freed when this is dropped.
///
/// Invariant: `head` came from getifaddrs(3) and is freed by `drop` alone; `next` is null or a
/// node of that list. Nothing writes to the list.
#[derive(Debug)]
pub struct InterfaceAddresses {
    head: *mut libc::ifaddrs,
    next: *const libc::ifaddrs,
}

impl Iterator for InterfaceAddresses {
    type Item = InterfaceAddress;

    fn next(&mut self) -> Option<InterfaceAddress> {
        // SAFETY: null or a node of the list, which lives as long as `self` and is not written.
        let node = unsafe { self.next.as_ref() }?;
        self.next = node.ifa_next;
        // SAFETY: getifaddrs(3) gives each node a name that ends in a NUL and lives as the list.
        let name = unsafe { CStr::from_ptr(node.ifa_name) };
        // SAFETY: both are null or point to the socket addresses of this node.
        let (address, mask) = unsafe { (ip(node.ifa_addr), ip(node.ifa_netmask)) };
        Some(InterfaceAddress {
            name: OsStr::from_bytes(name.to_bytes()).to_owned(),
            flags: Flags(node.ifa_flags),
            address: address.map(|address| (address, prefix(address, mask))),
        })
    }
}

impl FusedIterator for InterfaceAddresses {}

impl Drop for InterfaceAddresses {
    fn drop(&mut self) {
        // SAFETY: by the invariant `head` is from getifaddrs(3) and not yet freed; what the
        // iterator gave out owns its bytes.
        unsafe { libc::freeifaddrs(self.head) };
    }
}

/// The IP address in `socket`, if that is what it holds.
///
/// # Safety
/// `socket` is null, or points to a socket address that is as long as its family demands.
unsafe fn ip(socket: *const libc::sockaddr) -> Option<IpAddr> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, so by the contract at least a family; `read_unaligned` needs no alignment.
    let family = unsafe { (&raw const (*socket).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: by the contract AF_INET means a whole sockaddr_in; alignment is not needed.
            let v4 = unsafe { socket.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: by the contract AF_INET6 means a whole sockaddr_in6; alignment is not needed.
            let v6 = unsafe { socket.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The leading ones of the mask; all of the address where there is no mask of its family.
fn prefix(address: IpAddr, mask: Option<IpAddr>) -> u8 {
    let (ones, whole) = match (address, mask) {
        (IpAddr::V4(_), Some(IpAddr::V4(mask))) => (mask.to_bits().leading_ones(), 32),
        (IpAddr::V6(_), Some(IpAddr::V6(mask))) => (mask.to_bits().leading_ones(), 128),
        (IpAddr::V4(_), _) => (32, 32),
        (IpAddr::V6(_), _) => (128, 128),
    };
    u8::try_from(ones).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let lines: Vec<_> = interface_addresses().unwrap().collect();
        let lo: Vec<_> = lines
            .iter()
            .filter(|line| line.flags.is_loopback())
            .collect();
        assert!(
            lo.iter()
                .any(|line| line.name == "lo" && line.address.is_none())
        );
        if lo.iter().any(|line| line.flags.is_up()) {
            let localhost = Some((IpAddr::from([127, 0, 0, 1]), 8));
            assert!(lo.iter().any(|line| line.address == localhost));
        }
    }

    #[test]
    fn dropping_early_and_reading_past_the_end() {
        let mut lines = interface_addresses().unwrap();
        assert!(lines.next().is_some());
        drop(lines);
        let mut lines = interface_addresses().unwrap();
        lines.by_ref().for_each(drop);
        assert!(lines.next().is_none());
    }

    #[test]
    fn prefix_of_odd_masks() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6: IpAddr = "fe80::1".parse().unwrap();
        assert_eq!(prefix(v4, Some(IpAddr::from([255, 255, 240, 0]))), 20);
        assert_eq!(prefix(v4, Some(IpAddr::from([0, 0, 0, 0]))), 0);
        assert_eq!(prefix(v4, Some(IpAddr::from([255, 0, 255, 0]))), 8);
        assert_eq!(prefix(v4, None), 32);
        assert_eq!(prefix(v4, Some(v6)), 32);
        assert_eq!(
            prefix(v6, Some("ffff:ffff:ffff:ffff::".parse().unwrap())),
            64
        );
        assert_eq!(prefix(v6, None), 128);
    }

    #[test]
    fn only_ip_families_are_addresses() {
        // SAFETY: zero bytes are a valid sockaddr_in6.
        let mut socket: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        socket.sin6_family = 17; // AF_PACKET
        // SAFETY: longer than any family that is read.
        assert_eq!(unsafe { ip((&raw const socket).cast()) }, None);
        socket.sin6_family = 10;
        socket.sin6_addr.s6_addr[15] = 1;
        // SAFETY: a whole sockaddr_in6.
        let address = unsafe { ip((&raw const socket).cast()) };
        assert_eq!(address, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        // SAFETY: null is allowed.
        assert_eq!(unsafe { ip(ptr::null()) }, None);
    }
}
