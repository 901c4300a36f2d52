//! Descriptors, which are what the daemon runs short of first: one for each VM, one for its monitor, one for each
//! client. VMs leave some to clients and to the daemon itself; a VM that has none waits, and those that
//! have keep theirs.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use quantix::rt::sys::fd;

/// Left to clients, and to looks into /proc.
const RESERVE: u64 = 64;

/// Why a VM is not connected to.
pub const NO_DESCRIPTOR: &str =
    "the daemon has no file descriptor left: raise LimitNOFILE of its unit, or ulimit -n";

/// Connects, and registers for both directions.
///
/// # Errors
/// As connect(2) and epoll_ctl(2); EMFILE while what is left is for clients.
pub fn connect(path: &Path, token: Token, registry: &Registry) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    // The kernel gives the lowest that is free.
    let number = u64::try_from(stream.as_raw_fd()).unwrap_or(u64::MAX);
    if number >= fd::limit()?.saturating_sub(RESERVE) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}

/// The error is that there are no descriptors left, for us or for all.
pub fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
