//! Unix sockets: who is at the other end, and how many may wait for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;

use super::check;

/// The process at the other end when the connection was made (SO_PEERCRED, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 0 where it lives in another pid namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Asks who is at the other end.
///
/// # Errors
/// As getsockopt(2).
pub fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: `found` has `size` bytes and both live for the length of the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut size,
        )
    })?;
    Ok(Peer {
        pid: found.pid,
        uid: found.uid,
        gid: found.gid,
    })
}

/// Most groups that a process can have (NGROUPS_MAX of limits.h).
const MAX_GROUPS: usize = 65536;

/// The supplementary groups of the process at the other end when the connection was made (SO_PEERGROUPS, kernel 4.13).
///
/// # Errors
/// As getsockopt(2); ENOPROTOOPT: this kernel does not know them.
pub fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let bytes = groups.len() * size_of::<libc::gid_t>();
        let mut size = libc::socklen_t::try_from(bytes).unwrap_or(0);
        // SAFETY: `groups` has `size` bytes and both live for the length of the call.
        let done = check(unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        });
        let count = usize::try_from(size).unwrap_or(0) / size_of::<libc::gid_t>();
        match done {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // It says how much room it wants.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && groups.len() < MAX_GROUPS => {
                groups.resize(count.max(groups.len() * 2), 0);
            }
            Err(e) => return Err(e),
        }
    }
}

/// How many connections may wait to be accepted beside the first (listen(2), which can be called
/// again). QEMU has 1.
///
/// # Errors
/// As listen(2).
pub fn set_backlog(listener: &UnixListener, waiting: u8) -> io::Result<()> {
    // SAFETY: listen reads and writes no memory.
    check(unsafe { libc::listen(listener.as_raw_fd(), waiting.into()) })?;
    Ok(())
}
