//! Sockets to the kernel (netlink(7)): what it tells by itself of devices and of the network, and lists that it
//! gives when asked (rtnetlink(7)). The messages' envelope; what is in them is their readers' business.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use super::check;

/// A socket on which the kernel tells of changes.
#[derive(Debug)]
pub struct Listener {
    file: File,
    concerns: fn(&[u8]) -> bool,
}

impl Listener {
    /// Device events, for guests without udev: virtio ports that come, change or go.
    ///
    /// # Errors
    /// EPERM in a container without its own network namespace's rights.
    pub fn ports() -> io::Result<Self> {
        // The kernel's multicast group; group 2 is udev's.
        let file = open(libc::NETLINK_KOBJECT_UEVENT, 1)?;
        let concerns = is_about_ports;
        Ok(Self { file, concerns })
    }

    /// Links, addresses and routes.
    ///
    /// # Errors
    /// As socket(2).
    pub fn network() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        let file = open(libc::NETLINK_ROUTE, groups.cast_unsigned())?;
        let concerns = |_: &[u8]| true;
        Ok(Self { file, concerns })
    }

    /// Reads all that was told so far. True: some of it concerns us, or was lost.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let mut concerned = false;
        loop {
            match self.file.read(&mut buffer) {
                Ok(n) => concerned |= (self.concerns)(buffer.get(..n).unwrap_or_default()),
                // ENOBUFS: the queue overflowed, so what was lost may concern us.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => concerned = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return concerned,
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// An event is `add@/devices/...` and NUL-ended `KEY=value` lines.
fn is_about_ports(event: &[u8]) -> bool {
    event
        .split(|b| *b == 0)
        .any(|line| line == b"SUBSYSTEM=virtio-ports")
}

/// A socket of this protocol that hears these multicast groups.
pub(super) fn open(protocol: i32, groups: u32) -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket touches no memory of ours.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    if groups != 0 {
        // SAFETY: sockaddr_nl is plain integers, for which zero is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or(0);
        address.nl_groups = groups;
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or(0);
        // SAFETY: `address` has `size` bytes and lives for the length of the call.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
    }
    Ok(file)
}

/// Of linux/netlink.h: NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_ERROR, NLMSG_DONE.
pub(super) const REQUEST: u16 = 1;
pub(super) const DUMP: u16 = 0x300;
const INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// A struct nlmsghdr.
const HEADER: usize = 16;

/// Asks for a list of rtnetlink(7) and shows the body of each message of this kind, until `each` has enough.
/// False: the list changed while it was made, and may lack something. The kernel answers while it is asked or
/// read, so that nothing has to be waited for but its lock.
///
/// # Errors
/// The kernel does not answer, or not what it should.
pub fn dump(
    request: u16,
    kind: u16,
    family: u8,
    each: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    let mut netlink = open(libc::NETLINK_ROUTE, 0)?;
    // The header, and room for the largest of ifinfomsg, ifaddrmsg and rtmsg, of which only the family counts.
    let mut bytes = [0; 32];
    let flags = REQUEST | DUMP;
    for (at, half) in [(0, 32), (4, request), (6, flags), (16, family.into())] {
        if let Some(place) = bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&u16::to_ne_bytes(half));
        }
    }
    netlink.write_all(&bytes)?;
    // The kernel's messages are no longer than that.
    let mut buffer = vec![0; 32 * 1024];
    let mut is_whole = true;
    loop {
        let have = netlink.read(&mut buffer)?;
        let mut rest = buffer.get(..have).unwrap_or_default();
        if rest.is_empty() {
            return Err(odd());
        }
        while !rest.is_empty() {
            let found = message(rest)?;
            is_whole &= found.flags & INTERRUPTED == 0;
            match found.kind {
                DONE => return Ok(is_whole),
                ERROR => {
                    let errno = word(found.body, 0)?.cast_signed().saturating_neg();
                    return Err(io::Error::from_raw_os_error(errno));
                }
                found_kind if found_kind == kind && !each(found.body) => return Ok(is_whole),
                _ => {}
            }
            rest = found.rest;
        }
    }
}

/// One netlink message, and what is behind it.
pub(super) struct Message<'a> {
    pub kind: u16,
    flags: u16,
    pub body: &'a [u8],
    pub rest: &'a [u8],
}

pub(super) fn message(bytes: &[u8]) -> io::Result<Message<'_>> {
    let length = usize::try_from(word(bytes, 0)?).map_err(|_| odd())?;
    let body = bytes.get(HEADER..length).ok_or_else(odd)?;
    Ok(Message {
        kind: half(bytes, 4)?,
        flags: half(bytes, 6)?,
        body,
        // Messages are padded to 4 bytes; the last one need not be.
        rest: bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    })
}

pub(super) fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..at + 4).ok_or_else(odd)?;
    Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| odd())?))
}

pub(super) fn half(bytes: &[u8], at: usize) -> io::Result<u16> {
    let bytes = bytes.get(at..at + 2).ok_or_else(odd)?;
    Ok(u16::from_ne_bytes(bytes.try_into().map_err(|_| odd())?))
}

pub(super) fn odd() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_virtio_ports_concern_us() {
        let event = b"add@/devices/pci0000:00/virtio0/virtio-ports/vport0p1\0ACTION=add\0\
            SUBSYSTEM=virtio-ports\0SEQNUM=1\0";
        assert!(is_about_ports(event));
        assert!(!is_about_ports(b"add@/x\0SUBSYSTEM=block\0"));
        assert!(!is_about_ports(b""));
    }

    #[test]
    fn a_message_is_no_longer_than_what_has_come() {
        assert!(message(&[]).is_err());
        assert!(message(&[0; 36]).is_err());
        let mut bytes = [0; 20];
        bytes[0] = 17;
        assert_eq!(message(&bytes).unwrap().body.len(), 1);
        assert!(message(&bytes).unwrap().rest.is_empty());
        bytes[0] = 21;
        assert!(message(&bytes).is_err());
        bytes[..4].fill(0xFF);
        assert!(message(&bytes).is_err());
    }

    #[test]
    fn the_kernel_says_what_is_wrong() {
        // RTM_NEWLINK takes no list.
        let refused = dump(16, 16, 0, &mut |_| true);
        assert!(refused.is_err(), "{refused:?}");
        let mut seen = 0;
        let whole = dump(libc::RTM_GETLINK, libc::RTM_NEWLINK, 0, &mut |_| {
            seen += 1;
            false
        });
        assert!(whole.is_ok());
        assert_eq!(seen, 1);
    }
}
