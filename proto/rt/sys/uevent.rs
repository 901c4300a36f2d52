//! The kernel's own device events (netlink(7), NETLINK_KOBJECT_UEVENT), for guests without udev.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use super::check;

/// A socket on which the kernel tells of every device that comes, changes or goes.
#[derive(Debug)]
pub struct Uevents {
    file: File,
}

/// The kernel's multicast group; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

impl Uevents {
    /// Listens from now on.
    ///
    /// # Errors
    /// EPERM in a container without its own network namespace's rights.
    pub fn new() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket touches no memory of ours.
        let fd =
            check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
        // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl is plain integers, for which zero is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or(0);
        address.nl_groups = KERNEL_GROUP;
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or(0);
        // SAFETY: `address` has `size` bytes and lives for the length of the call.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
        Ok(Self { file })
    }

    /// Reads all events so far. True: one was about a virtio port, or some were lost.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let mut concerned = false;
        loop {
            match self.file.read(&mut buffer) {
                Ok(n) => concerned |= is_about_ports(&buffer[..n]),
                // ENOBUFS: the queue overflowed, so what was lost may concern us.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => concerned = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return concerned,
            }
        }
    }
}

impl AsRawFd for Uevents {
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

#[cfg(test)]
mod tests {
    use super::is_about_ports;

    #[test]
    fn only_virtio_ports_concern_us() {
        let event = b"add@/devices/pci0000:00/virtio0/virtio-ports/vport0p1\0ACTION=add\0\
            SUBSYSTEM=virtio-ports\0SEQNUM=1\0";
        assert!(is_about_ports(event));
        assert!(!is_about_ports(b"add@/x\0SUBSYSTEM=block\0"));
        assert!(!is_about_ports(b""));
    }
}
